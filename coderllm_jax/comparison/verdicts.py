"""Arm against arm: better, worse, equivalent, or nothing that these data can show.

    question     q1    q2    q3    …
    trained      1.0   0.5   0.0        difference 0.12 (0.05 to 0.19)   p 0.0006, after Holm 0.004
    base         0.5   0.5   0.0        → trained is better than base

    interval of the difference          p after Holm      verdict
    wholly inside ±margin               whatever          equivalent
    not                                 at most alpha     better or worse
    not                                 above it          no difference these data can show

Everything that answers are scored for shares one budget of false alarms, `verdicts.alpha`: 0.8 of
it belongs to the headline (family accuracy), 0.2 to the rest (family quality), and Holm's method
spends each part over its family's tests. An adjusted p is therefore Holm's, divided by the family's
part, and is held against alpha as a whole. Times are another matter, measurements of this machine:
their family has a budget of its own, and a difference below `speed.margin` of the slower arm's mean
is none, however certain.

Covers: other questions of the kind that was asked, many comparisons at once, either direction.
Does not cover: questions of another kind; another training run of the same card; looking, asking
more, and looking again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from coderllm_jax.comparison.figures import Spec
from coderllm_jax.evaluation.statistics import (
    PairedComparison,
    adjust_holm,
    compare_pairs,
    detectable_binary_difference,
    detectable_mean_difference,
)
from coderllm_jax.records import Estimate

Verdict = Literal["better", "worse", "equivalent", "no_difference"]
BUDGETS = {"accuracy": 0.8, "quality": 0.2, "speed": 1.0}
_TURNED: Mapping[Verdict, Verdict] = {
    "better": "worse",
    "worse": "better",
    "equivalent": "equivalent",
    "no_difference": "no_difference",
}


class Contest(NamedTuple):
    """Two arms on one figure's common items, before it is known what else is tested.

    larger_mean: of the two; what a margin of a time is a part of.
    """

    spec: Spec
    set: str
    first: str
    second: str
    compared: PairedComparison
    differences: tuple[float, ...]
    larger_mean: float


class Comparison(NamedTuple):
    """A contest with its verdict, which is of `first` against `second`."""

    contest: Contest
    adjusted_p: float
    detectable_difference: float | None
    verdict: Verdict
    words: str

    def to_json(self) -> dict[str, Any]:
        """COMPARISON in `comparison.results`."""
        spec, compared = self.contest.spec, self.contest.compared
        better, worse = compared.num_better, compared.num_worse
        if spec.better == "lower":
            better, worse = worse, better
        return {
            "first": self.contest.first,
            "second": self.contest.second,
            "dimension": spec.dimension,
            "figure": spec.name,
            "set": self.contest.set,
            "family": spec.family,
            "is_headline": spec.is_headline,
            "better": spec.better,
            "unit": spec.unit,
            "difference": compared.difference._asdict(),
            "p_value": compared.p_value,
            "adjusted_p": self.adjusted_p,
            "test": compared.test,
            "effect": compared.effect,
            "effect_size": compared.effect_size,
            "detectable_difference": self.detectable_difference,
            "num_items": compared.num_items,
            "num_clusters": compared.num_clusters,
            "num_better": better,
            "num_worse": worse,
            "verdict": self.verdict,
            "words": self.words,
        }


def hold_contests(
    spec: Spec,
    values: Mapping[str, Mapping[str, float]],
    *,
    set_name: str,
    seed: int,
    clusters: Mapping[str, Hashable] | None = None,
) -> list[Contest]:
    """Every pair of arms on the items that both have a value for. values: arm → item → value.

    clusters: item → what it goes right and wrong together with.
    """
    contests = []
    for first, second in itertools.combinations(values, 2):
        items = [item for item in values[first] if item in values[second]]
        if not items:
            continue
        a = [values[first][item] for item in items]
        b = [values[second][item] for item in items]
        compared = compare_pairs(
            a,
            b,
            binary=spec.binary,
            clusters=[clusters[item] for item in items] if clusters is not None else None,
            bounds=spec.bounds,
            seed=seed,
        )
        differences = tuple(x - y for x, y in zip(a, b, strict=True))
        larger_mean = max(sum(a), sum(b)) / len(items)
        contests.append(Contest(spec, set_name, first, second, compared, differences, larger_mean))
    return contests


def decide(
    contests: Sequence[Contest], *, alpha: float, margin: float, speed_margin: float
) -> list[Comparison]:
    """A verdict on every contest, in their order; families are adjusted as wholes.

    margin: of scores from 0 to 1; a percentage's is a hundred times that. speed_margin: a part of
    the larger mean.
    """
    decided: dict[int, Comparison] = {}
    for family, part in BUDGETS.items():
        places = [n for n, contest in enumerate(contests) if contest.spec.family == family]
        holm = adjust_holm(contests[place].compared.p_value for place in places)
        for place, p in zip(places, holm, strict=True):
            decided[place] = _decide(
                contests[place],
                min(1.0, p / part),
                alpha=alpha,
                strictest=alpha * part / len(places),
                margin=_margin(contests[place], margin, speed_margin),
            )
    return [decided[place] for place in sorted(decided)]


def find(
    comparisons: Sequence[Comparison], figure: str, first: str, second: str, *, set_name: str
) -> tuple[Verdict, Comparison] | None:
    """The verdict of `first` against `second`, in whichever order they were compared."""
    for comparison in comparisons:
        contest = comparison.contest
        if (contest.spec.name, contest.set) != (figure, set_name):
            continue
        if (contest.first, contest.second) == (first, second):
            return comparison.verdict, comparison
        if (contest.first, contest.second) == (second, first):
            return _TURNED[comparison.verdict], comparison
    return None


def is_within(difference: Estimate, margin: float) -> bool:
    """Whether the whole interval lies inside ±margin: two one-sided tests at 2.5 % each."""
    if difference.low is None or difference.high is None:
        return False
    return -margin < difference.low and difference.high < margin


def show(value: float | None, unit: str) -> str:
    """A number with its unit, for a sentence."""
    if value is None or not math.isfinite(value):
        return "-"
    if unit == "share":
        return f"{value:.3f}"
    if unit == "seconds":
        return f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:.2f} s"
    if unit == "percent":
        return f"{value:.1f}"
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:.3g} {unit}"


def _margin(contest: Contest, margin: float, speed_margin: float) -> float:
    if contest.spec.family == "speed":
        return speed_margin * abs(contest.larger_mean)
    return 100 * margin if contest.spec.unit == "percent" else margin


def _decide(
    contest: Contest, adjusted_p: float, *, alpha: float, strictest: float, margin: float
) -> Comparison:
    """strictest: the level of the family's first step, which a lone difference has to meet."""
    spec, difference = contest.spec, contest.compared.difference
    value = difference.value or 0.0
    counts = abs(value) >= margin if spec.family == "speed" else value != 0
    verdict: Verdict = "no_difference"
    if is_within(difference, margin):
        verdict = "equivalent"
    elif adjusted_p <= alpha and counts:
        verdict = "better" if (value > 0) == (spec.better == "higher") else "worse"
    detectable = _detectable(contest, strictest)
    words = _say(contest, verdict, margin=margin, detectable=detectable)
    return Comparison(contest, adjusted_p, detectable, verdict, words)


def _detectable(contest: Contest, alpha: float) -> float | None:
    """The smallest true difference that a test at that level shows with 80 % power.

    Of clusters, compare_pairs' own figure, which knows their spread but no family. None where not
    even the largest difference that there can be would be shown.
    """
    found = _smallest_shown(contest, alpha)
    bounds = contest.spec.bounds
    if found is None or (bounds is not None and found > bounds[1] - bounds[0]):
        return None
    return found


def _smallest_shown(contest: Contest, alpha: float) -> float | None:
    compared = contest.compared
    if compared.num_clusters < compared.num_items:
        return compared.detectable_difference
    if contest.spec.binary:
        discordance = (compared.num_better + compared.num_worse + 2) / (compared.num_items + 2)
        return detectable_binary_difference(
            compared.num_items, discordance=discordance, alpha=alpha
        )
    if compared.num_items < 2:
        return None
    deviation = float(np.std(contest.differences, ddof=1))
    return detectable_mean_difference(compared.num_items, deviation=deviation, alpha=alpha)


def _say(contest: Contest, verdict: Verdict, *, margin: float, detectable: float | None) -> str:
    spec, difference = contest.spec, contest.compared.difference
    first, second, unit = contest.first, contest.second, spec.unit
    size = show(abs(difference.value or 0.0), unit)
    interval = ""
    if difference.low is not None and difference.high is not None:
        ends = (difference.low, difference.high)
        if (difference.value or 0.0) < 0:
            ends = (-difference.high, -difference.low)
        interval = f" ({show(ends[0], unit)} to {show(ends[1], unit)})"
    if verdict in ("better", "worse"):
        return f"{spec.label}: {first} is {verdict} than {second} by {size}{interval}"
    if verdict == "equivalent":
        return (
            f"{spec.label}: {first} and {second} differ by less than {show(margin, unit)}: "
            f"{size}{interval}"
        )
    missed = ""
    if detectable is not None:
        missed = f"; one under {show(detectable, unit)} would likely be missed"
    return (
        f"{spec.label}: no difference between {first} and {second} that these "
        f"{contest.compared.num_items} items can show{missed}"
    )
