"""The worlds are what they say, and a table notices what is missed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.comparison_simulation import (
    Row,
    World,
    equal_arms,
    intervals,
    judge,
    loss_for,
    planted,
    repeat,
    said_of,
    table,
)
from coderllm_jax.records import Estimate

EQUAL = World(0.5, {"a": 0.0, "b": 0.0})
LOSS = loss_for(0.1, EQUAL)


def test_the_expected_score_is_the_worlds():
    scores = EQUAL.draw(np.random.default_rng(0), 200_000)
    assert scores["fact_f1"]["a"].mean() == pytest.approx(EQUAL.truth("a"), abs=0.005)
    assert scores["clear"]["b"].mean() == pytest.approx(0.7, abs=0.005)
    assert set(np.unique(scores["right"]["a"])) == {0.0, 1.0}


def test_ten_points_are_ten_points():
    worse = World(0.5, {"a": 0.0, "worse": LOSS})
    assert worse.truth("a") - worse.truth("worse") == pytest.approx(0.1)
    scores = worse.draw(np.random.default_rng(0), 200_000)["fact_f1"]
    assert scores["a"].mean() - scores["worse"].mean() == pytest.approx(0.1, abs=0.005)


def test_arms_agree_as_far_as_they_are_told_to():
    def correlation(agreement):
        scores = World(agreement, EQUAL.loss).draw(np.random.default_rng(0), 50_000)["fact_f1"]
        return np.corrcoef(scores["a"], scores["b"])[0, 1]

    assert correlation(0.0) < correlation(0.5) < correlation(0.9)


def test_a_spoiled_twin_is_never_above_its_other():
    world = World(0.5, {"a": 0.0, "worse": LOSS}, {"worse": "a"})
    scores = world.draw(np.random.default_rng(0), 300)["fact_f1"]
    assert (scores["worse"] <= scores["a"]).all()
    assert said_of(judge(world.draw(np.random.default_rng(0), 300)), "worse", "a") == "worse"
    found = repeat(planted(world, 300), 3, seed=0)
    assert found["worse than the other"].value == 1.0
    assert found["better than any"].value == 0.0


def test_runs_are_counted_and_repeatable():
    shares = repeat(equal_arms(EQUAL, 20), 4, seed=0)
    assert shares == repeat(equal_arms(EQUAL, 20), 4, seed=0)
    assert shares["any"].num_items == 4
    covered = repeat(intervals(EQUAL, 30), 4, seed=0)
    assert set(covered) == {"fact F1", "difference of fact F1", "share"}


def test_what_is_missed_is_said():
    rows = [
        Row("equal", "any", Estimate(0.07, 0.05, 0.09, 1000), (0.0, 0.05)),
        Row("equal", "fact F1", Estimate(0.04, 0.03, 0.05, 1000), (0.0, 0.05)),
        Row("spoiled", "worse than each", Estimate(0.1, 0.0, 0.2, 1000), None),
    ]
    assert [row.is_missed for row in rows] == [True, False, False]
    lines = table(rows, runs=1000, agreement=0.5).splitlines()
    assert lines[-3].endswith("| missed |")
    assert "| 0% to 5% |  |" in lines[-2]
