"""Tests are told as they were made: signs, p values, effects, and who is better."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from coderllm_jax.reporting.comparison_statistics import statistics_part
from tests.reporting.outline import Outline


def a_row(**others: Any) -> dict[str, Any]:
    return {
        "first": "rag",
        "second": "base",
        "dimension": "accuracy",
        "figure": "fact_f1",
        "set": "seen",
        "is_headline": True,
        "unit": "share",
        "better": "higher",
        "difference": {"value": -0.25, "low": -0.4, "high": -0.1},
        "p_value": 0.01,
        "adjusted_p": 0.04,
        "test": "mcnemar",
        "effect": "cohens_dz",
        "effect_size": -0.5,
        "detectable_difference": 0.12,
        "num_items": 40,
        "num_clusters": 40,
        "num_better": 3,
        "num_worse": 9,
        "verdict": "worse",
        **others,
    }


def told(*rows: dict[str, Any]) -> str:
    arms = [{"name": "rag", "label": "Retrieval"}, {"name": "base", "label": "Base"}]
    return statistics_part({"arms": arms, "comparisons": list(rows)})


def test_a_row_by_hand() -> None:
    words = re.findall(r'data-name="[^"]*">(.*?)</td>', told(a_row()))
    assert [Outline(f"<p>{each}</p>").text for each in words] == [
        "worse",
        "\u22120.250\u22120.400 to \u22120.100",
        "0.0400.010 before; mcnemar",
        "d \u22120.50",
        "0.120",
        "3 / 9 of 40",
    ]


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "1.000"),
        (0.05, "0.050"),
        (0.00042, "0.00042"),
        (1e-9, "&lt; 0.000001"),
        (0.0, "0.000"),
    ],
)
def test_small_p_values_keep_two_digits(p: float, words: str) -> None:
    assert f'data-name="p after Holm">{words}<' in told(a_row(adjusted_p=p))


def test_an_odds_ratio_may_be_beyond_any_number() -> None:
    row = a_row(effect="odds_ratio", effect_size=math.inf)
    assert "odds ratio beyond any number" in told(row)
    assert "odds ratio 2.50" in told(a_row(effect="odds_ratio", effect_size=2.5))


def test_clusters_are_told_where_they_are_fewer_than_items() -> None:
    assert "of 40 in 12 clusters" in Outline(told(a_row(num_clusters=12))).text
    assert "cluster" not in Outline(told(a_row())).text


def test_what_is_no_headline_is_folded() -> None:
    html = told(a_row(), a_row(is_headline=False, figure="chrf", unit="percent"))
    assert "1 more comparison<" in html
    assert html.index("<details>") > html.index("worse")
    assert "<details>" not in told(a_row())
