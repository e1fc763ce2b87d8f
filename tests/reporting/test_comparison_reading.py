"""The sentences at the top follow from figures, verdicts and recommendations, and no further."""

from __future__ import annotations

from typing import Any

import pytest

from coderllm_jax.reporting.comparison_content import main_figure
from coderllm_jax.reporting.comparison_reading import (
    read_cost,
    read_standing,
    read_verdict,
    verdict_of,
)

F1 = {"trained": 0.41, "rag": 0.54, "base": 0.08}


def an_estimate(value: float | None, around: float = 0.05) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - around, value + around)
    return {"value": value, "low": low, "high": high, "num_items": 100}


def a_content(
    verdicts: dict[tuple[str, str], str], *, values: dict[str, float] = F1, **others: Any
) -> dict[str, Any]:
    """One figure of accuracy on one set, with verdicts of some pairs."""
    return {
        "arms": [{"name": name, "label": name.capitalize()} for name in values],
        "sets": [{"name": "seen", "label": "trained on", "is_headline": True, "is_scored": True}],
        "dimensions": [
            {
                "name": "accuracy",
                "figures": [
                    {
                        "name": "fact_f1",
                        "label": "Fact F1",
                        "set": "seen",
                        "unit": "share",
                        "better": "higher",
                        "is_headline": True,
                        "arms": {name: an_estimate(value) for name, value in values.items()},
                    }
                ],
            }
        ],
        "comparisons": [
            {
                "first": first,
                "second": second,
                "dimension": "accuracy",
                "figure": "fact_f1",
                "set": "seen",
                "verdict": verdict,
            }
            for (first, second), verdict in verdicts.items()
        ],
        **others,
    }


def said(content: dict[str, Any]) -> str:
    return " ".join(read_verdict(content))


def test_one_arm_leads() -> None:
    content = a_content(
        {("trained", "rag"): "worse", ("trained", "base"): "better", ("rag", "base"): "better"}
    )
    assert said(content) == (
        "Rag answers best. Fact F1 on 100 questions (trained on): Rag 0.540 (0.490 to 0.590), "
        "Trained 0.410 (0.360 to 0.460) and Base 0.080 (0.030 to 0.130)."
    )


@pytest.mark.parametrize("equal", ["no_difference", "equivalent"])
def test_two_lead_where_nothing_tells_them_apart(equal: str) -> None:
    content = a_content(
        {("trained", "rag"): equal, ("trained", "base"): "better", ("base", "rag"): "worse"}
    )
    assert said(content).startswith(
        "Rag and Trained answer best, with no difference shown between them."
    )


def test_nobody_leads_where_no_difference_is_shown() -> None:
    content = a_content({("trained", "rag"): "no_difference", ("rag", "base"): "no_difference"})
    assert said(content).startswith("No arm is shown to answer better than another. Fact F1 on")


def test_what_was_not_tested_is_told_without_a_verdict() -> None:
    assert said(a_content({})).startswith("Fact F1 on 100 questions (trained on): Rag 0.540")


def test_verdicts_are_turned_with_the_arms() -> None:
    content = a_content({("trained", "rag"): "worse", ("rag", "base"): "equivalent"})
    figure = main_figure(content)
    assert figure is not None
    assert verdict_of(content, figure, "trained", "rag") == "worse"
    assert verdict_of(content, figure, "rag", "trained") == "better"
    assert verdict_of(content, figure, "base", "rag") == "equivalent"
    assert verdict_of(content, figure, "trained", "base") == ""


def test_where_less_is_better_the_least_leads() -> None:
    content = a_content({("trained", "rag"): "better"})
    content["dimensions"][0]["figures"][0]["better"] = "lower"
    figure = main_figure(content)
    assert figure is not None
    standing = read_standing(content, figure)
    assert standing.ranking == ["base", "trained", "rag"]
    assert standing.leaders == ["base", "trained"]


def costs(**values: dict[str, float]) -> dict[str, Any]:
    """values: arm → name of an estimate → its value."""
    return {
        "currency": "EUR",
        "arms": {
            arm: {name: an_estimate(value) for name, value in of.items()}
            for arm, of in values.items()
        },
    }


def test_costs_are_told_from_the_least_up() -> None:
    content = a_content(
        {},
        cost=costs(
            rag={"chip_seconds_per_1000": 800.0},
            base={"chip_seconds_per_1000": 400.0},
            trained={"chip_seconds_per_1000": 410.0},
        ),
    )
    assert (
        "1,000 answers cost, in chip-seconds: 400 with Base, 410 with Trained and 800 with Rag "
        "(2.0 times); no prices were set."
    ) in said(content)


def test_costs_are_in_money_where_that_is_known_of_as_many() -> None:
    both = {"chip_seconds_per_1000": 400.0, "price_per_1000": 0.5}
    content = a_content({}, cost=costs(rag=both, base=both))
    cost = read_cost(content)
    assert cost is not None
    assert (cost.name, cost.unit) == ("price_per_1000", "EUR")
    # An endpoint has a price alone, and two arms no price.
    seconds = {"chip_seconds_per_1000": 400.0}
    mixed = costs(rag=seconds, base=seconds, endpoint={"price_per_1000": 0.5})
    cost = read_cost(a_content({}, cost=mixed))
    assert cost is not None
    assert (cost.name, sorted(cost.arms)) == ("chip_seconds_per_1000", ["base", "rag"])
    assert read_cost(a_content({})) is None


def test_uses_are_gathered_by_arm_with_how_sure() -> None:
    content = a_content(
        {},
        recommendations=[
            {"label": "Offline batch", "arm": "rag", "strength": "strong"},
            {"label": "Interactive", "arm": "trained", "strength": "weak"},
            {"label": "Must cite", "arm": "rag", "strength": "strong"},
            {"use_case": "tight_memory", "arm": "", "strength": "none"},
        ],
    )
    assert said(content).startswith(
        "Use Rag for offline batch and must cite; Trained for interactive; no arm is fit for "
        "tight_memory (evidence: 2 strong and 1 weak of 4)."
    )


def test_where_no_arm_is_fit_nothing_is_recommended() -> None:
    content = {"recommendations": [{"label": "Must cite", "arm": "", "strength": "none"}]}
    assert said(content) == "No arm is fit for must cite."
    content["recommendations"] *= 2
    assert said(content) == "No arm is fit for any of these uses."


def test_without_references_nobody_is_called_right() -> None:
    asked = {"sets": [{"name": "asked", "is_scored": False}]}
    assert "None of these questions has a reference answer" in said(asked)
    unmeasured = {"sets": [{"name": "seen", "is_scored": True}]}
    assert said(unmeasured) == "How right the answers are could not be measured."
    assert said({}) == ""
