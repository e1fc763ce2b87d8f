"""Our training step beside stock KerasHub's and PEFT's: `python -m benchmarks.train_step`.

One model (Gemma 3 270M), one adapter (LoRA rank 8 on query and value), one set of rows (the
quick-start domain), this machine:

    real rows   ours    packed 4 x 256                      ┐
                stock   padded to the batch's longest,      │ supervised tokens a second
                PEFT    4 or 16 examples, the better one    │
                stock, PEFT   once more, packed as ours     ┘
    full rows   all     4 x 256, nothing padded, every position supervised

ours    coderllm_jax.training.step with the default TrainingConfig.
stock   KerasHub's Gemma3CausalLM, enable_lora, fit; JAX backend, float32. It compiles for every
        length, which counts for nobody. It has no way to keep packed examples apart.
PEFT    transformers' Gemma3ForCausalLM with torch in bfloat16. Packed examples are kept apart.

Each arm runs in a process of its own, one after another; what is compiled or loaded is not timed.
The peak is the process's largest resident set, libraries included. Every arm gets malloc on huge
pages, which our train command sets for itself (--huge_pages). Arms that are given the same batch
must start from the same loss. Prints a table, says beside each ratio whether its goal is
met, and exits with 0 either way. On a quiet machine it takes about ten minutes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks.goals import Ratio, ratio_lines
from benchmarks.measure import Job, Measurement, read_measurement, run_module

_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_ARMS = flags.DEFINE_list("arms", [], "Only these arms (default: all).", allow_override=True)
_STEPS = flags.DEFINE_integer(
    "steps", 5, "Timed steps of each arm, at least.", lower_bound=1, allow_override=True
)
_ROUNDS = flags.DEFINE_integer(
    "rounds",
    1,
    "Times that all arms run, in turn; the median counts.",
    lower_bound=1,
    allow_override=True,
)
_ROWS = flags.DEFINE_string(
    "rows", "", "Training rows to use instead (as data.path).", allow_override=True
)
_MODEL = flags.DEFINE_string(
    "model", "gemma3_270m", "The model, as model_name.", allow_override=True
)
_HUGE_PAGES = flags.DEFINE_enum(
    "huge_pages",
    "all",
    ["all", "ours", "none"],
    "Who gets malloc on huge pages, as `python -m coderllm_jax.train` sets it. It would speed the "
    "peers up too, by 5 to 15 %, so all is the stricter comparison; ours is what users have.",
    allow_override=True,
)


class Arm(NamedTuple):
    """One program on one kind of batch."""

    name: str
    title: str
    module: str
    batches: str


# In this order they run: those that are compared stand near each other.
ARMS = (
    Arm("ours_packed", "ours, packed", "train_ours", "packed"),
    Arm("keras_padded_4", "stock KerasHub, padded, 4", "peers_keras", "padded_4"),
    Arm("peft_padded_4", "PEFT bfloat16, padded, 4", "peers_torch", "padded_4"),
    Arm("keras_padded_16", "stock KerasHub, padded, 16", "peers_keras", "padded_16"),
    Arm("peft_padded_16", "PEFT bfloat16, padded, 16", "peers_torch", "padded_16"),
    Arm("keras_packed", "stock KerasHub, packed", "peers_keras", "packed"),
    Arm("peft_packed", "PEFT bfloat16, packed", "peers_torch", "packed"),
    Arm("ours_full", "ours, full rows", "train_ours", "full"),
    Arm("keras_full", "stock KerasHub, full rows", "peers_keras", "full"),
    Arm("peft_full", "PEFT bfloat16, full rows", "peers_torch", "full"),
)
_NEEDS = {
    "peers_torch": ("torch", "transformers", "peft"),
    "peers_keras": ("keras_hub",),
    "train_ours": (),
}
# Arms whose first step sees the same batch through the same computation.
SAME_START = (
    ("ours_full", "keras_full", "peft_full"),
    ("ours_packed", "peft_packed"),
    ("keras_padded_4", "peft_padded_4"),
    ("keras_padded_16", "peft_padded_16"),
)
# bfloat16 against float32: losses of 5.7 differ by 0.001 to 0.003.
_START_TOLERANCE = 0.005
# Measured: sdpa and eager are alike at these lengths, and sdpa is what transformers chooses.
_ATTENTION = "sdpa"


def middle(runs: Sequence[Measurement]) -> Measurement:
    """The run of median duration."""
    wanted = statistics.median_low(run.seconds for run in runs)
    return next(run for run in runs if run.seconds == wanted)


def better(found: Mapping[str, Measurement], prefix: str) -> Measurement | None:
    """Of a peer's batch sizes, the one with the higher rate of supervised tokens."""
    sizes = [run for name, run in found.items() if name.startswith(f"{prefix}_padded_")]
    return max(sizes, key=lambda run: run.supervised_per_s, default=None)


def compare(found: Mapping[str, Measurement]) -> list[Ratio]:
    """Every ratio for which both sides were measured."""
    ours, ours_full = found.get("ours_packed"), found.get("ours_full")
    stock, stock_full = better(found, "keras"), found.get("keras_full")
    wanted = [
        ("real rows, ours / padded stock", "rate", ours, stock, 4.0),
        ("real rows, ours / padded PEFT", "rate", ours, better(found, "peft"), 2.0),
        ("full rows, ours / stock", "rate", ours_full, stock_full, 1.5),
        ("peak memory, full rows, ours / stock", "memory", ours_full, stock_full, 0.6),
        ("peak memory above libraries, full rows", "added", ours_full, stock_full, None),
        ("peak memory, real rows, ours / padded stock", "memory", ours, stock, None),
        ("real rows, ours / packed stock", "rate", ours, found.get("keras_packed"), None),
        ("real rows, ours / packed PEFT", "rate", ours, found.get("peft_packed"), None),
        ("full rows, ours / PEFT", "rate", ours_full, found.get("peft_full"), None),
    ]
    figures = {
        "rate": lambda run: run.supervised_per_s,
        "memory": lambda run: run.memory_peak_bytes,
        "added": lambda run: run.memory_added_bytes,
    }
    ratios = []
    for name, kind, mine, theirs, goal in wanted:
        if mine is not None and theirs is not None:
            value = figures[kind](mine) / figures[kind](theirs)
            low, high = (goal, None) if kind == "rate" else (None, goal)
            ratios.append(Ratio(name, value, at_least=low, at_most=high))
    return ratios


def start_problems(found: Mapping[str, Measurement]) -> list[str]:
    """Arms that began with another loss than those given the same batch."""
    problems = []
    for names in SAME_START:
        losses = {name: found[name].first_loss for name in names if name in found}
        if losses and max(losses.values()) > (1 + _START_TOLERANCE) * min(losses.values()):
            shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            problems.append(f"these do not start from the same loss: {shown}")
    return problems


# --- running ------------------------------------------------------------------------------------


def measure_all(arms: Sequence[Arm], folder: Path) -> tuple[dict[str, Any], dict[str, list]]:
    """What was measured, by arm, and what could not be, with the reason."""
    runs: dict[str, list[Measurement]] = {}
    missing: dict[str, list[str]] = {}
    for arm in [arm for _ in range(_ROUNDS.value) for arm in arms]:
        started, load = time.perf_counter(), os.getloadavg()[0]
        problem = _absent(arm) or _measure(arm, folder)
        if problem:
            missing[arm.name] = [problem]
        else:
            fields = json.loads((folder / "measurement.json").read_text())
            runs.setdefault(arm.name, []).append(read_measurement(fields))
        took_s = time.perf_counter() - started
        outcome = problem or f"{runs[arm.name][-1].supervised_per_s:.0f} supervised tokens/s"
        print(f"  {arm.name}: {outcome} ({took_s:.0f} s, load {load:.1f})", file=sys.stderr)
    return {name: middle(found) for name, found in runs.items()}, missing


def _absent(arm: Arm) -> str:
    lacking = [name for name in _NEEDS[arm.module] if importlib.util.find_spec(name) is None]
    return f"{', '.join(lacking)} not installed (extra `peers`)" if lacking else ""


def _measure(arm: Arm, folder: Path) -> str:
    job = Job(
        batches=str(folder / f"{arm.batches}.npz"),
        steps=_STEPS.value,
        model_name=_MODEL.value,
        huggingface=str(folder / "huggingface"),
        attention=_ATTENTION,
        output=str(folder / "measurement.json"),
    )
    is_ours = arm.module == "train_ours"
    return run_module(
        f"benchmarks.{arm.module}",
        json.dumps(job._asdict()),
        environment=_environment(
            huge_pages=_HUGE_PAGES.value == "all" or (_HUGE_PAGES.value == "ours" and is_ours)
        ),
    )


def _environment(*, huge_pages: bool) -> dict[str, str]:
    environment = {
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # As `python -m coderllm_jax.train` restarts itself.
    return environment | ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge_pages else {})


# --- telling ------------------------------------------------------------------------------------


def table(found: Mapping[str, Measurement], missing: Mapping[str, Sequence[str]]) -> str:
    """The arms as people read them."""
    head = (
        f"{'arm':<27}{'s/step':>8}{'positions/s':>13}{'tokens/s':>10}{'supervised/s':>14}"
        f"{'cores':>7}{'peak GB':>9}{'above libraries':>17}{'first loss':>12}"
    )
    lines = [head, "-" * len(head)]
    for arm in ARMS:
        if arm.name in found:
            run = found[arm.name]
            lines.append(
                f"{arm.title:<27}{run.seconds / run.num_batches:>8.2f}"
                f"{run.counts.positions / run.seconds:>13.1f}"
                f"{run.counts.tokens / run.seconds:>10.1f}{run.supervised_per_s:>14.1f}"
                f"{run.cores:>7.2f}{run.memory_peak_bytes / 1e9:>9.2f}"
                f"{run.memory_added_bytes / 1e9:>17.2f}{run.first_loss:>12.4f}"
            )
        elif arm.name in missing:
            lines.append(f"{arm.title:<27}  not measured: {missing[arm.name][0]}")
    return "\n".join(lines)


def as_json(
    found: Mapping[str, Measurement],
    missing: Mapping[str, Sequence[str]],
    *,
    inputs: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "conditions": dict(conditions),
        "inputs": dict(inputs),
        "arms": {
            name: {
                **run._asdict(),
                "counts": run.counts._asdict(),
                "seconds_per_step": run.seconds / run.num_batches,
                "positions_per_s": run.counts.positions / run.seconds,
                "tokens_per_s": run.counts.tokens / run.seconds,
                "supervised_tokens_per_s": run.supervised_per_s,
                "supervised_tokens_per_processor_s": run.counts.supervised / run.processor_s,
                "memory_added_bytes": run.memory_added_bytes,
            }
            for name, run in found.items()
        },
        "not_measured": {name: reasons[0] for name, reasons in missing.items()},
        "ratios": [ratio.as_json() for ratio in compare(found)],
        "start_problems": start_problems(found),
    }


def _chosen_arms() -> list[Arm]:
    known = [arm.name for arm in ARMS]
    unknown = [name for name in _ARMS.value if name not in known]
    if unknown:
        raise app.UsageError(f"--arms names {unknown[0]!r}; expected some of {', '.join(known)}")
    return [arm for arm in ARMS if not _ARMS.value or arm.name in _ARMS.value]


def main(argv: list[str]) -> None:
    """Makes the batches, measures every arm, prints and writes what came out."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    arms = _chosen_arms()
    started, load_before = time.perf_counter(), os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = run_module(
            "benchmarks.train_inputs",
            name,
            _ROWS.value,
            _MODEL.value,
            environment=_environment(huge_pages=False),
        )
        if problem:
            raise SystemExit(f"error: the batches could not be made: {problem}")
        inputs = json.loads((folder / "inputs.json").read_text())
        found, missing = measure_all(arms, folder)
    wall_s = time.perf_counter() - started
    conditions = {
        "model": _MODEL.value,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "rounds": _ROUNDS.value,
        "huge_pages": _HUGE_PAGES.value,
        "attention": _ATTENTION,
        "wall_s": wall_s,
    }
    print(
        f"{inputs['model']}; {inputs['rows']} rows of {inputs['tokens_per_row']:.0f} tokens; "
        f"{conditions['cores']} cores, load {load_before[0]:.1f} before; "
        f"{wall_s / 60:.0f} min\n"
    )
    print(table(found, missing), end="\n\n")
    print(ratio_lines(compare(found)))
    problems = start_problems(found)
    for line in problems or ["arms given the same batch start from the same loss"]:
        print(line)
    if _JSON.value:
        figures = as_json(found, missing, inputs=inputs, conditions=conditions)
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
