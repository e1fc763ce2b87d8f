"""The robustness suite: what survives, what a disturbed question costs, whether answers stay.

    figure                    what it says                                           by
    <way>/fact_f1_drop        fact F1 lost when a question is disturbed that way      `disturbance`
    repetition/identical      greedy answers that are equal when asked again,         `consistency`
    order/, batch/identical   in another order, each alone
    survival/passed           questions nobody should ask that end well               `survival`
    stress/ended_once         requests under stress that ended exactly once           `stress`
    stress/..._growth         what they left behind: memory, threads, descriptors

Disturbed questions go through the cache of answers; all else talks to the answerer itself. Stress
comes last: what it breaks breaks nothing else.
"""

from __future__ import annotations

from coderllm_jax.evaluation.consistency import measure_consistency
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.disturbance import measure_drops
from coderllm_jax.evaluation.ledger import Ledger
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.evaluation.stress import StressReport, read_process, run_stress
from coderllm_jax.evaluation.survival import ORDINARY, run_survival, survival_cases
from coderllm_jax.records import Estimate

_NUM_FAULTS_TOLD = 3
_MOST_SURVIVAL_TOKENS = 32
_LOWER_IS_BETTER = ("_drop", "_growth", "_growth_bytes")


def run_robustness(context: Context) -> SuiteResult:
    """Runs all four parts and puts them together."""
    parts = [
        measure_drops(context),
        measure_consistency(context),
        measure_survival(context),
        measure_stress(context),
    ]
    figures = {name: each for part in parts for name, each in part.figures.items()}
    details = {name: each for part in parts for name, each in part.details.items()}
    lower = [name for name in figures if name.endswith(_LOWER_IS_BETTER)]
    return SuiteResult(
        "robustness",
        figures,
        details={"lower_is_better": lower, **details},
        samples=[sample for part in parts for sample in part.samples],
        notes=[note for part in parts for note in part.notes],
        # How many requests fit into the time, and what they leave behind, is another each time.
        unstable=frozenset(name for name in figures if name.startswith("stress/")),
        is_whole=all(part.is_whole for part in parts),
    )


def measure_survival(context: Context) -> SuiteResult:
    """Asks what nobody should ask, all of it at once."""
    config = context.config
    cases = survival_cases(
        context.items[0].question if context.items else ORDINARY,
        max_length=config.generation.max_length,
        seed=config.seed,
    )
    context.note(f"asking {len(cases)} questions that nobody should ask")

    def open_ledger() -> Ledger:
        return Ledger(context.answerer, patience_s=config.endpoint.timeout_s)

    tokens = min(config.robustness.max_new_tokens, _MOST_SURVIVAL_TOKENS)
    found = run_survival(open_ledger, cases, max_new_tokens=tokens)
    failed = {each.case.name: each.problem for each in found if each.problem}
    notes = [f"not survived: {name}: {problem}" for name, problem in failed.items()]
    return SuiteResult(
        "robustness",
        {"survival/passed": wilson_interval(len(found) - len(failed), len(found))},
        details={"survival": {"cases": len(found), "failed": failed}},
        samples=[each.to_sample() for each in found],
        notes=notes,
    )


def measure_stress(context: Context) -> SuiteResult:
    """Everything at once, for a while."""
    config = context.config
    section = config.robustness
    if not section.stress_requests:
        return SuiteResult("robustness", {})
    # A server's own memory cannot be seen from here, and asking jax would take an accelerator.
    is_local = not config.endpoint.url
    context.note(f"stress: {section.stress_requests} requests in {section.stress_seconds:g} s")
    report = run_stress(
        context.answerer,
        requests=section.stress_requests,
        seconds=section.stress_seconds,
        max_length=config.generation.max_length,
        max_new_tokens=section.max_new_tokens,
        patience_s=config.endpoint.timeout_s,
        read=lambda: read_process(devices=is_local),
        seed=config.seed,
    )
    asked = report.num_submitted
    return SuiteResult(
        "robustness",
        {
            "stress/ended_once": wilson_interval(asked - report.num_at_fault, asked),
            "stress/memory_growth_bytes": Estimate(report.memory_growth_bytes, num_items=asked),
            "stress/threads_growth": Estimate(report.growth("threads"), num_items=asked),
            "stress/descriptors_growth": Estimate(report.growth("descriptors"), num_items=asked),
        },
        details={"stress": report.to_json()},
        notes=_stress_notes(report, is_local=is_local),
    )


def _stress_notes(report: StressReport, *, is_local: bool) -> list[str]:
    notes = [f"under stress: {fault}" for fault in report.faults[:_NUM_FAULTS_TOLD]]
    if report.leaks:
        notes.append(
            f"memory grew by {report.memory_growth_bytes / 2**20:.0f} MiB under stress and had not "
            "stopped growing: something is kept that should not be"
        )
    if report.is_cut:
        notes.append(f"the stress run was ended by its time, after {report.num_submitted} requests")
    if not is_local:
        notes.append("memory under stress is this client's; the server's cannot be seen from here")
    return notes
