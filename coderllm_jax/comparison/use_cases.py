"""The uses that arms are recommended for: a rule each, over where the arms stand.

    use                 an arm fits when                       then
    best answers        always                                 highest fact F1
    offline batch       always                                 least machine time of a right answer
    interactive         its first token comes in time          highest fact F1
    must cite           enough of its answers cite             highest fact F1
    knowledge changes   it was asked what is newer             highest fact F1 on that
    tight memory        it fits                                highest fact F1
    high volume         it has right answers                   the same, training included

Limits are options (`use_cases`). "Then" is among arms that no verdict calls worse than another; see
`recommendations`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.cost import ArmCost
from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.questions import UNSEEN
from coderllm_jax.comparison.verdicts import show
from coderllm_jax.config.comparison import UseCasesSection
from coderllm_jax.records import Estimate

_NONE = Estimate(None)


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where one arm stands in what rules look at. Times in seconds, alone."""

    arm: Arm
    score: Estimate
    newer: Estimate
    first_token_s: Estimate
    cites: Estimate
    memory_bytes: float | None
    machine_s_per_1000: Estimate
    machine_s_per_right: Estimate
    per_right_at_volume: Estimate
    told_to_cite: Estimate

    @property
    def name(self) -> str:
        """The arm's."""
        return self.arm.name


class Fit(NamedTuple):
    """Whether an arm fits a use, and why, in words; `figure` is what says so."""

    fits: bool
    words: str
    figure: str = ""


class UseCase(NamedTuple):
    """A use and its rule. decides: the figure whose verdicts tell arms apart, and its set.

    prefers: what is least, among arms that the verdicts leave equal. is_limited: whether fitting is
    more than taking part, so that it means something where nothing is scored.
    """

    name: str
    label: str
    rule: str
    fit: Callable[[Standing], Fit]
    decides: tuple[str, str]
    score: Callable[[Standing], Estimate]
    prefers: Callable[[Standing], float]
    is_limited: bool = False


def use_cases(section: UseCasesSection, *, main: str) -> list[UseCase]:
    """All of them, in the order in which they are told. main: the set that decides."""
    by_score = ("fact_f1", main)

    def anything(_: Standing) -> Fit:
        return Fit(True, "")

    def score(standing: Standing) -> Estimate:
        return standing.score

    def highest(standing: Standing) -> float:
        return -(standing.score.value or 0.0)

    def cheapest(standing: Standing) -> float:
        return or_infinite(standing.machine_s_per_right.value)

    return [
        UseCase(
            "best_answers",
            "Best answers",
            "Whoever is worse than nobody in fact F1; among those, the highest.",
            anything,
            by_score,
            score,
            highest,
        ),
        UseCase(
            "offline_batch",
            "Offline batch",
            "Whoever is worse than nobody in fact F1; among those, the least machine time of a "
            "right answer.",
            anything,
            by_score,
            score,
            cheapest,
        ),
        UseCase(
            "interactive",
            "Interactive",
            f"First token, asked alone, surely within {section.first_token_s:g} s in the median; "
            "then as for best answers.",
            lambda standing: _within(
                standing.first_token_s,
                section.first_token_s,
                "seconds",
                what="first token after",
                figure="performance/alone/time_to_first_token_s/p50",
            ),
            by_score,
            score,
            highest,
            is_limited=True,
        ),
        UseCase(
            "must_cite",
            "Must cite sources",
            f"At least {section.cited_share:.0%} of the answers cite a passage; then as for best "
            "answers.",
            lambda standing: _cites(standing, section, main),
            by_score,
            score,
            highest,
            is_limited=True,
        ),
        UseCase(
            "knowledge_changes",
            "Knowledge that changes weekly",
            "Whoever is worse than nobody in fact F1 on questions about what is newer than the "
            "training; among those, the highest.",
            _knows_newer,
            ("fact_f1", UNSEEN),
            lambda standing: standing.newer,
            lambda standing: -(standing.newer.value or 0.0),
        ),
        UseCase(
            "tight_memory",
            "Tight memory",
            f"Model, cache, index and embedder within {section.memory_gb:g} GB; then as for best "
            "answers.",
            lambda standing: _fits_memory(standing, section),
            by_score,
            score,
            highest,
            is_limited=True,
        ),
        UseCase(
            "high_volume",
            "High volume",
            f"The least machine time of a right answer over {section.volume:,} answers, training "
            "included.",
            lambda standing: _has_right(standing, section),
            ("", ""),
            score,
            lambda standing: or_infinite(standing.per_right_at_volume.value),
        ),
    ]


def standing_of(findings: Findings, arm: Arm, section: UseCasesSection) -> Standing:
    """Where an arm stands."""
    main = findings.main_set

    def estimate(path: str) -> Estimate:
        figure = findings.figure(path)
        return figure.arms.get(arm.name, _NONE) if figure is not None else _NONE

    cost = findings.costs.arms[arm.name]
    choice = findings.choices[arm.name]
    told = choice.told_to_cite() if choice is not None else None
    return Standing(
        arm,
        score=estimate(f"accuracy/{main}/fact_f1"),
        newer=estimate(f"accuracy/{UNSEEN}/fact_f1"),
        first_token_s=estimate("performance/alone/time_to_first_token_s/p50"),
        cites=estimate(f"quality/{main}/cites"),
        memory_bytes=float(sum(arm.memory.values())) if arm.memory else None,
        machine_s_per_1000=cost.per_1000,
        machine_s_per_right=cost.per_right,
        per_right_at_volume=_with_fixed(cost, section.volume),
        told_to_cite=told.worth.cites if told is not None else _NONE,
    )


def _with_fixed(cost: ArmCost, volume: int) -> Estimate:
    """What a right answer costs where what is spent once is spread over so many answers."""
    right, each_s = cost.per_right, cost.each_s
    if right.value is None or not each_s:
        return _NONE
    times = 1 + cost.fixed_s / volume / each_s
    value, low, high = (None if end is None else end * times for end in right[:3])
    return Estimate(value, low, high, right.num_items)


def _within(estimate: Estimate, most: float, unit: str, *, what: str, figure: str) -> Fit:
    """Whether a figure is surely at most so much: its interval's end, where it has one."""
    if estimate.value is None:
        return Fit(False, "not measured", figure)
    end = estimate.high if estimate.high is not None else estimate.value
    words = f"{what} {in_words(estimate, unit)}"
    return Fit(end <= most, words + ("" if end <= most else f", over {show(most, unit)}"), figure)


def _cites(standing: Standing, section: UseCasesSection, main: str) -> Fit:
    figure = f"quality/{main}/cites"
    if standing.arm.name == "endpoint" or not standing.arm.looks_up:
        return Fit(False, "has no sources to cite")
    value = standing.cites.value
    if value is None:
        return Fit(False, "not measured", figure)
    fits = value >= section.cited_share
    words = f"{in_words(standing.cites, 'share')} of its answers cite"
    if fits:
        return Fit(True, words, figure)
    words += f", under {section.cited_share:g}"
    if standing.told_to_cite.value is not None:
        told = in_words(standing.told_to_cite, "share")
        words += f"; told to, {told} did on the validation questions"
    return Fit(False, words, figure)


def _knows_newer(standing: Standing) -> Fit:
    if standing.newer.value is None:
        return Fit(False, "was asked nothing that is newer than the training")
    return Fit(True, "")


def _fits_memory(standing: Standing, section: UseCasesSection) -> Fit:
    if standing.memory_bytes is None:
        return Fit(False, "memory is another machine's", "performance/memory_bytes")
    gigabytes = standing.memory_bytes / 1e9
    fits = gigabytes <= section.memory_gb
    over = "" if fits else f", over {section.memory_gb:g} GB"
    return Fit(fits, f"{gigabytes:.2f} GB{over}", "performance/memory_bytes")


def _has_right(standing: Standing, section: UseCasesSection) -> Fit:
    estimate = standing.per_right_at_volume
    if estimate.value is None:
        return Fit(False, "what a right answer costs is not known", "cost/chip_seconds_per_right")
    return Fit(
        True,
        f"{in_words(estimate, 'chip-seconds')} a right answer over {section.volume:,}",
        "cost/chip_seconds_per_right",
    )


def in_words(estimate: Estimate, unit: str) -> str:
    """A figure with its interval, for a sentence."""
    if estimate.low is None or estimate.high is None:
        return show(estimate.value, unit)
    ends = f"{show(estimate.low, unit)} to {show(estimate.high, unit)}"
    return f"{show(estimate.value, unit)} ({ends})"


def or_infinite(value: float | None) -> float:
    """What is not known comes last."""
    return float("inf") if value is None else value
