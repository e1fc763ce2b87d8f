"""Training and generating beside the other ways to do it: `python -m benchmarks.peers`.

One model (the real Gemma 3 270M), one adapter (LoRA rank 8 on query and value), one set of rows
(the quick-start domain), HumanEval's prompts, this machine, a process for every arm:

    training     ours packed │ KerasHub, PEFT, Tunix: padded, 4 examples │ the same, packed as ours
    generation   1 prompt, 16 prompts; 64 new tokens each; greedy

KerasHub   `enable_lora` and `fit`; `generate`. JAX backend, float32.
PEFT       with transformers on torch, bfloat16 and float32.
Tunix      PeftTrainer with qwix's LoRA; its sampler. In the interpreter that --tunix_python names:
           `python -m venv DIR; DIR/bin/pip install google-tunix ml-collections psutil`.

Training arms run in rounds, one process after another; generating arms are loaded together and take
passes in turn. A ratio is the median over the rounds, of figures taken in the same round. What is
compiled or loaded is not timed; it counts in a training process's peak memory, the largest resident
set of all rounds, libraries included. In generation the peak is that of the passes.

A peer that cannot run is a row that says why. --parts measures one part only; the other is then
taken from --json's file, where there is one. Exits with 1 only where an arm of ours failed.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks import generate_turns
from benchmarks.generate_arm import Job as GenerateJob
from benchmarks.generate_arm import Pass
from benchmarks.generate_turns import Outcome, in_rounds, num_same
from benchmarks.measure import Job, Measurement, read_measurement, run_module


class Options(NamedTuple):
    """What the flags say. `arms` holds names; empty: all of them. So does `parts`."""

    parts: Sequence[str] = ()
    arms: Sequence[str] = ()
    rounds: int = 3
    steps: int = 1
    tokens: int = 64
    model: str = "gemma3_270m"
    tunix_python: str = ""
    json: str = ""
    report: str = ""

    def wants(self, arm: str) -> bool:
        """Whether an arm is among those asked for."""
        return not self.arms or arm in self.arms


_DEFAULTS = Options()
_FLAGS = (
    flags.DEFINE_list("parts", [], "Only these parts (default: both).", allow_override=True),
    flags.DEFINE_list("arms", [], "Only these arms (default: all).", allow_override=True),
    flags.DEFINE_integer(
        "rounds",
        _DEFAULTS.rounds,
        "Rounds of each part; medians count.",
        lower_bound=1,
        allow_override=True,
    ),
    flags.DEFINE_integer(
        "steps",
        _DEFAULTS.steps,
        "Timed steps of a training arm in a round, at least.",
        lower_bound=1,
        allow_override=True,
    ),
    flags.DEFINE_integer(
        "tokens",
        _DEFAULTS.tokens,
        "New tokens for each prompt.",
        lower_bound=1,
        allow_override=True,
    ),
    flags.DEFINE_string("model", _DEFAULTS.model, "The model, as model_name.", allow_override=True),
    flags.DEFINE_string(
        "tunix_python",
        "",
        "The interpreter of an environment with google-tunix.",
        allow_override=True,
    ),
    flags.DEFINE_string(
        "json", "", "Keep the figures in this file, each part's by itself.", allow_override=True
    ),
    flags.DEFINE_string(
        "report", "", "Also write the tables to this file, as Markdown.", allow_override=True
    ),
)


class TrainArm(NamedTuple):
    """One program on one kind of rows; `dtype` is the format of a peer's weights."""

    name: str
    title: str
    module: str
    rows: str
    dtype: str = ""


# In this order they run: those that are compared stand near each other.
TRAIN_ARMS = (
    TrainArm("ours_packed", "ours", "train_ours", "packed"),
    TrainArm("keras_padded", "KerasHub, float32", "peers_keras", "padded_4"),
    TrainArm("peft_bfloat16_padded", "PEFT, bfloat16", "peers_torch", "padded_4", "bfloat16"),
    TrainArm("peft_float32_padded", "PEFT, float32", "peers_torch", "padded_4", "float32"),
    TrainArm("tunix_bfloat16_padded", "Tunix, bfloat16", "peers_tunix", "padded_4", "bfloat16"),
    TrainArm("tunix_float32_padded", "Tunix, float32", "peers_tunix", "padded_4", "float32"),
    TrainArm("keras_packed", "KerasHub, float32", "peers_keras", "packed"),
    TrainArm("peft_bfloat16_packed", "PEFT, bfloat16", "peers_torch", "packed", "bfloat16"),
    TrainArm("peft_float32_packed", "PEFT, float32", "peers_torch", "packed", "float32"),
    TrainArm("tunix_bfloat16_packed", "Tunix, bfloat16", "peers_tunix", "packed", "bfloat16"),
    TrainArm("tunix_float32_packed", "Tunix, float32", "peers_tunix", "packed", "float32"),
)
GENERATE_ARMS = (
    generate_turns.Arm("ours_auto", "ours, auto", "generate_ours", "auto"),
    generate_turns.Arm("ours_float32", "ours, float32", "generate_ours", "float32"),
    generate_turns.Arm("keras_float32", "KerasHub, float32", "generate_keras", "float32"),
    generate_turns.Arm("torch_bfloat16", "transformers, bfloat16", "generate_torch", "bfloat16"),
    generate_turns.Arm("torch_float32", "transformers, float32", "generate_torch", "float32"),
    generate_turns.Arm("tunix_bfloat16", "Tunix, bfloat16", "generate_tunix", "bfloat16"),
    generate_turns.Arm("tunix_float32", "Tunix, float32", "generate_tunix", "float32"),
)
PARTS = ("training", "generation")
WORKLOADS = {"one": "1 prompt", "sixteen": "16 prompts"}
_OURS = {"training": "ours_packed", "generation": "ours_auto"}
_GREEDY_REFERENCE = "keras_float32"

# Packages of an arm's interpreter, by which it is known to be able to run; versions are reported.
_OWN_PACKAGES = ("jax", "keras", "keras-hub", "torch", "transformers", "peft")
_TUNIX_PACKAGES = ("google-tunix", "qwix", "jax", "flax", "ml-collections", "psutil")
_NEEDS = {
    "train_ours": ("jax",),
    "generate_ours": ("jax",),
    "peers_keras": ("keras", "keras-hub"),
    "generate_keras": ("keras", "keras-hub"),
    "peers_torch": ("torch", "transformers", "peft"),
    "generate_torch": ("torch", "transformers"),
    "peers_tunix": _TUNIX_PACKAGES,
    "generate_tunix": _TUNIX_PACKAGES,
}
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


# --- interpreters -------------------------------------------------------------------------------


class Interpreter(NamedTuple):
    """A Python and the versions of what it has; `problem` says why it has none."""

    path: str
    versions: Mapping[str, str]
    problem: str = ""


def ask_interpreter(path: str, packages: Sequence[str]) -> Interpreter:
    """Which of these packages an interpreter has, in which versions."""
    if not path:
        return Interpreter(path, {}, "--tunix_python is not given")
    try:
        done = subprocess.run(
            [path, "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return Interpreter(path, {}, f"--tunix_python does not run: {error}")
    return Interpreter(path, json.loads(done.stdout))


class Interpreters(NamedTuple):
    """Ours, and Tunix's."""

    own: Interpreter
    tunix: Interpreter

    def of(self, module: str) -> Interpreter:
        """The one that runs an arm's module."""
        return self.tunix if module.endswith("_tunix") else self.own

    def problem(self, module: str) -> str:
        """Why an arm cannot run, in one line; '' if nothing speaks against it."""
        chosen = self.of(module)
        lacking = [name for name in _NEEDS[module] if name not in chosen.versions]
        return chosen.problem or (f"{', '.join(lacking)} not installed" if lacking else "")


# --- training -----------------------------------------------------------------------------------

# An arm's measurements, by round; None where it failed.
Runs = Mapping[str, Sequence[Measurement | None]]


def train_in_rounds(
    arms: Sequence[TrainArm], measure: Callable[[TrainArm], Measurement | str], *, rounds: int
) -> tuple[dict[str, list[Measurement | None]], dict[str, str]]:
    """All arms in turn, `rounds` times; and for those that failed, the reason.

    An arm that fails in its first round is not tried again.
    """
    runs: dict[str, list[Measurement | None]] = {arm.name: [] for arm in arms}
    problems: dict[str, str] = {}
    for number in range(rounds):
        for arm in arms:
            if number and not any(runs[arm.name]):
                continue
            found = measure(arm)
            if isinstance(found, str):
                problems[arm.name] = found
            runs[arm.name].append(None if isinstance(found, str) else found)
    return runs, problems


def training_rows(
    arms: Sequence[TrainArm], runs: Runs, problems: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row of figures for each arm; of an arm without any run, the reason."""
    ours = runs.get(_OURS["training"], ())
    rows: list[dict[str, Any]] = []
    for arm in arms:
        done = [run for run in runs.get(arm.name, ()) if run is not None]
        row = {"arm": arm.name, "title": arm.title, "rows": arm.rows}
        if not done:
            rows.append({**row, "problem": problems[arm.name]})
            continue
        pairs = [
            (mine, its)
            for mine, its in zip(ours, runs[arm.name], strict=False)
            if mine is not None and its is not None
        ]
        rows.append(
            {
                **row,
                "num_runs": len(done),
                "supervised_per_s": statistics.median(run.supervised_per_s for run in done),
                "times_as_fast": _median(
                    mine.supervised_per_s / its.supervised_per_s for mine, its in pairs
                ),
                "step_s": statistics.median(run.seconds / run.num_batches for run in done),
                "cores": statistics.median(run.cores for run in done),
                "memory_peak_bytes": max(run.memory_peak_bytes for run in done),
                "first_loss": done[0].first_loss,
            }
        )
    return with_memory_ratio(rows, _OURS["training"])


def measure_train_arm(
    arm: TrainArm, folder: Path, interpreters: Interpreters, options: Options
) -> Measurement | str:
    """One process of an arm on what `folder` holds; where it failed, the reason."""
    load = os.getloadavg()[0]
    output = folder / "measurement.json"
    job = Job(
        batches=str(folder / f"{arm.rows}.npz"),
        steps=options.steps,
        model_name=options.model,
        huggingface=str(folder / "huggingface"),
        attention="sdpa",
        output=str(output),
        dtype=arm.dtype,
    )
    problem = interpreters.problem(arm.module) or run_module(
        f"benchmarks.{arm.module}",
        json.dumps(job._asdict()),
        # As `python -m coderllm_jax.train` restarts itself; it helps the peers, too.
        environment=_environment(folder) | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        python=interpreters.of(arm.module).path,
    )
    if problem:
        print(f"  {arm.name}: {problem}", file=sys.stderr)
        return problem
    found = read_measurement(json.loads(output.read_text()))
    rate = f"{found.supervised_per_s:.1f} supervised tokens/s"
    print(f"  {arm.name}: {rate} (load {load:.1f})", file=sys.stderr)
    return found


def measure_training(interpreters: Interpreters, options: Options) -> dict[str, Any]:
    """The part's conditions and rows."""
    arms = [arm for arm in TRAIN_ARMS if options.wants(arm.name)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = _make_inputs("benchmarks.train_inputs", folder, "", options.model)
        conditions = start_conditions(inputs, options)
        runs, problems = train_in_rounds(
            arms,
            lambda arm: measure_train_arm(arm, folder, interpreters, options),
            rounds=options.rounds,
        )
    return {"conditions": end_conditions(conditions), "rows": training_rows(arms, runs, problems)}


# --- generation ---------------------------------------------------------------------------------


def generation_rows(arms: Sequence[generate_turns.Arm], outcome: Outcome) -> list[dict[str, Any]]:
    """A row of figures for each arm on one workload; of an arm that did not run, the reason."""
    ours = outcome.found.get(_OURS["generation"])
    reference = outcome.found.get(_GREEDY_REFERENCE)
    rows: list[dict[str, Any]] = []
    for arm in arms:
        row = {"arm": arm.name, "title": arm.title}
        if arm.name not in outcome.found:
            rows.append({**row, "problem": outcome.missing[arm.name]})
            continue
        its = outcome.found[arm.name]
        rows.append(
            {
                **row,
                "tokens_per_s": its.tokens_per_s,
                "times_as_fast": in_rounds(ours, its)[0] if ours else None,
                "first_token_s": its.first_token_s,
                "first_token_times_as_fast": _median(
                    other.first_token_s / mine.first_token_s
                    for mine, other in zip(ours.passes, its.passes, strict=True)
                    if mine.first_token_s and other.first_token_s
                )
                if ours
                else None,
                "memory_peak_bytes": its.report.memory_peak_bytes,
                "num_new_tokens": its.num_new_tokens,
                "num_same_tokens": num_same(its.report.tokens, reference.report.tokens)
                if reference
                else None,
            }
        )
    return with_memory_ratio(rows, _OURS["generation"])


def measure_generation(interpreters: Interpreters, options: Options) -> dict[str, Any]:
    """The part's conditions, and the rows of each workload."""
    arms = [arm for arm in GENERATE_ARMS if options.wants(arm.name)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = _make_inputs("benchmarks.generate_inputs", folder, options.model, "huggingface")
        conditions = start_conditions(inputs, options)
        workloads = {}
        for workload in WORKLOADS:
            outcome = generate_turns.measure_together(
                arms,
                lambda arm, workload=workload: GenerateJob(
                    prompts=str(folder / f"{workload}.npz"),
                    num_new=options.tokens,
                    format=arm.format,
                    model_name=options.model,
                    huggingface=str(folder / "huggingface"),
                    times_first_token=True,
                ),
                rounds=options.rounds,
                environment=_environment(folder),
                absent=lambda arm: interpreters.problem(arm.module),
                tell=lambda number, name, taken, workload=workload: _tell(
                    workload, number, name, taken
                ),
                python_of=lambda arm: interpreters.of(arm.module).path,
            )
            workloads[workload] = generation_rows(arms, outcome)
    return {"conditions": end_conditions(conditions), "workloads": workloads}


def _tell(workload: str, number: int, name: str, taken: Pass) -> None:
    line = f"{workload}, round {number}, {name}: {taken.seconds:.2f} s"
    print(f"  {line} (load {os.getloadavg()[0]:.1f})", file=sys.stderr)


# --- both ---------------------------------------------------------------------------------------


def with_memory_ratio(rows: list[dict[str, Any]], ours: str) -> list[dict[str, Any]]:
    """The rows, each with its peak memory as a multiple of ours, where both are known."""
    peaks = {row["arm"]: row["memory_peak_bytes"] for row in rows if "problem" not in row}
    return [
        {**row, "memory_ratio": peaks[row["arm"]] / peaks[ours] if ours in peaks else None}
        if row["arm"] in peaks
        else row
        for row in rows
    ]


def _median(values: Any) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def start_conditions(inputs: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What a part is measured under, as known before its first arm."""
    return {
        **inputs,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "began": time.time(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "steps": options.steps,
        "new_tokens": options.tokens,
    }


def end_conditions(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The same once the last arm has ended."""
    rest = {name: value for name, value in conditions.items() if name != "began"}
    wall_s = time.time() - conditions["began"]
    return {**rest, "load_after": os.getloadavg()[0], "wall_s": wall_s}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "KERAS_BACKEND": "jax",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _make_inputs(module: str, folder: Path, *arguments: str) -> dict[str, Any]:
    problem = run_module(module, str(folder), *arguments, environment=_environment(folder))
    if problem:
        raise SystemExit(f"error: {module} made no inputs: {problem}")
    return json.loads((folder / "inputs.json").read_text())


def failures_of_ours(figures: Mapping[str, Any]) -> list[str]:
    """Our own arms that have no figures, each with the reason."""
    tables = [figures.get("training", {}).get("rows", [])]
    tables += figures.get("generation", {}).get("workloads", {}).values()
    return [
        f"{row['arm']}: {row['problem']}"
        for rows in tables
        for row in rows
        if row["arm"].startswith("ours") and "problem" in row
    ]


# --- telling ------------------------------------------------------------------------------------

_TRAINING_NOTE = """Supervised tokens are those that the loss counts. "ours / it" is how many times
as fast ours is, "its peak / ours" how many times as much memory it takes. Padded rows are four
examples a batch, as wide as the longest; packed rows are 4 x 256. KerasHub cannot keep packed
examples apart (its first loss there is another), PEFT does by their positions, and Tunix by a mask
that its model takes and its trainer does not make. Tunix trains key and value together, where the
others leave key alone."""
_GENERATION_NOTE = """Tokens a second include reading the prompt. The first token is timed in a pass
of its own, until every prompt has one. "auto" is the weight format that we choose here. The last
column counts tokens before a row first departs from what KerasHub says in float32."""


def report(figures: Mapping[str, Any]) -> str:
    """The Markdown of what `figures` holds: a part that was not measured is left out."""
    texts = ["# Beside its peers", "`python -m benchmarks.peers`. LoRA rank 8."]
    if "training" in figures:
        part = figures["training"]
        about = part["conditions"]
        texts += [
            "## Training",
            f"{about['rows']} rows of {about['tokens_per_row']:.0f} tokens. {_under(about)}",
            _table(_TRAINING_COLUMNS, part["rows"]),
            " ".join(_TRAINING_NOTE.split()),
        ]
    if "generation" in figures:
        part = figures["generation"]
        about = part["conditions"]
        texts += ["## Generation", f"{about['new_tokens']} new tokens a prompt. {_under(about)}"]
        for workload, rows in part["workloads"].items():
            lengths = about["lengths"][workload]
            span = " to ".join(dict.fromkeys((str(min(lengths)), str(max(lengths)))))
            texts += [
                f"{WORKLOADS[workload]} of {span} tokens:",
                _table(_GENERATION_COLUMNS, rows),
            ]
        texts.append(" ".join(_GENERATION_NOTE.split()))
    versions = [line for part in PARTS for line in figures.get(part, {}).get("versions", ())]
    if versions:
        texts += ["## Versions", "\n".join(f"- {line}" for line in dict.fromkeys(versions))]
    return "\n\n".join(texts) + "\n"


def _under(about: Mapping[str, Any]) -> str:
    return (
        f"{about['model']}. {about['date']}, {about['processor']}, {about['cores']} cores, load "
        f"{about['load_before']:.1f} before the first arm and {about['load_after']:.1f} after the "
        f"last; {about['rounds']} rounds, {about['wall_s'] / 60:.0f} minutes."
    )


_Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def _number(name: str, digits: int, *, scale: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    def show(row: Mapping[str, Any]) -> str:
        value = row.get(name)
        return "" if value is None else f"{value * scale:.{digits}f}"

    return show


def _same(row: Mapping[str, Any]) -> str:
    same = row.get("num_same_tokens")
    return "" if same is None else f"{same:,} of {row['num_new_tokens']:,}"


_TRAINING_COLUMNS: tuple[_Column, ...] = (
    ("arm", lambda row: row["title"]),
    ("rows", lambda row: row["rows"].partition("_")[0]),
    ("supervised tokens/s", _number("supervised_per_s", 1)),
    ("ours / it", _number("times_as_fast", 2)),
    ("s/step", _number("step_s", 2)),
    ("cores", _number("cores", 2)),
    ("peak GB", _number("memory_peak_bytes", 2, scale=1e-9)),
    ("its peak / ours", _number("memory_ratio", 2)),
    ("first loss", _number("first_loss", 3)),
)
_GENERATION_COLUMNS: tuple[_Column, ...] = (
    ("arm", lambda row: row["title"]),
    ("tokens/s", _number("tokens_per_s", 1)),
    ("ours / it", _number("times_as_fast", 2)),
    ("first token, s", _number("first_token_s", 2)),
    ("its / ours", _number("first_token_times_as_fast", 2)),
    ("peak GB", _number("memory_peak_bytes", 2, scale=1e-9)),
    ("its peak / ours", _number("memory_ratio", 2)),
    ("tokens as float32", _same),
)


def _table(columns: Sequence[_Column], rows: Sequence[Mapping[str, Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cells(row: Mapping[str, Any]) -> list[str]:
        if "problem" not in row:
            return [show(row) for _, show in columns]
        named = [show(row) for title, show in columns if title in ("arm", "rows")]
        reason = f"not run: {' '.join(row['problem'].split()).replace('|', '/')}"
        return [*named, reason, *[""] * (len(columns) - len(named) - 1)]

    head = [title for title, _ in columns]
    return "\n".join([line(head), line(["---"] * len(head)), *(line(cells(row)) for row in rows)])


def version_lines(interpreters: Interpreters) -> list[str]:
    """What ran in which version."""
    return [
        f"{title}: {', '.join(f'{name} {found.versions[name]}' for name in found.versions)}"
        for title, found in (
            ("ours, KerasHub, PEFT", interpreters.own),
            ("Tunix", interpreters.tunix),
        )
        if found.versions
    ]


def check(options: Options) -> None:
    """Raises UsageError for a part or an arm that there is not."""
    arms = [arm.name for arm in (*TRAIN_ARMS, *GENERATE_ARMS)]
    for flag, values, known in (("parts", options.parts, PARTS), ("arms", options.arms, arms)):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise app.UsageError(
                f"--{flag} names {unknown[0]!r}; expected some of {', '.join(known)}"
            )


def run(options: Options) -> None:
    """Measures the parts, prints and writes the report; exits with 1 where ours failed."""
    check(options)
    parts = [part for part in PARTS if not options.parts or part in options.parts]
    store = Path(options.json) if options.json else None
    figures = json.loads(store.read_text()) if store and store.exists() else {}
    interpreters = Interpreters(
        ask_interpreter(sys.executable, _OWN_PACKAGES),
        ask_interpreter(options.tunix_python, _TUNIX_PACKAGES),
    )
    for part in parts:
        measure = measure_training if part == "training" else measure_generation
        figures[part] = measure(interpreters, options)
        figures[part]["versions"] = version_lines(interpreters)
        if store:
            store.write_text(json.dumps(figures, indent=1) + "\n")
    text = report(figures)
    print(text)
    if options.report:
        Path(options.report).write_text(text)
    failed = failures_of_ours({part: figures[part] for part in parts})
    if failed:
        raise SystemExit(f"error: an arm of ours failed: {'; '.join(failed)}")


def main(argv: list[str]) -> None:
    """The flags as options."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    run(Options(*(flag.value for flag in _FLAGS)))


if __name__ == "__main__":
    app.run(main)
