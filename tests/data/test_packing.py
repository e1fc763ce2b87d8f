"""The plan is complete, tight, seeded and a pure function; rows look as `records` draws them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.packing import fill_row, plan_rows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=200)
SEEDS = st.one_of(st.none(), st.integers(0, 2**31 - 1))


def rows_of(plan):
    return [plan[row].tolist() for row in range(len(plan))]


def short_questions(count):
    """Lengths distributed as those of short questions and answers: about 36 positions."""
    lengths = np.random.default_rng(0).lognormal(np.log(33), 0.45, count)
    return np.clip(lengths, 12, 250).astype(int)


def test_a_plan_worked_out_by_hand():
    # Longest first, each where it leaves the least room: 9 | 5+4 | 3+3.
    plan = plan_rows([5, 4, 9, 3, 3], 10, seed=None)
    assert rows_of(plan) == [[2], [0, 1], [3, 4]]
    assert plan.fill_fraction([5, 4, 9, 3, 3], 10) == pytest.approx(24 / 30)
    assert rows_of(plan_rows([9, 1], 10, seed=None)) == [[0, 1]]


@given(LENGTHS, SEEDS, st.integers(0, 5), st.booleans())
def test_each_example_is_in_one_row_and_no_row_overflows(lengths, seed, epoch, packing):
    rows = rows_of(plan_rows(lengths, 40, seed=seed, epoch=epoch, packing=packing))
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[example] for example in row) <= 40 for row in rows)
    if not packing:
        assert all(len(row) == 1 for row in rows)


@given(LENGTHS, st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_the_same_arguments_give_the_same_plan(lengths, seed, epoch):
    plans = [plan_rows(lengths, 40, seed=seed, epoch=epoch) for _ in range(2)]
    assert rows_of(plans[0]) == rows_of(plans[1])


def test_a_recorded_plan_stays_what_it_was():
    """A run that is resumed under a newer version must find the batches it had.

    If this fails, runs from before the change cannot be continued: say so in the changelog.
    """
    plan = plan_rows([5, 4, 9, 3, 3, 7, 2, 6], 10, seed=7, epoch=1)
    assert rows_of(plan) == [[7, 1], [0, 3, 6], [2], [5, 4]]


def test_seed_and_epoch_change_the_neighbours_and_the_order_of_rows():
    lengths = short_questions(300)
    first = rows_of(plan_rows(lengths, 256, seed=0, epoch=0))
    for other in ({"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}):
        rows = rows_of(plan_rows(lengths, 256, **other))
        assert {frozenset(row) for row in rows} != {frozenset(row) for row in first}
    # Best fit alone would sort rows by their longest example.
    longest = [max(lengths[example] for example in row) for row in first]
    assert longest != sorted(longest, reverse=True)


@pytest.mark.parametrize("count", [500, 1700, 5000])
@pytest.mark.parametrize("sequence_length", [256, 512, 4096, 8192])
def test_short_questions_fill_rows(count, sequence_length):
    lengths = short_questions(count)
    plan = plan_rows(lengths, sequence_length, seed=0)
    bound = -(-int(lengths.sum()) // sequence_length)  # rows that any packing needs
    assert len(plan) <= bound + max(1, bound // 50)
    if bound > 40:
        assert plan.fill_fraction(lengths, sequence_length) > 0.97


def test_a_row_as_records_draws_it():
    tokens = [np.array([2, 10, 11, 12, 13, 14], np.int32), np.array([2, 20, 21, 22], np.int32)]
    supervised = [np.array([0, 0, 0, 0, 1, 1], bool), np.array([0, 0, 1, 1], bool)]
    row = fill_row(tokens, supervised, sequence_length=10)
    np.testing.assert_array_equal(row.inputs, [2, 10, 11, 12, 13, 2, 20, 21, 0, 0])
    np.testing.assert_array_equal(row.targets, [10, 11, 12, 13, 14, 20, 21, 22, 0, 0])
    np.testing.assert_array_equal(row.weights, [0, 0, 0, 1, 1, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(row.positions, [0, 1, 2, 3, 4, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(row.segments, [1, 1, 1, 1, 1, 2, 2, 2, 0, 0])
    assert [field.dtype for field in row] == [np.int32, np.int32, np.float32, np.int32, np.int32]


def test_an_empty_row_is_all_padding():
    row = fill_row([], [], sequence_length=4)
    assert all(not field.any() and field.shape == (4,) for field in row)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4), st.randoms())
def test_no_position_sees_or_predicts_another_example(sizes, random):
    tokens = [np.array([random.randrange(1, 500) for _ in range(n)], np.int32) for n in sizes]
    supervised = [np.array([random.random() < 0.5 for _ in range(n)]) for n in sizes]
    row = fill_row(tokens, supervised, sequence_length=48)
    for segment, (ids, answers) in enumerate(zip(tokens, supervised, strict=True), 1):
        own = row.segments == segment
        np.testing.assert_array_equal(row.inputs[own], ids[:-1])
        np.testing.assert_array_equal(row.targets[own], ids[1:])
        np.testing.assert_array_equal(row.weights[own], answers[1:])
        np.testing.assert_array_equal(row.positions[own], np.arange(len(ids) - 1))
    assert not row.weights[row.segments == 0].any()
