"""Chunks: bounded, complete, never cut inside a word, never anonymous."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.chunks import documentation_chunks, split_text, statement_chunks
from coderllm_jax.data.statements import Statement
from coderllm_jax.data.tokens import estimate_tokens


def words(text):
    return len(text.split())


TEXTS = st.lists(
    st.lists(
        st.sampled_from(["one", "two.", "Three", "x=1,", "(four)"]), min_size=1, max_size=20
    ).map(" ".join),
    max_size=12,
).flatmap(lambda lines: st.sampled_from(["\n", "\n\n", " "]).map(lambda s: s.join(lines)))


@given(TEXTS, st.integers(1, 30))
def test_pieces_are_bounded_and_lose_no_word(text, limit):
    pieces = split_text(text, limit=limit, count=words)
    assert all(0 < words(piece) <= limit for piece in pieces)
    assert " ".join(pieces).split() == text.split()


@given(TEXTS, st.integers(2, 30))
def test_pieces_are_as_long_as_they_may_be(text, limit):
    pieces = split_text(text, limit=limit, count=words)
    for piece, following in itertools.pairwise(pieces):
        first = following.split("\n\n")[0].splitlines()[0]
        assert words(piece) + words(first) > limit or words(first) > limit // 2


def test_a_text_that_fits_is_one_piece_as_it_stands():
    text = "One.\n\n  indented\n\nTwo."
    assert split_text(text, limit=10, count=words) == [text]


def test_ends_at_the_coarsest_boundary():
    text = "a b c.\n\nd e f.\n\ng h i."
    assert split_text(text, limit=6, count=words) == ["a b c.\n\nd e f.", "g h i."]
    assert split_text("A b c. D e f. G", limit=4, count=words) == ["A b c.", "D e f. G"]
    assert split_text("a b c d", limit=3, count=words) == ["a b c", "d"]


def test_a_word_beyond_the_limit_is_left_out():
    assert split_text("ok " + "x" * 400 + " fine", limit=20, count=estimate_tokens) == ["ok fine"]


@given(TEXTS, st.integers(8, 40))
def test_every_chunk_names_its_symbol_and_fits(text, limit):
    chunks = documentation_chunks(
        text,
        symbol="p.f",
        header="p.f(x, y)",
        source="p 1",
        license="MIT",
        limit=limit,
        count=words,
    )
    assert [chunk.id for chunk in chunks] == [f"p.f#{n}" for n in range(len(chunks))]
    assert all(chunk.text.startswith("p.f(x, y)\n") for chunk in chunks)
    assert all(words(chunk.text) <= limit for chunk in chunks)


def statement(kind, passage, subject=""):
    return Statement("p.f", kind, subject, "answer", passage, "p 1", "MIT", {})


def test_a_chunk_of_statements_says_each_once():
    chunks = statement_chunks(
        [
            statement("which", "Adds two numbers."),
            statement("purpose", "Adds two numbers. Slowly."),
            statement("signature", "p.f(x, y=1)"),
            statement("argument", "x: First.", "x"),
            statement("argument", "y: Second. The default is `1`.", "y"),
            statement("returns", "Returns: The sum."),
            statement("example", "Example:\np.f(2)"),
        ],
        limit=100,
        count=estimate_tokens,
    )
    assert [chunk.text for chunk in chunks] == [
        "p.f(x, y=1)\n"
        "Adds two numbers. Slowly.\n\n"
        "Arguments:\n  x: First.\n  y: Second. The default is `1`.\n\n"
        "Returns: The sum.\n\n"
        "Example:\np.f(2)"
    ]


@pytest.mark.parametrize("kind", ["which", "signature", "argument"])
def test_a_chunk_says_nothing_that_was_not_stated(kind):
    (chunk,) = statement_chunks([statement(kind, "p.f(z)", "z")], limit=50, count=estimate_tokens)
    assert set(chunk.text.replace("Arguments:", "").split()) <= {"p.f", "p.f(z)"}
