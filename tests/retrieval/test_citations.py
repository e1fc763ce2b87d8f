"""Markers that point nowhere go, code stays as it is, and pieces clean to what the whole does."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coderllm_jax.retrieval.citations import CitationFilter, clean_citations


@pytest.mark.parametrize(
    ("text", "cleaned", "cited", "num_removed"),
    [
        ("Two moments [1]. Fast [7], see [2, 9].", "Two moments [1]. Fast, see [2].", (1, 2), 2),
        ("[2] says so. [2][1]", "[2] says so. [2][1]", (2, 1), 0),
        ("[9] says so.", "says so.", (), 1),
        ("Both [9][1] and [8][9].", "Both [1] and.", (1,), 3),
        ("Nought [0].", "Nought.", (), 1),
        ("Spread [ 1 ;4 ] out", "Spread [1] out", (1,), 1),
        ("Over\nlines [4]\n[1]\n", "Over\nlines\n[1]\n", (1,), 1),
        ("none", "none", (), 0),
        ("", "", (), 0),
    ],
)
def test_markers_by_hand(text, cleaned, cited, num_removed):
    assert clean_citations(text, 3) == (cleaned, cited, num_removed)


@pytest.mark.parametrize(
    "code",
    [
        "x[9]",
        "x = [9]",
        "f([9])",
        "return [9]",
        "y * [9]",
        "`a [9]` it is",
        "```python\na, [9]\n```",
        "    a, [9]",
        "\ta, [9]",
        "[9](https://example.org)",
        "[9]_",
        "[9]th",
        "[a9] [] [9.5] [-9] [12345]",
    ],
)
def test_code_links_and_what_is_no_marker_stay(code):
    assert clean_citations(code, 3) == (code, (), 0)


def test_prose_behind_code_is_prose_again():
    assert clean_citations("`x` [9]\n```\n[9]\n```\n[9] so", 1)[0] == "`x`\n```\n[9]\n```\nso"


_MARKERS = ["[1]", "[9]", " [9]", "[1, 9]", "[", "]", "1", "9", ",", ";"]
_AROUND = ["a", " ", "  ", "\n", "`", "```", "(", ".", "=", "return ", "\t", "é", "\u2028"]
_PIECES = st.lists(st.sampled_from(_MARKERS + _AROUND), max_size=25)


@given(_PIECES)
@example(["a [9", "]", "[", "1]"])
@example(["a ", "[9]", "(", "u)"])
@example(["[9]", "[9]", " ", "a"])
@example(["``", "`[9]\n", "[9]\n", "```\n", "[9]"])
def test_pieces_clean_to_what_the_whole_does(pieces):
    whole = clean_citations("".join(pieces), 1)
    filtering = CitationFilter(1)
    told = "".join(filtering.feed(piece) for piece in pieces) + filtering.finish()
    assert (told, filtering.cited, filtering.num_removed) == whole


@given(_PIECES)
def test_what_is_clean_stays_and_keeps_its_citations(pieces):
    cleaned, cited, _ = clean_citations("".join(pieces), 1)
    assert clean_citations(cleaned, 1)[:2] == (cleaned, cited)


def test_a_marker_is_held_back_and_nothing_else():
    filtering = CitationFilter(1)
    assert filtering.feed("Adam ") == "Adam"
    assert filtering.feed("is [") == " is"
    assert filtering.feed("9") == ""
    assert filtering.feed("] fast") == " fast"
    assert filtering.feed(" [a") == " [a"
    assert filtering.finish() == ""


def test_a_long_line_costs_no_more_than_its_length():
    filtering = CitationFilter(1)
    told = filtering.feed(" " * 200_000 + "x" + " [" * 50_000 + "y")
    assert told.endswith("[y")
