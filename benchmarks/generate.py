"""Our generator beside KerasHub's, transformers and llama.cpp: `python -m benchmarks.generate`.

One model (Gemma 3 270M), HumanEval's prompts, greedy, the same number of new tokens, this machine:

    one        1 prompt, 64 new tokens                                  ┐
    sixteen    16 prompts as they are, 64 new tokens each               │ new tokens a second, with
    even       the same, cut to one length: nothing to gain from that   ┘ prefill
    prefill    16 x 1,024 tokens, 1 new token                             peak memory

ours            coderllm_jax.generation.engine; `auto` is the weight format that it chooses here.
KerasHub        Gemma3CausalLM's compiled generate, float32 (bfloat16 beside it), JAX backend.
transformers    Gemma3ForCausalLM.generate, float32 and bfloat16.
llama.cpp       through llama-cpp-python where that is installed, Q8_0 and Q4_K_M.

The arms of a workload are loaded together and take passes in turn; a ratio is the median over these
rounds. Ratios of processor seconds stand beside those of seconds: other programs move them less.
Loading and compiling are not timed. Compiled programs are kept from arm to arm in a folder of this
run. Prints tables, says beside each ratio whether its goal is met, and exits with 0 either way.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.generate_arm import Job, Pass, Report
from benchmarks.generate_turns import (
    Arm,
    Measurement,
    Outcome,
    in_rounds,
    measure_together,
    num_same,
)
from benchmarks.goals import Ratio, ratio_lines
from benchmarks.measure import run_module

_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_REPORT = flags.DEFINE_string(
    "report", "", "Also write what is printed to this file, as Markdown.", allow_override=True
)
_ARMS = flags.DEFINE_list("arms", [], "Only these arms (default: all).", allow_override=True)
_WORKLOADS = flags.DEFINE_list(
    "workloads", [], "Only these workloads (default: all).", allow_override=True
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Timed passes of each arm.", lower_bound=1, allow_override=True
)
_TOKENS = flags.DEFINE_integer(
    "tokens", 64, "New tokens for each prompt.", lower_bound=1, allow_override=True
)
_MODEL = flags.DEFINE_string(
    "model", "gemma3_270m", "The model, as model_name.", allow_override=True
)


ARMS = (
    Arm("ours_auto", "ours, auto", "generate_ours", "auto"),
    Arm("ours_float32", "ours, float32", "generate_ours", "float32"),
    Arm("keras_float32", "KerasHub, float32", "generate_keras", "float32"),
    Arm("keras_bfloat16", "KerasHub, bfloat16", "generate_keras", "bfloat16"),
    Arm("torch_float32", "transformers, float32", "generate_torch", "float32"),
    Arm("torch_bfloat16", "transformers, bfloat16", "generate_torch", "bfloat16"),
    Arm("llama_q8_0", "llama.cpp, Q8_0", "generate_llama", "q8_0"),
    Arm("llama_q4_k_m", "llama.cpp, Q4_K_M", "generate_llama", "q4_k_m"),
)
_NEEDS = {
    "generate_ours": (),
    "generate_keras": ("keras_hub",),
    "generate_torch": ("torch", "transformers"),
    "generate_llama": ("llama_cpp",),
}
TIMED = ("one", "sixteen", "even")
WORKLOADS = (*TIMED, "prefill")
# Peak memory is asked of those that have a goal.
_PREFILL_ARMS = ("ours_auto", "ours_float32", "keras_float32")


# By workload and arm.
Found = Mapping[str, Mapping[str, Measurement]]


def compare(found: Found) -> list[Ratio]:
    """Every ratio for which both sides were measured."""
    wanted = [
        ("one", "ours_auto", "keras_float32", 1.5),
        ("sixteen", "ours_auto", "keras_float32", 2.5),
        ("one", "ours_float32", "keras_float32", None),
        ("sixteen", "ours_float32", "keras_float32", None),
        ("even", "ours_auto", "keras_float32", None),
        ("sixteen", "ours_auto", "keras_bfloat16", None),
        ("one", "ours_auto", "torch_bfloat16", None),
        ("sixteen", "ours_auto", "torch_bfloat16", None),
        ("one", "ours_auto", "llama_q8_0", None),
        ("sixteen", "ours_auto", "llama_q8_0", None),
        ("one", "ours_auto", "llama_q4_k_m", None),
        ("sixteen", "ours_auto", "llama_q4_k_m", None),
    ]
    titles = {arm.name: arm.title for arm in ARMS}
    ratios = []
    for workload, ours, theirs, goal in wanted:
        arms = found.get(workload, {})
        if ours in arms and theirs in arms:
            name = f"{workload}: {titles[ours]} / {titles[theirs]}"
            seconds, processor_s = in_rounds(arms[ours], arms[theirs])
            ratios.append(Ratio(name, seconds, at_least=goal))
            ratios.append(Ratio("    the same in processor seconds", processor_s))
    prefill = found.get("prefill", {})
    for ours, goal in (("ours_auto", 0.5), ("ours_float32", None)):
        if ours in prefill and "keras_float32" in prefill:
            mine, theirs = prefill[ours].report, prefill["keras_float32"].report
            ratios.append(
                Ratio(
                    f"prefill, peak memory: {titles[ours]} / KerasHub",
                    mine.memory_peak_bytes / theirs.memory_peak_bytes,
                    at_most=goal,
                )
            )
            ratios.append(
                Ratio(
                    "    the same above imported libraries",
                    (mine.memory_peak_bytes - mine.memory_before_bytes)
                    / (theirs.memory_peak_bytes - theirs.memory_before_bytes),
                )
            )
    return ratios


def compiled_as_used(report: Report) -> bool:
    """Whether our arm compiled as many programs as it used: buckets of prompts, and decoding."""
    return report.setting["num_compiled"] == report.setting["num_used"]


# --- running ------------------------------------------------------------------------------------


def measure_workload(workload: str, arms: Sequence[Arm], folder: Path) -> Outcome:
    """Timed workloads load their arms together; for peak memory each has the machine to itself."""
    if workload in TIMED:
        return _measure_together(
            workload, arms, folder, num_new=_TOKENS.value, rounds=_ROUNDS.value
        )
    outcome = Outcome({}, {})
    for arm in arms:
        if arm.name in _PREFILL_ARMS:
            alone = _measure_together(workload, [arm], folder, num_new=1, rounds=1)
            outcome.found.update(alone.found)
            outcome.missing.update(alone.missing)
    return outcome


def _measure_together(
    workload: str, arms: Sequence[Arm], folder: Path, *, num_new: int, rounds: int
) -> Outcome:
    return measure_together(
        arms,
        lambda arm: Job(
            prompts=str(folder / f"{workload}.npz"),
            num_new=num_new,
            format=arm.format,
            model_name=_MODEL.value,
            huggingface=str(folder / "huggingface"),
        ),
        rounds=rounds,
        environment=_environment(folder),
        absent=_absent,
        tell=lambda number, name, taken: _tell(workload, number, name, taken),
    )


def _absent(arm: Arm) -> str:
    lacking = [name for name in _NEEDS[arm.module] if importlib.util.find_spec(name) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


def _environment(folder: Path) -> dict[str, str]:
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "KERAS_BACKEND": "jax",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _tell(workload: str, number: int, name: str, taken: Pass) -> None:
    line = f"{workload}, round {number}, {name}: {taken.seconds:.2f} s"
    print(f"  {line} (load {os.getloadavg()[0]:.1f})", file=sys.stderr)


# --- telling ------------------------------------------------------------------------------------


def table(workload: str, outcome: Outcome) -> str:
    """A workload's arms as people read them."""
    head = (
        f"{workload:<24}{'seconds':>9}{'tokens/s':>10}{'processor s':>13}{'peak GB':>9}"
        f"{'same as float32':>17}"
    )
    reference = outcome.found.get("keras_float32")
    lines = [head, "-" * len(head)]
    for arm in ARMS:
        if arm.name in outcome.found:
            run = outcome.found[arm.name]
            same = num_same(run.report.tokens, reference.report.tokens) if reference else None
            lines.append(
                f"{arm.title:<24}{run.seconds:>9.2f}{run.tokens_per_s:>10.1f}"
                f"{run.processor_s:>13.2f}{run.report.memory_peak_bytes / 1e9:>9.2f}"
                + (f"{same:>10} of {run.num_new_tokens}" if same is not None else "")
            )
        elif arm.name in outcome.missing:
            lines.append(f"{arm.title:<24}  not measured: {outcome.missing[arm.name]}")
    return "\n".join(lines)


def remarks(found: Found) -> list[str]:
    """What must hold beside the ratios, each as a line that says whether it does."""
    lines = []
    for workload, arms in found.items():
        ours, reference = arms.get("ours_float32"), arms.get("keras_float32")
        if ours and reference:
            same = num_same(ours.report.tokens, reference.report.tokens)
            word = "equal" if same == reference.num_new_tokens else "DIFFER from"
            lines.append(
                f"{workload}: our tokens in float32 {word} KerasHub's "
                f"({same} of {reference.num_new_tokens})"
            )
        for name, arm in arms.items():
            if name.startswith("ours"):
                count = arm.report.setting["num_compiled"]
                word = "as many as used" if compiled_as_used(arm.report) else "MORE THAN USED"
                lines.append(f"{workload}, {name}: {count} programs compiled, {word}")
    return lines


def as_json(outcomes: Mapping[str, Outcome], *, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures for programs."""
    found = {workload: outcome.found for workload, outcome in outcomes.items()}
    return {
        "conditions": dict(conditions),
        "workloads": {
            workload: {
                name: {
                    "seconds": run.seconds,
                    "processor_s": run.processor_s,
                    "tokens_per_s": run.tokens_per_s,
                    "passes": [each._asdict() for each in run.passes],
                    **run.report._asdict(),
                }
                for name, run in arms.items()
            }
            for workload, arms in found.items()
        },
        "not_measured": {workload: outcome.missing for workload, outcome in outcomes.items()},
        "ratios": [ratio.as_json() for ratio in compare(found)],
        "remarks": remarks(found),
    }


def _chosen(wanted: Sequence[str], known: Sequence[str], flag: str) -> list[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise app.UsageError(f"--{flag} names {unknown[0]!r}; expected some of {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def main(argv: list[str]) -> None:
    """Makes the prompts, measures every arm, prints and writes what came out."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    names = _chosen(_ARMS.value, [arm.name for arm in ARMS], "arms")
    workloads = _chosen(_WORKLOADS.value, WORKLOADS, "workloads")
    arms = [arm for arm in ARMS if arm.name in names]
    started, load_before = time.perf_counter(), os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wants_folder = any(arm.module == "generate_torch" and not _absent(arm) for arm in arms)
        problem = run_module(
            "benchmarks.generate_inputs",
            name,
            _MODEL.value,
            "huggingface" if wants_folder else "prompts",
            environment=_environment(folder),
        )
        if problem:
            raise SystemExit(f"error: the prompts could not be made: {problem}")
        inputs = json.loads((folder / "inputs.json").read_text())
        outcomes = {workload: measure_workload(workload, arms, folder) for workload in workloads}
    conditions = {
        **inputs,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "rounds": _ROUNDS.value,
        "new_tokens": _TOKENS.value,
        "wall_s": time.perf_counter() - started,
    }
    lengths = inputs["lengths"]["sixteen"]
    found = {workload: outcome.found for workload, outcome in outcomes.items()}
    text = "\n".join(
        [
            f"{inputs['model']}; {_TOKENS.value} new tokens; sixteen prompts of {min(lengths)} to "
            f"{max(lengths)} tokens; {conditions['cores']} cores, load {load_before[0]:.1f} "
            f"before; {conditions['wall_s'] / 60:.0f} min\n",
            *(f"{table(workload, outcome)}\n" for workload, outcome in outcomes.items()),
            ratio_lines(compare(found)),
            *remarks(found),
        ]
    )
    print(text)
    if _REPORT.value:
        what = (__doc__ or "").split("\n\n", 1)[0]
        Path(_REPORT.value).write_text(f"# Generation\n\n{what}\n\n```\n{text}\n```\n")
    if _JSON.value:
        figures = as_json(outcomes, conditions=conditions)
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
