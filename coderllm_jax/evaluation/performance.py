"""The performance suite: how long people wait, and how much is answered, under load.

    closed loop   1, 4, 16 in flight     what it can do: throughput against latency
    open loop     Poisson arrivals       what people see: latency from the intended arrival

Questions are the evaluation items' own, with answers cut at one length, so that two models are
asked for equally much. In the process of an engine, compilation ends in the warm-up; a server is
measured from outside, its network included. Answers come straight from the answerer: a cache has
no latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.latency import LoadFigures, summarize_load
from coderllm_jax.evaluation.load import poisson_arrivals, run_closed_loop, run_open_loop
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.records import Estimate, Query

# Where nobody prepared items: a question of about the usual length.
_STAND_IN = "What does optax.adam do, and which arguments does it take?"
# Arrivals at half of what a closed loop achieves keep it busy, and leave a queue that ends.
_OPEN_SHARE = 0.5
_HIGHER_IS_BETTER = "_per_s"


def run_performance(context: Context) -> SuiteResult:
    """Measures every load in turn; nothing is taken from the cache of answers."""
    section, seed = context.config.performance, context.config.seed
    queries = _queries(context)
    loads: dict[str, LoadFigures] = {}
    for in_flight in section.in_flight:
        context.note(f"under load: {in_flight} in flight")
        load = run_closed_loop(
            context.answerer,
            queries,
            in_flight=in_flight,
            num_requests=max(section.requests, in_flight),
            max_s=section.max_seconds,
            num_warm_up=section.warmup_requests,
        )
        loads[f"closed/{in_flight}"] = summarize_load(load)
    for rate in section.rates_per_s or _usual_rates(loads):
        context.note(f"under load: {rate:.2g} arrivals a second")
        load = run_open_loop(
            context.answerer,
            queries,
            arrivals_s=poisson_arrivals(rate, num_requests=section.requests, seed=seed),
            max_s=section.max_seconds,
        )
        loads[f"open/{rate:.2g}"] = summarize_load(load)
    return summarize_loads(loads)


def summarize_loads(loads: Mapping[str, LoadFigures]) -> SuiteResult:
    """Every load's figures under its name, all of them unstable; errors and late compiles noted."""
    figures: dict[str, Estimate] = {}
    notes = []
    for name, load in loads.items():
        figures |= {f"{name}/{figure}": value for figure, value in load.figures().items()}
        if load.num_errors:
            error, _ = next(iter(load.errors.items()))
            notes.append(f"{name}: {load.num_errors} of {load.num_requests} failed: {error}")
        if load.late_compile_s:
            notes.append(
                f"{name}: {load.late_compile_s:.1f} s of compilation fell into the measurement; "
                "raise performance.warmup_requests"
            )
    return SuiteResult(
        "performance",
        figures,
        details={
            "lower_is_better": [name for name in figures if not name.endswith(_HIGHER_IS_BETTER)],
            "loads": {name: load.to_json() for name, load in loads.items()},
        },
        notes=notes,
        unstable=frozenset(figures),
        is_whole=not any(load.num_errors for load in loads.values()),
    )


def _usual_rates(loads: Mapping[str, LoadFigures]) -> Sequence[float]:
    rates = [load.requests_per_s.value for load in loads.values() if load.requests_per_s.value]
    return [_OPEN_SHARE * max(rates)] if rates else []


def _queries(context: Context) -> list[Query]:
    """As many as one measurement asks for, so that no server remembers a prompt."""
    section = context.config.performance
    questions = [item.question for item in context.items] or [_STAND_IN]
    return [
        Query.from_question(
            f"load/{number}",
            questions[number % len(questions)],
            max_new_tokens=section.max_new_tokens,
        )
        for number in range(max(section.requests, *section.in_flight))
    ]
