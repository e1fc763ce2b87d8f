"""Figures from the rows of a load: how long requests took, and how many went through.

    rows ──► time to first token  ┐
             time per token       ├ p50, p95, p99, each with its interval and number of items
             end to end           │
             hand-in delay        ┘
         ──► requests/s, tokens/s in and out, over the window from the start to the last end
         ──► how many were answered, ended as errors (by what), were cut off

A percentile is an observed value (nearest rank), its interval the order statistics that hold the
true one with 95 % whatever the distribution is (binomial ranks; Hahn & Meeker, Statistical
Intervals, 1991). It is None where the items cannot bound it from both sides: fewer than 6 for p50,
72 for p95, 368 for p99.

Requests that were cut off count as slower than all others: their percentile may be None, but it is
never made of the lucky ones. Requests that ended as errors have no latency and are counted beside.
A time per token is the mean of its answer.

Does not cover: the dependence of neighbours in a queue, which makes intervals too narrow; a rate's
interval (one run is one observation of it).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.evaluation.load import Load
from coderllm_jax.records import Estimate

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
_TAIL = 0.025  # of either side of an interval


class Percentiles(NamedTuple):
    """Seconds; a percentile that so few items cannot support has the value None."""

    p50: Estimate
    p95: Estimate
    p99: Estimate


class LoadFigures(NamedTuple):
    """One load's figures. `*_per_s` have no interval; num_items are the answers behind them.

    hand_in_delay_s: from the intended arrival to handing in; what the answerer's caller was kept
    busy for. errors: how many ended with which line. warm_up_s: all requests before the window, and
    compile_s what JAX compiled during them; late_compile_s is inside the window, where it should
    be 0.
    """

    kind: str
    offered: float
    num_requests: int
    num_answered: int
    num_errors: int
    num_cut: int
    errors: Mapping[str, int]
    time_to_first_token_s: Percentiles
    time_per_token_s: Percentiles
    total_s: Percentiles
    hand_in_delay_s: Percentiles
    requests_per_s: Estimate
    tokens_in_per_s: Estimate
    tokens_out_per_s: Estimate
    window_s: float
    cpu_s: float
    peak_memory_bytes: int
    warm_up_s: float
    compile_s: float
    late_compile_s: float

    def figures(self) -> dict[str, Estimate]:
        """Every estimate by a flat name, such as `total_s/p95`."""
        found: dict[str, Estimate] = {}
        for name, value in self._asdict().items():
            if isinstance(value, Percentiles):
                found |= {f"{name}/{share}": figure for share, figure in value._asdict().items()}
            elif isinstance(value, Estimate):
                found[name] = value
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it in plain types."""
        plain = {
            name: value
            for name, value in self._asdict().items()
            if not isinstance(value, Percentiles | Estimate)
        }
        figures = {name: figure._asdict() for name, figure in self.figures().items()}
        return {**plain, "errors": dict(self.errors), "figures": figures}


def summarize_load(load: Load) -> LoadFigures:
    """A load's figures."""
    answered = [row for row in load.rows if row.is_answered]
    cut = [row for row in load.rows if row.finish == "cancelled"]
    failed = [row for row in load.rows if row.finish == "error"]
    window_s = max((row.finished_s for row in load.rows), default=0.0)

    def rate(count: int) -> Estimate:
        return Estimate(count / window_s if window_s > 0 else None, num_items=len(answered))

    return LoadFigures(
        kind=load.kind,
        offered=load.offered,
        num_requests=len(load.rows),
        num_answered=len(answered),
        num_errors=len(failed),
        num_cut=len(cut),
        # Errors that differ in their request's name alone are one.
        errors=dict(
            collections.Counter(row.error.replace(row.id, "*") for row in failed).most_common()
        ),
        time_to_first_token_s=_percentiles(
            [row.time_to_first_token_s for row in [*answered, *cut]],
            num_longer=sum(row.first_token_s is None for row in cut),
        ),
        time_per_token_s=_percentiles([row.time_per_token_s for row in answered]),
        total_s=_percentiles([row.total_s for row in answered], num_longer=len(cut)),
        hand_in_delay_s=_percentiles([row.submitted_s - row.intended_s for row in load.rows]),
        requests_per_s=rate(len(answered)),
        tokens_in_per_s=rate(sum(row.num_prompt_tokens for row in answered)),
        tokens_out_per_s=rate(sum(row.num_new_tokens for row in answered)),
        window_s=window_s,
        cpu_s=load.usage.cpu_s,
        peak_memory_bytes=load.usage.peak_memory_bytes,
        warm_up_s=max((row.finished_s for row in load.warm_up), default=0.0),
        compile_s=load.warm_up_usage.compile_s,
        late_compile_s=load.usage.compile_s,
    )


def estimate_percentile(values: Sequence[float], share: float, *, num_longer: int = 0) -> Estimate:
    """The value that `share` of all items stay at or below, with its interval.

    num_longer: items whose value is not known, only that it is longer than all that are. num_items
    counts them. All three numbers are None where the interval's ends are not among `values`.
    """
    count = len(values) + num_longer
    low, high = interval_ranks(count, share)
    if low < 1 or high > len(values):
        return Estimate(None, num_items=count)
    ordered = sorted(values)
    rank = math.ceil(share * count)
    return Estimate(ordered[rank - 1], ordered[low - 1], ordered[high - 1], num_items=count)


def num_items_needed(share: float) -> int:
    """The fewest items that bound a percentile from both sides."""
    return math.ceil(math.log(_TAIL) / math.log(max(share, 1 - share)))


def interval_ranks(count: int, share: float) -> tuple[int, int]:
    """Ranks (1 is the smallest item) between which the true percentile lies with at least 95 %.

    How many of `count` items lie below it is binomial. Rank 0 or count + 1: no item bounds it.
    """
    # P(at most k items below); in logarithms, because the coefficients overflow.
    at_most, total = [], 0.0
    for below in range(count + 1):
        total += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(below + 1)
            - math.lgamma(count - below + 1)
            + below * math.log(share)
            + (count - below) * math.log1p(-share)
        )
        at_most.append(total)
    # The item of rank r lies below it when at least r items do, above it when at most r - 1 do.
    low = sum(chance <= _TAIL for chance in at_most)
    high = next((r for r in range(1, count + 1) if at_most[r - 1] >= 1 - _TAIL), count + 1)
    return low, high


def _percentiles(values: Sequence[float | None], *, num_longer: int = 0) -> Percentiles:
    known = [value for value in values if value is not None]
    return Percentiles(
        *(estimate_percentile(known, share, num_longer=num_longer) for share in SHARES.values())
    )
