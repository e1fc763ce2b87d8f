"""Series lose no spike, however few points are asked for and however many rows there are."""

from __future__ import annotations

import numpy as np
import pytest

from coderllm_jax.monitoring.columns import MAX_NAMES, Columns, Points, decimate


def filled(values, *, name="loss", max_rows=10**6):
    columns = Columns(max_rows=max_rows)
    for step, value in enumerate(values):
        columns.append(step, 100.0 + step, {name: value})
    return columns


def test_rows_of_two_kinds_stay_apart():
    columns = Columns(max_rows=1000)
    columns.append(1, 10.0, {"loss": 4.0, "grad_norm": 1.0})
    columns.append(2, 20.0, {"loss": 3.0, "grad_norm": 2.0})
    columns.append(2, 25.0, {"eval_loss": 3.5})
    assert columns.points("loss").values.tolist() == [4.0, 3.0]
    assert columns.points("eval_loss").steps.tolist() == [2]
    assert columns.points("eval_loss").times.tolist() == [25.0]
    assert columns.points("nothing").values.tolist() == []
    assert columns.latest() == {"loss": 3.0, "grad_norm": 2.0, "eval_loss": 3.5}
    assert columns.points("loss", since_step=1).steps.tolist() == [2]


def test_what_is_not_finite_is_told_from_what_is_not_there():
    columns = filled([1.0, None, float("nan"), float("-inf"), 1e300, 2.0])
    values = columns.points("loss").values
    assert np.isinf(values).tolist() == [False, True, True, True, True, False]
    assert columns.latest() == {"loss": 2.0}


def test_the_latest_figure_is_found_however_long_ago():
    columns = Columns(max_rows=10**6)
    columns.append(0, 0.0, {"eval_loss": 5.0})
    for step in range(1, 3000):
        columns.append(step, 0.0, {"loss": 1.0})
    assert columns.latest() == {"eval_loss": 5.0, "loss": 1.0}


def test_cutting_forgets_a_step_and_what_follows():
    columns = filled([4.0, 3.0, 2.0, 1.0])
    assert columns.cut(2)
    assert columns.points("loss").values.tolist() == [4.0, 3.0]
    assert not columns.cut(2)
    columns.append(2, 0.0, {"loss": 9.0})
    assert columns.points("loss").values.tolist() == [4.0, 3.0, 9.0]


def test_what_was_cut_does_not_come_back_in_rows_that_lack_it():
    columns = Columns(max_rows=1000)
    for step in range(4):
        columns.append(step, 0.0, {"loss": 1.0, "extra": 2.0})
    columns.cut(1)
    columns.append(1, 0.0, {"loss": 1.0})
    assert columns.points("extra").steps.tolist() == [0]


@pytest.mark.parametrize("max_points", [2, 10, 200, 1000])
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 12_345])
def test_thinning_keeps_extremes_ends_and_order(length, max_points):
    generator = np.random.default_rng(length)
    values = generator.normal(size=length).astype(np.float32)
    spikes = generator.integers(0, length, 2)
    values[spikes[0]], values[spikes[1]] = 50.0, -50.0
    points = decimate(Points(np.arange(length), np.arange(length) * 2.0, values), max_points)
    assert len(points.values) <= max_points + 3
    assert points.values.max() == values.max()
    assert points.values.min() == values.min()
    assert points.steps[0] == 0
    assert points.steps[-1] == length - 1
    assert (np.diff(points.steps) > 0).all() if length > 1 else True
    assert (values[points.steps] == points.values).all()


def test_thinning_shows_that_something_was_not_finite():
    values = np.ones(10_000, np.float32)
    values[5000] = np.inf
    points = decimate(Points(np.arange(10_000), np.zeros(10_000), values), 50)
    assert np.isinf(points.values).sum() == 1
    assert (values[points.steps] == points.values).all()


def test_columns_are_bounded_and_their_extremes_stay():
    generator = np.random.default_rng(0)
    values = generator.normal(size=40_000)
    values[17], values[12_345] = 99.0, -99.0
    columns = filled(values, max_rows=2000)
    assert len(columns) <= 4096
    points = columns.points("loss")
    assert points.values.max() == 99.0
    assert points.values.min() == -99.0
    assert (np.diff(points.steps) >= 0).all()
    # The end of a curve is as it was written.
    assert points.values[-500:].tolist() == values[-500:].astype(np.float32).tolist()


def test_a_flood_of_names_is_cut():
    columns = Columns(max_rows=1000)
    columns.append(1, 0.0, {f"layer{i}": 1.0 for i in range(MAX_NAMES + 5)})
    assert len(columns.names) == MAX_NAMES
    assert columns.num_left_out == 5
