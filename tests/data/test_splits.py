"""The split: whole groups, no alias on both sides, no symbol moved by its neighbours."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.splits import Subject, choose_items, choose_unseen, group_subjects
from coderllm_jax.records import EvalItem

NAMES = [f"p.f{n}" for n in range(40)]


def subjects(texts):
    return [Subject(f"p.f{n}", f"p.f{n}", text) for n, text in enumerate(texts)]


@given(
    st.lists(st.sampled_from(["Same words.", "same words", "Other.", "Third one."]), max_size=30)
)
def test_equal_docstrings_fall_on_one_side(texts):
    found = subjects([f"{text}" for text in texts])
    groups = group_subjects(found)
    by_text = collections.defaultdict(set)
    for subject in found:
        by_text[subject.text.lower().rstrip(".")].add(groups[subject.name])
    assert all(len(ids) == 1 for ids in by_text.values())
    unseen = choose_unseen(groups, fraction=0.5)
    for members in collections.Counter(groups.values()):
        inside = {name in unseen for name, group in groups.items() if group == members}
        assert len(inside) == 1


def test_a_class_takes_its_methods_along():
    groups = group_subjects(
        [
            Subject("p.C", "p.C", "A."),
            Subject("p.C.m", "p.C", "B."),
            Subject("p.g", "p.g", "b"),  # documented like the method
            Subject("p.h", "p.h", "C."),
        ]
    )
    assert groups == {"p.C": "p.C", "p.C.m": "p.C", "p.g": "p.C", "p.h": "p.h"}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.9])
def test_the_fraction_is_met(fraction):
    groups = {f"p.f{n}": f"p.f{n}" for n in range(1000)}
    assert abs(len(choose_unseen(groups, fraction=fraction)) - fraction * 1000) <= 1


def test_another_package_moves_no_symbol():
    few = {name: name for name in NAMES}
    many = few | {f"q.g{n}": f"q.g{n}" for n in range(400)}
    small, large = choose_unseen(few, fraction=0.3), choose_unseen(many, fraction=0.3)
    # The threshold moves with the number of symbols, the order never does.
    assert small <= large or large & set(NAMES) <= small


def test_one_large_group_is_always_trained_on():
    groups = {f"p.f{n}": "p.f0" for n in range(500)} | {f"p.g{n}": f"p.g{n}" for n in range(500)}
    unseen = choose_unseen(groups, fraction=0.4)
    assert len(unseen) == 400
    assert not any(name.startswith("p.f") for name in unseen)


def item(symbol, kind, **rest):
    return EvalItem(
        id=f"seen:{symbol}:{kind}",
        question=f"{symbol} {kind}?",
        answer="a",
        split="seen",
        symbol=symbol,
        kind=kind,
        facts=rest.pop("facts", ("a",)),
        **rest,
    )


def test_kinds_and_symbols_take_turns():
    candidates = [(item(f"p.f{n}", kind), 0) for n in range(30) for kind in ("a", "b", "c")]
    chosen = choose_items(candidates, limit=30)
    assert collections.Counter(i.kind for i in chosen) == {"a": 10, "b": 10, "c": 10}
    assert len({i.symbol for i in chosen}) >= 25


def test_what_rows_overlap_and_what_nothing_can_check_comes_last_or_never():
    candidates = [
        (item("p.a", "x"), 3),
        (item("p.b", "x"), 0),
        (item("p.c", "y", facts=()), 0),
        (item("p.d", "x", facts=(), tests="assert True"), 0),
    ]
    assert {i.symbol for i in choose_items(candidates, limit=2)} == {"p.b", "p.d"}
    assert {i.symbol for i in choose_items(candidates, limit=9)} == {"p.a", "p.b", "p.d"}


def test_no_question_twice():
    twin = item("p.a", "x")
    assert len(choose_items([(twin, 0), (twin, 0), (item("p.b", "x"), 0)], limit=9)) == 2


@given(st.permutations(NAMES), st.integers(1, 50))
def test_the_order_of_candidates_does_not_matter(names, limit):
    ordered = [(item(name, "x"), 0) for name in NAMES]
    shuffled = [(item(name, "x"), 0) for name in names]
    assert choose_items(ordered, limit=limit) == choose_items(shuffled, limit=limit)
