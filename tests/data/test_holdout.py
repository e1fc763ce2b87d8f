"""Evaluation rows out of training rows: no symbol on both sides, and no surprise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.holdout import hold_out
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example

rows = st.lists(
    st.builds(
        lambda symbol, n: Example.from_question(f"q{n}", f"a{n}", symbol=symbol),
        st.sampled_from(["", "a", "b", "c", "d"]),
        st.integers(0, 9),
    ),
    min_size=2,
    max_size=40,
)


@given(rows, st.integers(1, 10))
def test_no_symbol_and_no_question_is_on_both_sides(examples: list[Example], most: int) -> None:
    if len({e.symbol or e.question for e in examples}) < 2:
        return
    kept, items = hold_out(examples, max_items=most)
    trained = [examples[place] for place in kept]
    assert trained
    assert 1 <= len(items) <= most
    for item in items:
        assert item.split == "unseen"
        assert all(
            e.symbol != item.symbol if item.symbol else e.symbol or e.question != item.question
            for e in trained
        )


def test_the_split_does_not_hang_on_the_order() -> None:
    examples = [Example.from_question(f"q{i}", "a", symbol=f"s{i % 9}") for i in range(60)]
    one = hold_out(examples, max_items=5)
    other = hold_out(examples[::-1], max_items=5)
    assert {item.symbol for item in one.items} == {item.symbol for item in other.items}


def test_at_most_a_twentieth_is_given_up() -> None:
    examples = [Example.from_question(f"q{i}", "a") for i in range(100)]
    kept, items = hold_out(examples, max_items=48)
    assert (len(kept), len(items)) == (95, 5)


def test_a_large_symbol_is_passed_over() -> None:
    for salt in range(20):
        large = [Example.from_question(f"q{i}", "a", symbol=f"large{salt}") for i in range(90)]
        small = [Example.from_question(f"r{i}", "a", symbol=f"s{salt}.{i}") for i in range(10)]
        kept, items = hold_out(large + small, max_items=48)
        assert (len(kept), len(items)) == (95, 5)


def test_where_none_is_small_enough_the_smallest_goes_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes = {"a": 40, "b": 12, "c": 48}
    examples = [
        Example.from_question(f"q{symbol}{i}", "a", symbol=symbol)
        for symbol, size in sizes.items()
        for i in range(size)
    ]
    kept, items = hold_out(examples, max_items=8)
    assert len(kept) == 88
    assert [item.symbol for item in items] == ["b"] * 8
    assert "12 of 100 rows are held out" in caplog.text


def test_rows_about_one_thing_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"all 3 rows are about one thing.*evaluation_path"):
        hold_out([Example.from_question(f"q{i}", "a", symbol="s") for i in range(3)], max_items=1)
