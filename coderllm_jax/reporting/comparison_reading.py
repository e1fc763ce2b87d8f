"""A comparison's verdict in three sentences: what to use for what, who answers best, what it costs.

    fact F1 on seen: trained_rag 0.56, rag 0.54, trained 0.41, base 0.08      ┐
    trained_rag against rag: no difference; against the others: better        ┼─►  "Fine-tuned +
    chip-seconds per 1,000 answers: 812, 640, 310, 290                        │    retrieval and
    recommendations: offline → trained_rag, strong; cite → rag, moderate; …   ┘    Retrieval …"

Plain rules over comparison.json. Covers what it holds; decides nothing anew: who leads follows from
the verdicts that were found there, and what to use from its recommendations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    Figure,
    in_words,
    is_known,
    label_of,
    listed,
    main_figure,
    main_set,
    number_of,
    read_arms,
    show_in,
)

_TURNED = {"better": "worse", "worse": "better"}
_STRENGTHS = ("strong", "moderate", "weak")


class Cost(NamedTuple):
    """What 1,000 answers take of each arm. name: of the estimate in COST; unit: its unit."""

    name: str
    unit: str
    label: str
    arms: Mapping[str, Mapping[str, Any]]


class Standing(NamedTuple):
    """Arms by a figure, best first. leaders: the best, and whom it is not shown to be better than.

    is_tested: whether any two were compared on it; is_shown: whether any two are shown to differ.
    """

    ranking: Sequence[str]
    leaders: Sequence[str]
    is_tested: bool
    is_shown: bool


def read_verdict(content: Content) -> list[str]:
    """The sentences at the top; at most three, fewer where there is less to say."""
    arms = read_arms(content)
    sentences = [_uses(content, arms), _accuracy(content, arms), _costs(content, arms)]
    return [sentence for sentence in sentences if sentence]


def read_cost(content: Content) -> Cost | None:
    """Costs in money or in chip-seconds, whichever is known of more arms; None where neither is."""
    cost = content.get("cost", {})
    currency = str(cost.get("currency", ""))
    found = []
    for kind, unit, label in (
        ("price", currency, f"{currency} per 1,000 answers"),
        ("chip_seconds", "chip-seconds", "chip-seconds per 1,000 answers"),
    ):
        name = f"{kind}_per_1000"
        known = {
            str(arm): each[name]
            for arm, each in cost.get("arms", {}).items()
            if is_known(each.get(name))
        }
        if known and unit:
            found.append(Cost(name, unit, label, known))
    return max(found, key=lambda one: len(one.arms), default=None)


def verdict_of(content: Content, figure: Figure, first: str, second: str) -> str:
    """Of `first` against `second` on a figure; "" where they were not compared on it."""
    for each in content.get("comparisons", ()):
        if (each.get("dimension"), each.get("figure"), each.get("set", "")) != (
            figure.dimension,
            figure.name,
            figure.set,
        ):
            continue
        verdict = str(each.get("verdict", ""))
        if (each.get("first"), each.get("second")) == (first, second):
            return verdict
        if (each.get("first"), each.get("second")) == (second, first):
            return _TURNED.get(verdict, verdict)
    return ""


def read_standing(content: Content, figure: Figure) -> Standing:
    """Who leads on a figure, by the verdicts that were found."""
    known = [name for name, estimate in figure.arms.items() if is_known(estimate)]
    turn = -1.0 if figure.better == "lower" else 1.0
    ranking = sorted(
        known, key=lambda name: turn * (number_of(figure.arms[name], "value") or 0.0), reverse=True
    )
    verdicts = {
        name: {verdict_of(content, figure, name, other) for other in ranking if other != name}
        for name in ranking
    }
    leaders = [name for name, found in verdicts.items() if "worse" not in found]
    return Standing(
        ranking,
        leaders,
        is_tested=any(found - {""} for found in verdicts.values()),
        is_shown=len(leaders) < len(ranking),
    )


def _accuracy(content: Content, arms: Mapping[str, Arm]) -> str:
    figure = main_figure(content)
    if figure is None:
        sets = content.get("sets", ())
        if not sets or any(each.get("is_scored") for each in sets):
            return "How right the answers are could not be measured." if sets else ""
        return (
            "None of these questions has a reference answer, so no arm can be called more right "
            "than another; style, speed and cost are compared."
        )
    standing = read_standing(content, figure)
    number = max(int(number_of(each, "num_items") or 0) for each in figure.arms.values())
    asked = f"{number:,} questions"
    if where := main_set(content).get("label"):
        asked += f" ({where})"
    values = [
        f"{label_of(arms, name)} {in_words(figure.arms[name], figure.unit)}"
        for name in standing.ranking
    ]
    measured = f"{figure.label} on {asked}: {listed(values)}."
    if not standing.is_tested:
        return measured
    if not standing.is_shown:
        return f"No arm is shown to answer better than another. {measured}"
    leaders = [label_of(arms, name) for name in standing.leaders]
    if len(leaders) == 1:
        return f"{leaders[0]} answers best. {measured}"
    return f"{listed(leaders)} answer best, with no difference shown between them. {measured}"


def _costs(content: Content, arms: Mapping[str, Arm]) -> str:
    cost = read_cost(content)
    if cost is None or len(cost.arms) < 2:
        return ""
    values = {name: number_of(each, "value") or 0.0 for name, each in cost.arms.items()}
    ordered = sorted(values, key=lambda name: values[name])
    least = values[ordered[0]]
    told = [
        f"{show_in(cost.unit)(values[name]).partition(' ')[0]} with {label_of(arms, name)}"
        + (f" ({values[name] / least:.1f} times)" if least and values[name] > 1.05 * least else "")
        for name in ordered
    ]
    no_prices = "; no prices were set" if cost.name.startswith("chip") else ""
    return f"1,000 answers cost, in {cost.unit}: {listed(told)}{no_prices}."


def _uses(content: Content, arms: Mapping[str, Arm]) -> str:
    of_arm: dict[str, list[str]] = {}
    strengths: dict[str, int] = {}
    recommendations = content.get("recommendations", ())
    for each in recommendations:
        label = str(each.get("label") or each.get("use_case", ""))
        of_arm.setdefault(str(each.get("arm", "")), []).append(label[:1].lower() + label[1:])
        strength = str(each.get("strength", ""))
        strengths[strength] = strengths.get(strength, 0) + 1
    if not of_arm:
        return ""
    if list(of_arm) == [""] and len(recommendations) > 1:
        return "No arm is fit for any of these uses."
    unfit = of_arm.pop("", [])
    parts = [f"{label_of(arms, name)} for {listed(uses)}" for name, uses in of_arm.items()]
    sentence = f"Use {'; '.join(parts)}" if parts else ""
    if unfit:
        nobody = f"o arm is fit for {listed(unfit)}"
        sentence = f"{sentence}; n{nobody}" if sentence else f"N{nobody}"
    sure = [f"{strengths[name]} {name}" for name in _STRENGTHS if strengths.get(name)]
    how_sure = f" (evidence: {listed(sure)} of {len(recommendations)})" if sure else ""
    return f"{sentence}{how_sure}."
