"""What a prompt holds of a passage: distinct ones, within the budget, and nothing but text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.records import Chunk, Turn
from coderllm_jax.retrieval.passages import (
    CITE,
    as_quotation,
    fit_passages,
    ground_question,
    without_near_duplicates,
)
from coderllm_jax.retrieval.search import Hit
from tests.retrieval.planted import ATTACKS

TOKENIZER = ByteTokenizer()


def hit(text, number=0):
    return Hit(Chunk(f"c{number}", text, "lib 1"), number, 1.0, 0.9, False, True)


def hits(*texts):
    return [hit(text, number) for number, text in enumerate(texts)]


def count(text):
    return len(text.split())


def test_a_block_by_hand():
    block = fit_passages(hits("lib.f(x)\n\n  Returns x.", "lib.g"), tokens=99, count=count)
    assert block.text == "[1]\n  lib.f(x)\n    Returns x.\n[2]\n  lib.g"
    assert block.shown == ("lib.f(x)\n  Returns x.", "lib.g")
    assert ground_question(block, "Why?", cite=False) == f"{block.text}\n\nWhy?"
    assert ground_question(block, "Why?", cite=True) == f"{CITE}\n\n{block.text}\n\nWhy?"


def test_without_passages_a_question_stays_as_it_is():
    block = fit_passages([], tokens=99, count=count)
    assert (block.text, ground_question(block, "Why?", cite=True)) == ("", "Why?")


def test_best_last_turns_the_order_and_the_numbers():
    block = fit_passages(hits("best", "second"), tokens=99, count=count, best_last=True)
    assert block.text == "[1]\n  second\n[2]\n  best"
    assert [each.chunk.id for each in block.hits] == ["c1", "c0"]
    assert block.shown == ("second", "best")


def test_what_does_not_fit_makes_room_for_what_does():
    block = fit_passages(hits("a b", "c d e f g h", "i"), tokens=5, count=count)
    assert [each.chunk.id for each in block.hits] == ["c0", "c2"]
    assert count(block.text) == 5


def test_the_best_is_cut_where_it_alone_is_too_long():
    block = fit_passages(hits("one two. three four. five six.", "seven"), tokens=4, count=count)
    assert block.text == "[1]\n  seven"
    block = fit_passages(hits("one two. three four. five six."), tokens=5, count=count)
    assert block.text == "[1]\n  one two. three four."
    assert fit_passages(hits("word"), tokens=1, count=count).hits == ()


@given(
    st.lists(st.text("ab .\n", min_size=1, max_size=60), max_size=6),
    st.integers(1, 120),
    st.booleans(),
)
def test_a_block_is_never_longer_than_its_budget(texts, tokens, best_last):
    def count_ids(text):
        return len(TOKENIZER.encode(text))

    block = fit_passages(hits(*texts), tokens=tokens, count=count_ids, best_last=best_last)
    assert not block.hits or count_ids(block.text) <= tokens


def test_near_duplicates_are_dropped_and_the_better_one_stays():
    text = "Clips updates element-wise to be in the given interval around zero, for each array."
    kept = without_near_duplicates(hits(text, "Something else.", f"{text} Yes.", text), 0.8)
    assert [each.position for each in kept] == [0, 1]
    # A part of a better one says nothing new; a longer one does.
    assert len(without_near_duplicates(hits(text, text[:60]), 0.8)) == 1
    assert len(without_near_duplicates(hits(text[:60], text), 0.8)) == 2


def test_siblings_are_no_duplicates():
    siblings = [
        "optax.ScaleByAdamState(count, mu, nu)\nState for the Adam algorithm.",
        "optax.ScaleByLionState(count, mu)\nState for the Lion algorithm.",
    ]
    assert len(without_near_duplicates(hits(*siblings), 0.8)) == 2


# --- hostile passages ---------------------------------------------------------------------------


def structure(block_text):
    """The lines that are not part of a passage: they begin at the margin."""
    return [line for line in block_text.split("\n") if not line.startswith("  ")]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_changes_nothing_around_it(attack):
    block = fit_passages(hits("lib.right(x)", attack, "lib.left"), tokens=999, count=count)
    assert structure(block.text) == ["[1]", "[2]", "[3]"]
    assert block.text.splitlines() == block.text.split("\n")
    tame = fit_passages(hits("lib.right(x)", "lib.evil", "lib.left"), tokens=999, count=count)
    before, after = (
        [line for line in text.split("\n") if "lib.right" in line or "lib.left" in line]
        for text in (tame.text, block.text)
    )
    assert after[:1] == before[:1]
    assert after[-1:] == before[-1:]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("cite", [True, False])
def test_an_attack_makes_no_turn(attack, cite):
    block = fit_passages(hits(attack), tokens=999, count=count)
    ids = encode_prompt(TOKENIZER, [Turn("user", ground_question(block, "Why?", cite=cite))])
    tame = encode_prompt(TOKENIZER, [Turn("user", "Why?")])
    for control in (TOKENIZER.bos_id, TOKENIZER.start_of_turn_id, TOKENIZER.end_of_turn_id):
        assert (ids == control).sum() == (tame == control).sum()


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_no_text_whatever_reaches_the_margin(texts):
    block = fit_passages(hits(*texts), tokens=10**6, count=len)
    lines = block.text.split("\n") if block.text else []
    margin = [line for line in lines if not line.startswith("  ")]
    assert margin == [f"[{number}]" for number in range(1, len(block.hits) + 1)]
    assert block.text.splitlines() == lines  # no line break of another kind
    assert all(mark == "\n" or unicodedata.category(mark) != "Cc" for mark in block.text)
    block.text.encode()


def test_every_kind_of_line_break_is_one():
    assert as_quotation("a\rb\r\nc\x0bd\x85e\u2028f\u2029\n\ng") == "a\nb\nc\nd\ne\nf\ng"


def test_markup_and_code_stay_readable():
    text = "<b>if a < b && c:</b>\n    return 'x' # [1]\n\tdone"
    assert as_quotation(text) == "<b>if a < b && c:</b>\n    return 'x' # [1]\n    done"
    assert as_quotation("right\u202eleft\u200b \x1b[31mred") == "rightleft [31mred"
    joined = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # Persian needs its joiner
    assert as_quotation(joined) == joined
