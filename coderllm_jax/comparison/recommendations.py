"""Which arm for which use: explicit rules over the figures, with evidence and strength.

    every arm ── fits the use? ── knows enough? ── not worse than another ── first by preference
                 (TTFT, memory,    fact F1 at        on the deciding          (score, or cost
                  citations …)     least least_score  figure, by verdict       where equals remain)

    strength    strong      better, by verdict, than every other arm that fits
                moderate    better than or equivalent to each; or the only one that fits
                weak        at least one of the others may be as good: these data cannot tell
                none        no arm fits, or nothing tells the arms apart

A rule says which arm; it never says that an arm is good. `use_cases.least_score` is where that is
asked. Of a user's own questions nobody knows what is right: what is recommended then rests on
speed, memory and citations alone, and is weak.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.cost import amortise
from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.questions import UNSEEN
from coderllm_jax.comparison.verdicts import Verdict, find, show
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
    per_right_at_volume: float | None

    @property
    def name(self) -> str:
        """The arm's."""
        return self.arm.name


class Fit(NamedTuple):
    """Whether an arm fits a use, and why, in words; `figure` is what says so."""

    fits: bool
    words: str
    figure: str = ""


class Evidence(NamedTuple):
    """One thing that a recommendation rests on; `figure` is a path, or empty."""

    figure: str
    words: str


class UseCase(NamedTuple):
    """A use and its rule. decides: the figure whose verdicts tell arms apart, and its set.

    prefers: what is least, among arms that the verdicts leave equal.
    """

    name: str
    label: str
    rule: str
    fit: Callable[[Standing], Fit]
    decides: tuple[str, str]
    score: Callable[[Standing], Estimate]
    prefers: Callable[[Standing], float]


class Recommendation(NamedTuple):
    """RECOMMENDATION in `comparison.results`."""

    use_case: str
    label: str
    arm: str
    strength: str
    words: str
    rule: str
    evidence: tuple[Evidence, ...]
    ranking: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self._asdict(),
            "evidence": [each._asdict() for each in self.evidence],
            "ranking": list(self.ranking),
        }


def recommend(findings: Findings, section: UseCasesSection) -> list[Recommendation]:
    """One for every use case, in a fixed order."""
    standings = [_standing(findings, arm, section) for arm in findings.arms]
    return [
        _recommend(case, standings, findings, section) for case in _use_cases(section, findings)
    ]


def _use_cases(section: UseCasesSection, findings: Findings) -> list[UseCase]:
    main = findings.main_set
    by_score = ("fact_f1", main)

    def anything(_: Standing) -> Fit:
        return Fit(True, "")

    def score(standing: Standing) -> Estimate:
        return standing.score

    def highest(standing: Standing) -> float:
        return -(standing.score.value or 0.0)

    def cheapest(standing: Standing) -> float:
        return _or_infinite(standing.machine_s_per_1000.value)

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
            "Whoever is worse than nobody in fact F1; among those, the least machine time of "
            "1,000 answers.",
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
        ),
        UseCase(
            "high_volume",
            "High volume",
            f"The least machine time of a right answer over {section.volume:,} answers, training "
            "included.",
            lambda standing: _has_right(standing, section),
            ("", ""),
            score,
            lambda standing: _or_infinite(standing.per_right_at_volume),
        ),
    ]


def _standing(findings: Findings, arm: Arm, section: UseCasesSection) -> Standing:
    main = findings.main_set

    def estimate(path: str) -> Estimate:
        figure = findings.figure(path)
        return figure.arms.get(arm.name, _NONE) if figure is not None else _NONE

    cost = findings.costs.arms[arm.name]
    right = estimate(f"accuracy/{main}/right")
    at_volume = amortise(cost, findings.costs.machine, section.volume)["chip_seconds_per_1000"]
    return Standing(
        arm,
        score=estimate(f"accuracy/{main}/fact_f1"),
        newer=estimate(f"accuracy/{UNSEEN}/fact_f1"),
        first_token_s=estimate("performance/alone/time_to_first_token_s/p50"),
        cites=estimate(f"quality/{main}/cites"),
        memory_bytes=float(sum(arm.memory.values())) if arm.memory else None,
        machine_s_per_1000=cost.per_1000,
        per_right_at_volume=(
            at_volume / 1000 / right.value if at_volume is not None and right.value else None
        ),
    )


def _recommend(
    case: UseCase, standings: Sequence[Standing], findings: Findings, section: UseCasesSection
) -> Recommendation:
    fits = {standing.name: case.fit(standing) for standing in standings}
    fitting = [standing for standing in standings if fits[standing.name].fits]
    evidence = [
        Evidence(fit.figure, f"{name}: {fit.words}") for name, fit in fits.items() if fit.words
    ]
    scored = any(case.score(standing).value is not None for standing in standings)
    if scored:
        path = f"accuracy/{case.decides[1] or findings.main_set}/fact_f1"
        evidence += [
            Evidence(path, f"{each.name}: fact F1 {_in_words(case.score(each), 'share')}")
            for each in fitting
        ]
        able = [each for each in fitting if (case.score(each).value or 0.0) >= section.least_score]
    else:
        able = fitting

    def nobody(why: str) -> Recommendation:
        return Recommendation(
            case.name, case.label, "", "none", why, case.rule, tuple(evidence), ()
        )

    if not fitting:
        return nobody(f"no arm fits: {'; '.join(each.words for each in evidence)}")
    if not able:
        return nobody(
            f"no arm that fits reaches a fact F1 of {section.least_score:g} "
            "(use_cases.least_score): none of them knows enough"
        )
    if not scored and case.decides[0]:
        return _without_scores(case, able, evidence)
    verdicts = _verdicts(case, fitting, findings)
    contenders = [each for each in able if "worse" not in verdicts[each.name].values()]
    # Where each is worse than some other (verdicts need not be transitive), all that know enough.
    ranking = sorted(contenders or able, key=case.prefers)
    chosen = ranking[0]
    strength, words = _strength(case, chosen, fitting, verdicts[chosen.name])
    if case.decides[0]:
        evidence += [
            Evidence("", found[1].words)
            for other in fitting
            if other is not chosen
            and (found := _verdict(case, findings, chosen.name, other.name)) is not None
        ]
    return Recommendation(
        case.name,
        case.label,
        chosen.name,
        strength,
        words,
        case.rule,
        tuple(evidence),
        tuple(each.name for each in ranking),
    )


def _without_scores(
    case: UseCase, able: Sequence[Standing], evidence: Sequence[Evidence]
) -> Recommendation:
    """Of questions without references: the cheapest that fits, and that this is weak."""
    ranking = sorted(able, key=lambda each: _or_infinite(each.machine_s_per_1000.value))
    is_decided = len(able) == 1 or case.fit(able[0]).words != ""
    return Recommendation(
        case.name,
        case.label,
        ranking[0].name if is_decided else "",
        "weak" if is_decided else "none",
        "fits, at the least machine time; whether its answers are right is not known"
        if is_decided
        else "needs questions with references: what is right is not known",
        case.rule,
        tuple(evidence),
        tuple(each.name for each in ranking) if is_decided else (),
    )


def _verdict(case: UseCase, findings: Findings, first: str, second: str) -> Any:
    figure, set_name = case.decides
    return find(findings.comparisons, figure, first, second, set_name=set_name)


def _verdicts(
    case: UseCase, fitting: Sequence[Standing], findings: Findings
) -> dict[str, dict[str, Verdict]]:
    """Of each arm against each other one; nothing where the case is decided by no verdict."""
    found: dict[str, dict[str, Verdict]] = {each.name: {} for each in fitting}
    if not case.decides[0]:
        return found
    for one in fitting:
        for other in fitting:
            if one is not other and (verdict := _verdict(case, findings, one.name, other.name)):
                found[one.name][other.name] = verdict[0]
    return found


def _strength(
    case: UseCase, chosen: Standing, fitting: Sequence[Standing], verdicts: Mapping[str, Verdict]
) -> tuple[str, str]:
    """Against every arm that fits, also those that seem to know too little: it may only seem so."""
    others = [each for each in fitting if each is not chosen]
    if not others:
        return "moderate", "the only arm that fits"
    if not case.decides[0]:
        return _cost_strength(chosen, others)
    said = [verdicts.get(each.name, "no_difference") for each in others]
    if all(verdict == "better" for verdict in said):
        return "strong", f"better than {_listed(each.name for each in others)}"
    open_to = [
        each.name for each in others if verdicts.get(each.name) not in ("better", "equivalent")
    ]
    if not open_to:
        equal = [each.name for each in others if verdicts.get(each.name) == "equivalent"]
        return (
            "moderate",
            f"as good as {_listed(equal)} within the margin, and preferred by the rule",
        )
    return (
        "weak",
        f"preferred by the rule; these data cannot show whether {_listed(open_to)} "
        f"{'is' if len(open_to) == 1 else 'are'} as good",
    )


def _cost_strength(chosen: Standing, others: Sequence[Standing]) -> tuple[str, str]:
    """By how far the next one is: twice as dear is beyond what rates and shares are off by."""
    mine = _or_infinite(chosen.per_right_at_volume)
    nearest = min(_or_infinite(each.per_right_at_volume) for each in others)
    times = nearest / mine if mine else float("inf")
    words = f"{mine:.3g} chip-seconds a right answer; the next one takes {times:.2f} times that"
    if times >= 2:
        return "strong", words
    return ("moderate" if times >= 1.25 else "weak"), words


def _within(estimate: Estimate, most: float, unit: str, *, what: str, figure: str) -> Fit:
    """Whether a figure is surely at most so much: its interval's end, where it has one."""
    if estimate.value is None:
        return Fit(False, "not measured", figure)
    end = estimate.high if estimate.high is not None else estimate.value
    words = f"{what} {_in_words(estimate, unit)}"
    return Fit(end <= most, words + ("" if end <= most else f", over {show(most, unit)}"), figure)


def _cites(standing: Standing, section: UseCasesSection, main: str) -> Fit:
    figure = f"quality/{main}/cites"
    if standing.arm.name == "endpoint" or not standing.arm.looks_up:
        return Fit(False, "has no sources to cite")
    value = standing.cites.value
    if value is None:
        return Fit(False, "not measured", figure)
    fits = value >= section.cited_share
    words = f"{_in_words(standing.cites, 'share')} of its answers cite"
    return Fit(fits, words + ("" if fits else f", under {section.cited_share:g}"), figure)


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
    value = standing.per_right_at_volume
    if value is None:
        return Fit(False, "what a right answer costs is not known", "cost/chip_seconds_per_right")
    return Fit(
        True,
        f"{value:.3g} chip-seconds a right answer over {section.volume:,}",
        "cost/chip_seconds_per_right",
    )


def _in_words(estimate: Estimate, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return show(estimate.value, unit)
    ends = f"{show(estimate.low, unit)} to {show(estimate.high, unit)}"
    return f"{show(estimate.value, unit)} ({ends})"


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value


def _listed(names: Any) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
