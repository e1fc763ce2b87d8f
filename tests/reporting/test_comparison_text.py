"""The terminal's one screen of a comparison: table, prompts, verdicts, advice, what is missing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.reporting.comparison_text import describe_comparison, in_words
from tests.reporting.comparisons import a_comparison

FOLDER = Path("runs/comparison")


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return a_comparison()


def lines_of(content: dict[str, Any]) -> list[str]:
    return describe_comparison(FOLDER, content).splitlines()


def test_a_row_a_headline_figure_and_a_column_an_arm(content: dict) -> None:
    head, *rows = lines_of(content)
    assert head.split() == [arm["name"] for arm in content["arms"]]
    figure = next(
        figure
        for dimension in content["dimensions"]
        for figure in dimension["figures"]
        if (figure["name"], figure["set"]) == ("fact_f1", "seen")
    )
    row = next(row for row in rows if row.strip().startswith("Fact F1"))
    for estimate in figure["arms"].values():
        cell = f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
        assert cell in row


def test_it_fits_on_a_screen(content: dict) -> None:
    lines = lines_of(content)
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 140


def test_every_arms_prompt_and_every_recommendation_is_there(content: dict) -> None:
    said = describe_comparison(FOLDER, content)
    for arm in content["arms"]:
        assert arm["prompt"]["chosen"] in said
    for each in content["recommendations"]:
        assert each["label"] in said
    assert said.splitlines()[-1] == "page: runs/comparison/report/index.html"


def test_what_could_not_be_scored_is_said(content: dict) -> None:
    changed = copy.deepcopy(content)
    changed["unscored"] = ["nobody knows what is right"]
    changed["notes"] = ["one arm was slow"]
    lines = lines_of(changed)
    assert "not scored: nobody knows what is right" in lines
    assert "note: one arm was slow" in lines


def test_nothing_moves_the_cursor() -> None:
    said = describe_comparison(FOLDER, a_comparison(words="\x1b[2J\r\u202e"))
    assert not any(letter in said for letter in "\x1b\r\u202e")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.4142, "share", "0.41"),
        (0.25, "seconds", "250 ms"),
        (12.34, "seconds", "12.3 s"),
        (1.19e9, "bytes", "1.19 GB"),
        (4704.6, "chip-seconds", "4,705 s"),
        (9.47, "tokens/s", "9.47/s"),
        (3.14159, "USD", "3.142"),
    ],
)
def test_numbers_say_their_unit(value: float, unit: str, words: str) -> None:
    assert in_words(value, unit) == words
