"""Our training step beside PEFT's on one NVIDIA GPU: `python -m benchmarks.gpu`.

Gemma 3 1B and 4B with random weights, LoRA on query and value, packed rows of 2,048 and 8,192
tokens (8,192 a step), bfloat16. Needs no network, no TensorFlow, no Keras and no data.

    check               is what will be timed right? (losses, fused attention; see gpu_check)
    CELL/ours-fused     fused attention, projections kept: the defaults where one GPU has the room
    CELL/ours-lean      fused attention, blocks computed again: the one that needs little memory
    CELL/ours-dense     dense attention, blocks computed again
    CELL/peft           PEFT with torch, sdpa
    CELL/peft-lean      the same with gradient checkpointing
    generation          the engine with 270M: tokens a second at 1 and 16 slots, and prefill

Each arm is a process of its own with a limit, and imports while the one before it works. Arms run
in the order of what they are worth, as far as --budget_s goes; --log gets a line of JSON after
each of them, so that what was measured outlives whatever comes next. An arm that fails is a row
that says why. MFU counts the products that a LoRA step owes (gpu_cells.needed_flops), not those
that a program computes again; where fused attention is not right, it is not timed.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks.gpu_cells import Cell, rates
from coderllm_jax.training.devices import rated_flops

_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_LOG = flags.DEFINE_string(
    "log", "", "Append a line of JSON to this file after each arm.", allow_override=True
)
_REPORT = flags.DEFINE_string(
    "report", "", "Also write a dated report (Markdown) to this file.", allow_override=True
)
_ARMS = flags.DEFINE_list(
    "arms", [], "Only these arms or cells, such as 4b-2048 (default: all).", allow_override=True
)
_QUICK = flags.DEFINE_bool(
    "quick", False, "Walk through every arm on a tiny model: no figures.", allow_override=True
)
_PLATFORM = flags.DEFINE_enum(
    "platform", "gpu", ["gpu", "cpu"], "Where; cpu only with --quick.", allow_override=True
)
_BUDGET_S = flags.DEFINE_float(
    "budget_s", 1e9, "Seconds after which no arm is begun.", allow_override=True
)
_STEPS = flags.DEFINE_integer(
    "steps", 10, "Timed steps of each arm, at most.", lower_bound=1, allow_override=True
)
_RANK = flags.DEFINE_integer("rank", 16, "The adapters' rank.", lower_bound=1, allow_override=True)

# Steps of an arm that turns out slow end here; three or so are timed at least.
_STEPPING_S = 12.0
# What an arm is not begun without: less and it would be cut for nothing.
LEAST_S = 20.0
# Characters of a failed arm's output that go to the log.
_LAST_WORDS = 3000


class Arm(NamedTuple):
    """One program on one cell. `needs_fused`: it is left out where fused attention is wrong."""

    name: str
    cell: Cell
    title: str
    module: str
    options: dict[str, Any]
    limit_s: float = 150.0
    needs_fused: bool = False


_WAYS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "ours-fused": (
        "ours, fused (defaults)",
        "gpu_ours",
        {"attention": "fused", "remat": "projections"},
    ),
    "ours-lean": ("ours, fused, lean", "gpu_ours", {"attention": "fused", "remat": "block"}),
    "ours-nf4": (
        "ours, fused, nf4 base",
        "gpu_ours",
        {"attention": "fused", "remat": "projections", "base": "nf4"},
    ),
    "ours-dense": ("ours, dense", "gpu_ours", {"attention": "dense", "remat": "block"}),
    "peft": ("PEFT", "gpu_peft", {"attention": "sdpa", "checkpointing": False}),
    "peft-lean": ("PEFT, checkpointing", "gpu_peft", {"attention": "sdpa", "checkpointing": True}),
}
CELLS = {
    cell.name: cell
    for cell in (Cell("4b", 4, 2048), Cell("4b", 1, 8192), Cell("1b", 4, 2048), Cell("1b", 1, 8192))
}
# What is most worth knowing comes first.
_ORDER = (
    "4b-2048/ours-fused",
    "4b-2048/peft",
    "4b-8192/ours-fused",
    "4b-8192/peft-lean",
    "4b-2048/peft-lean",
    "1b-2048/ours-fused",
    "1b-2048/peft",
    "generation",
    "4b-2048/ours-nf4",
    "4b-2048/ours-dense",
    "4b-8192/peft",
    "4b-2048/ours-lean",
    "1b-8192/ours-fused",
    "1b-8192/peft",
    "4b-8192/ours-lean",
    "1b-8192/peft-lean",
    "4b-8192/ours-dense",
    "1b-2048/peft-lean",
    "1b-2048/ours-dense",
    "1b-8192/ours-dense",
    "1b-2048/ours-lean",
    "1b-8192/ours-lean",
    "4b-8192/ours-nf4",
    "1b-2048/ours-nf4",
    "1b-8192/ours-nf4",
)


def all_arms(*, quick: bool) -> list[Arm]:
    """Every arm in the order it runs in."""
    cells = {name: Cell("small", 2, 128) for name in CELLS} if quick else CELLS
    checked = [Cell("small", 2, 128)] if quick else [Cell("4b", 1, 2048), Cell("4b", 1, 8192)]
    small = Cell("small" if quick else "270m", 1, 256)
    size, slots, tokens = (256, [1, 2], 8) if quick else (8192, [1, 16], 128)
    check = {"attention": checked, "matrix": size}
    generation = {"slots": slots, "prompt": tokens, "answer": tokens}
    arms = [Arm("check", small, "check", "gpu_check", check, limit_s=200.0)]
    for name in _ORDER:
        if name == "generation":
            arms.append(Arm(name, small, "generation", "gpu_generation", generation))
            continue
        cell, way = name.split("/")
        title, module, options = _WAYS[way]
        is_fused = options.get("attention") == "fused"
        arms.append(Arm(name, cells[cell], title, module, options, needs_fused=is_fused))
    # One cell walks the same lines as four.
    return [arm for arm in arms if not quick or arm.name.partition("-")[0] != "1b"]


# --- running ------------------------------------------------------------------------------------


class Started(NamedTuple):
    """An arm's process, which imports and waits."""

    arm: Arm
    process: subprocess.Popen
    output: Path
    errors: Path


def start(arm: Arm, folder: Path) -> Started:
    """Starts the arm's process, which waits for `finish` or `drop`."""
    stem = arm.name.replace("/", "_")
    output, errors = folder / f"{stem}.json", folder / f"{stem}.err"
    job = {
        "cell": arm.cell,
        "options": arm.options,
        "platform": _PLATFORM.value,
        "rank": _RANK.value,
        "steps": 2 if _QUICK.value else _STEPS.value,
        "seconds": _STEPPING_S,
        "output": str(output),
    }
    # What XLA finds out about a product's fastest kernel serves the arms after it as well.
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{arm.module}", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=environment,
            text=True,
        )
    return Started(arm, process, output, errors)


def finish(
    started: Started, *, limit_s: float, orders: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Lets the process go and waits for its result; {"error": …} where there is none.

    Of an arm that is cut short, what it has written so far counts. orders: see `run_arm`.
    """
    process = started.process
    try:
        process.communicate(json.dumps(orders or {}) + "\n", timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        if started.output.exists():
            return json.loads(started.output.read_text())
        errors = started.errors.read_text(errors="replace")
        return {"error": f"not done after {limit_s:.0f} s", "last_words": errors[-_LAST_WORDS:]}
    if process.returncode == 0 and started.output.exists():
        return json.loads(started.output.read_text())
    errors = started.errors.read_text(errors="replace")
    return {"error": why(errors, process.returncode), "last_words": errors[-_LAST_WORDS:]}


def why(errors: str, code: int) -> str:
    """Why a process failed, in a line, from what it wrote."""
    if any(mark in errors for mark in ("RESOURCE_EXHAUSTED", "OutOfMemoryError")):
        return "out of memory"
    lines = [line.strip() for line in errors.strip().splitlines() if "Error" in line]
    if lines:
        return lines[-1][:300]
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def measure_all(arms: Sequence[Arm], folder: Path, *, begin: float) -> dict[str, dict[str, Any]]:
    """Runs the arms one after another; the result of each by its name."""
    found: dict[str, dict[str, Any]] = {}
    waiting: Started | None = None
    for i, arm in enumerate(arms):
        reason = _left_out(arm, found, begin=begin)
        if reason:
            found[arm.name] = {"error": reason}
            if waiting:
                drop(waiting)
                waiting = None
        else:
            started = waiting or start(arm, folder)
            waiting = start(arms[i + 1], folder) if i + 1 < len(arms) else None
            left_s = _BUDGET_S.value - (time.perf_counter() - begin)
            before = time.perf_counter()
            result = finish(started, limit_s=min(arm.limit_s, left_s))
            found[arm.name] = result | {"wall_s": time.perf_counter() - before}
        print(f"{arm.name}: {in_short(found[arm.name])}", flush=True)
        if _LOG.value:
            with Path(_LOG.value).open("a") as stream:
                stream.write(json.dumps({"arm": arm.name, **found[arm.name]}) + "\n")
    return found


def _left_out(arm: Arm, found: Mapping[str, dict[str, Any]], *, begin: float) -> str:
    """Why the arm is not begun; empty where it is."""
    if _BUDGET_S.value - (time.perf_counter() - begin) < LEAST_S:
        return "not reached: the time was used up"
    if arm.needs_fused and "check" in found and not fused_is_right(found["check"]):
        return "fused attention is not right on this device (see check)"
    return ""


def drop(started: Started) -> None:
    """Ends a process that only waits: its input ends without the word."""
    assert started.process.stdin is not None
    started.process.stdin.close()
    started.process.wait()


def fused_is_right(check: Mapping[str, Any]) -> bool:
    """Whether the check arm found fused attention as near to float32 as its tolerance asks."""
    attention = check.get("attention", {})
    return bool(attention) and all(cell.get("fused", {}).get("ok") for cell in attention.values())


def in_short(result: Mapping[str, Any]) -> str:
    """A result as its line on the terminal."""
    if "error" in result:
        return str(result["error"])
    if "step_s" in result:
        return (
            f"{result['step_s'] * 1e3:.1f} ms a step, compiled in {result['compile_s']:.0f} s, "
            f"{result['wall_s']:.0f} s in all"
        )
    return f"done in {result['wall_s']:.0f} s"


# --- what comes out -----------------------------------------------------------------------------


class Ratio(NamedTuple):
    """One comparison. `at_least` and `at_most` are its goal, where it has one."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """The goal and whether it is met; empty without one."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}: {self._word(self.value >= self.at_least)}"
        if self.at_most is not None:
            return f"at most {self.at_most:g}: {self._word(self.value <= self.at_most)}"
        return ""

    @staticmethod
    def _word(is_met: bool) -> str:
        return "met" if is_met else "missed"


def compare(found: Mapping[str, Mapping[str, Any]], *, device: str) -> list[Ratio]:
    """Ours beside PEFT, cell by cell, as far as both were measured."""
    ratios: list[Ratio] = []
    for name, cell in CELLS.items():

        def timed(way: str, name: str = name) -> Mapping[str, Any]:
            return found.get(f"{name}/{way}", {})

        ours = min(
            (run for way in ("ours-fused", "ours-dense") if (run := timed(way)).get("step_s")),
            key=lambda run: run["step_s"],
            default=None,
        )
        peers = [run for way in ("peft", "peft-lean") if (run := timed(way)).get("step_s")]
        if ours:
            mfu = rates(ours, cell, device=device)["mfu"]
            if mfu is not None:
                goal = 0.5 if cell.model == "4b" else None
                ratios.append(Ratio(f"{cell.title}: MFU", mfu, at_least=goal))
        if ours and peers:
            fastest = min(run["step_s"] for run in peers)
            speed = fastest / ours["step_s"]
            ratios.append(Ratio(f"{cell.title}: speed, ours / PEFT's faster", speed, at_least=2.0))
        for mine, theirs in (("ours-fused", "peft"), ("ours-lean", "peft-lean")):
            peaks = timed(mine).get("peak_bytes"), timed(theirs).get("peak_bytes")
            if all(peaks):
                title = f"{cell.title}: peak memory, {mine} / {theirs}"
                ratios.append(Ratio(title, peaks[0] / peaks[1], at_most=0.6))
    return ratios


def table(arms: Sequence[Arm], found: Mapping[str, Mapping[str, Any]], *, device: str) -> str:
    """The training arms for people, cell by cell."""
    head = (
        f"{'':<34}{'ms/step':>9}{'tokens/s':>10}{'supervised/s':>14}{'MFU %':>7}{'peak GB':>9}"
        f"{'compile s':>11}{'first loss':>12}"
    )
    lines = [head, "-" * len(head)]
    timed = sorted(
        (arm for arm in arms if arm.module in ("gpu_ours", "gpu_peft") and arm.name in found),
        key=lambda arm: (
            list(CELLS).index(arm.name.partition("/")[0]),
            list(_WAYS).index(_way(arm)),
        ),
    )
    cell = None
    for arm in timed:
        if arm.cell != cell:
            lines.append(arm.cell.title)
            cell = arm.cell
        run = found[arm.name]
        if "step_s" not in run:
            lines.append(f"  {arm.title:<32}  not measured: {run['error']}")
            continue
        rate = rates(run, arm.cell, device=device)
        mfu = f"{100 * rate['mfu']:.1f}" if rate["mfu"] is not None else "-"
        peak = f"{run['peak_bytes'] / 1e9:.1f}" if run["peak_bytes"] else "-"
        lines.append(
            f"  {arm.title:<32}{run['step_s'] * 1e3:>9.1f}{rate['tokens_per_s']:>10.0f}"
            f"{rate['supervised_tokens_per_s']:>14.0f}{mfu:>7}{peak:>9}"
            f"{run['compile_s']:>11.0f}{run['first_loss']:>12.3f}"
        )
    return "\n".join(lines)


def _way(arm: Arm) -> str:
    return arm.name.partition("/")[2]


def check_lines(check: Mapping[str, Any]) -> list[str]:
    """What the check arm found, a line each."""
    if "error" in check:
        return [f"check: {check['error']}"]
    devices = check["devices"]
    training = check.get("training", {"error": "not reached"})
    lines = [f"bfloat16 matrix product: {devices['matrix_flops_per_s'] / 1e12:.0f} TFLOP/s"]
    if "error" in training:
        lines.append(f"tiny, five steps: {training['error']}")
    else:
        lines.append(
            f"tiny, five steps: loss {training['losses'][0]:.3f} to {training['losses'][-1]:.3f}; "
            f"float32 here and on the CPU {training['apart']:.1e} apart: "
            f"{'right' if training['ok'] else 'WRONG'}"
        )
    for name, ways in check["attention"].items():
        if "error" in ways:
            lines.append(f"attention {name}: {ways['error']}")
            continue
        for way, entry in ways.items():
            parts = [
                f"{kind} {each['seconds'] * 1e3:.2f} ms, error {max(each['errors']):.1e}"
                if "errors" in each
                else f"{kind} {each['error'][:120]}"
                for kind, each in entry.items()
                if kind != "ok"
            ]
            lines.append(f"attention {name}, {way}: {'; '.join(parts)}")
    return lines


def generation_lines(generation: Mapping[str, Any]) -> list[str]:
    """What the generation arm found, a line each."""
    if "error" in generation:
        return [f"generation: not measured: {generation['error']}"]
    return [
        f"generation, 270M, prefill of 512: {generation['prefill_tokens_per_s']:.0f} tokens/s",
        *(
            f"generation, 270M, {slots} slot(s): {rate['tokens_per_s']:.0f} tokens/s"
            for slots, rate in generation["decode"].items()
        ),
    ]


def summary(arms: Sequence[Arm], found: Mapping[str, Mapping[str, Any]], *, device: str) -> str:
    """Everything, as it is printed and reported."""
    title = "not measured here: a walk through every arm on a tiny model\n\n"
    parts = [(title if _QUICK.value else "") + table(arms, found, device=device)]
    ratios = [
        f"{ratio.name:<66}{ratio.value:>6.2f}   {ratio.verdict}".rstrip()
        for ratio in compare(found, device=device)
    ]
    if ratios and not _QUICK.value:
        parts.append("\n".join(ratios))
    others = [
        *(check_lines(found["check"]) if "check" in found else []),
        *(generation_lines(found["generation"]) if "generation" in found else []),
    ]
    if others:
        parts.append("\n".join(others))
    return "\n\n".join(parts)


def report(text: str, conditions: Mapping[str, Any]) -> str:
    """The page: when, on what, and the figures."""
    peak = rated_flops(conditions["device"])
    over = f"over {peak / 1e12:.0f} TFLOP/s" if peak else "over a peak that is not known here"
    return (
        "# Training on a GPU\n\n"
        f"`python -m benchmarks.gpu` on {conditions['date']}: {conditions['device']}, driver "
        f"{conditions['driver']}, jax {conditions['jax']}, torch {conditions['torch']}. LoRA rank "
        f"{conditions['rank']} on query and value, bfloat16, random weights, packed rows of "
        "random examples (64 to 1,024 tokens, half of them supervised). Each arm in a process of "
        "its own; median step. MFU: 4 FLOPs for each weight and token (head: supervised token) "
        f"{over}; nothing recomputed is counted. Peak memory: the allocator's own "
        f"figure.\n\n```\n{text}\n```\n"
    )


def _device() -> tuple[str, str]:
    """(name, driver) of the GPU as nvidia-smi tells them."""
    if _PLATFORM.value == "cpu":
        return "cpu", "none"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(
            f"error: nvidia-smi finds no GPU ({error}); expected one NVIDIA GPU; without one, "
            "--quick --platform=cpu walks through the arms"
        ) from None
    name, driver = done.stdout.splitlines()[0].split(",")
    return name.strip(), driver.strip()


def chosen(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """The arms that are named, by themselves or by their cell; all where none is."""
    known = {name for arm in arms for name in (arm.name, arm.name.partition("/")[0])}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise app.UsageError(
            f"--arms names {unknown[0]!r}; expected some of {', '.join(sorted(known))}"
        )
    wanted = set(names)
    return [arm for arm in arms if not wanted or wanted & {arm.name, arm.name.partition("/")[0]}]


def main(argv: list[str]) -> None:
    """Measures every arm, prints and writes what came out."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if _PLATFORM.value == "cpu" and not _QUICK.value:
        raise app.UsageError("--platform=cpu measures nothing; add --quick")
    arms = chosen(all_arms(quick=_QUICK.value), _ARMS.value)
    device, driver = _device()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = measure_all(arms, Path(name), begin=begin)
    peft = next((run for run in found.values() if "torch" in run.get("notes", {})), {})
    conditions = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "device": device,
        "driver": driver,
        "jax": found.get("check", {}).get("devices", {}).get("jax", "unknown"),
        "torch": peft.get("notes", {}).get("torch", "unknown"),
        "rank": _RANK.value,
        "quick": _QUICK.value,
        "wall_s": time.perf_counter() - begin,
    }
    text = summary(arms, found, device=device)
    print(f"\n{device}, driver {driver}; {conditions['wall_s']:.0f} s\n\n{text}")
    if _JSON.value:
        figures = {
            "conditions": conditions,
            "arms": {
                arm.name: found[arm.name]
                | (
                    rates(found[arm.name], arm.cell, device=device)
                    if "step_s" in found[arm.name]
                    else {}
                )
                for arm in arms
            },
            "ratios": [
                {**ratio._asdict(), "verdict": ratio.verdict or None}
                for ratio in compare(found, device=device)
            ],
        }
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")
    if _REPORT.value:
        Path(_REPORT.value).write_text(report(text, conditions))


if __name__ == "__main__":
    app.run(main)
