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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.use_cases import (
    Standing,
    UseCase,
    in_words,
    or_infinite,
    standing_of,
    use_cases,
)
from coderllm_jax.comparison.verdicts import Comparison, Verdict, find
from coderllm_jax.config.comparison import UseCasesSection


class Evidence(NamedTuple):
    """One thing that a recommendation rests on; `figure` is a path, or empty."""

    figure: str
    words: str


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
    standings = [standing_of(findings, arm, section) for arm in findings.arms]
    return [
        _recommend(case, standings, findings, section)
        for case in use_cases(section, main=findings.main_set)
    ]


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
            Evidence(path, f"{each.name}: fact F1 {in_words(case.score(each), 'share')}")
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
    if not case.is_limited:
        why = "needs questions with references: what is right is not known"
        return Recommendation(
            case.name, case.label, "", "none", why, case.rule, tuple(evidence), ()
        )
    ranking = sorted(able, key=lambda each: or_infinite(each.machine_s_per_1000.value))
    return Recommendation(
        case.name,
        case.label,
        ranking[0].name,
        "weak",
        "fits, at the least machine time; whether its answers are right is not known",
        case.rule,
        tuple(evidence),
        tuple(each.name for each in ranking),
    )


def _verdict(
    case: UseCase, findings: Findings, first: str, second: str
) -> tuple[Verdict, Comparison] | None:
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
    return "weak", f"first by the rule; these data cannot tell it from {_listed(open_to)}"


def _cost_strength(chosen: Standing, others: Sequence[Standing]) -> tuple[str, str]:
    """By whether the intervals of what a right answer costs lie apart, or only the figures do."""
    mine = chosen.per_right_at_volume
    known = [each.per_right_at_volume for each in others if each.per_right_at_volume.value]
    nearest = min(or_infinite(each.value) for each in known) if known else float("inf")
    words = f"{in_words(mine, 'chip-seconds')} a right answer"
    if known:
        words += f"; the next one takes {nearest / (mine.value or nearest):.2f} times that"
    high = or_infinite(mine.high)
    if all(high < (each.low or 0.0) for each in known):
        return "strong", words
    if all(high < or_infinite(each.value) for each in known):
        return "moderate", words
    return "weak", f"{words}, which these data cannot tell from chance"


def _listed(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
