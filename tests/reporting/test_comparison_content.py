"""Numbers are written with their units, and what is missing is missing."""

from __future__ import annotations

import math

import pytest

from coderllm_jax.reporting.comparison_content import (
    in_words,
    listed,
    make_visible,
    number_of,
    range_in_words,
    read_arms,
    show_in,
)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.41234, "share", "0.412"),
        (0.0123, "seconds", "12.3 ms"),
        (1.5e9, "bytes", "1.50 GB"),
        (2.5e6, "bytes", "2.50 MB"),
        (12.0, "bytes", "12 B"),
        (95.234, "tokens/s", "95.2 tokens/s"),
        (1234.5, "chip-seconds", "1,234 chip-s"),
        (0.13733, "USD", "0.137 USD"),
        (0.000123456, "USD", "0.000123 USD"),
        (0.0, "USD", "0 USD"),
        (63.84, "percent", "63.8"),
        (44.0, "words", "44.0"),
    ],
)
def test_numbers_have_their_units(value: float, unit: str, words: str) -> None:
    assert show_in(unit)(value) == words


def test_a_unit_stands_once_in_a_range_unless_it_changes() -> None:
    assert range_in_words(85.41, 97.2, show_in("tokens/s")) == "85.4 to 97.2 tokens/s"
    assert range_in_words(0.05, 0.2, show_in("seconds")) == "50.0 ms to 0.20 s"
    assert range_in_words(0.1, 0.2, show_in("share")) == "0.100 to 0.200"


def test_what_is_not_known_is_a_dash_without_an_interval() -> None:
    assert in_words(None, "share") == "\u2013"
    assert in_words({"value": None, "low": 0.1, "high": None}, "share") == "\u2013"
    assert in_words({"value": 0.2, "low": None, "high": 0.3}, "share") == "0.200"
    for nothing in (math.nan, math.inf, None, "0.4", True):
        assert number_of({"value": nothing}, "value") is None


def test_names_are_listed_as_people_do() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_nothing_hides_in_texts_nor_in_names() -> None:
    hidden = {"a\u202e": ["\x1b", {"b": "\ud800\n\tc"}], "n": 1, "t": (None, 0.5)}
    assert make_visible(hidden) == {
        r"a\u202e": [r"\x1b", {"b": "\\ud800\n\tc"}],
        "n": 1,
        "t": [None, 0.5],
    }


def test_arms_keep_their_order_and_have_colours_of_their_own() -> None:
    names = ["rag", "trained", "base", "trained_rag", "endpoint"]
    arms = read_arms({"arms": [{"name": name} for name in names]})
    assert list(arms) == names
    assert len({arm.color for arm in arms.values()}) == len(names)
    assert arms["rag"].label == "rag"
