"""Distances by hand, and what no limit lets pass."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coderllm_jax.export.drift import Limit, as_json, measure_drift


def rows(*values):
    return [np.array([row], np.float32) for row in values]


def test_by_hand():
    # Probabilities 3/4, 1/4 against 1/4, 3/4: KL = 3/4 ln 3 - 1/4 ln 3, and the lead is ln 3.
    one, other = rows([math.log(3), 0.0]), rows([0.0, math.log(3)])
    drift = measure_drift(one, other)
    assert drift.difference == pytest.approx(math.log(3))
    assert drift.kl == pytest.approx(0.5 * math.log(3))
    assert (drift.flips, drift.positions) == (1, 1)
    assert drift.flip_gap == pytest.approx(math.log(3))


def test_divergence_is_of_the_other_from_the_one():
    # Probabilities 1/2, 1/2 against 1/4, 3/4; the other way round it would be 0.131.
    drift = measure_drift(rows([0.0, 0.0]), rows([0.0, math.log(3)]))
    assert drift.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_of_lost_leads_the_largest_counts_as_the_one_had_it():
    drift = measure_drift(rows([2.0, 0.0], [5.0, 0.0]), rows([0.0, 1.0], [0.0, 1.0]))
    assert (drift.flips, drift.flip_gap) == (2, 5.0)


def test_every_position_of_every_prompt_counts():
    prompts = [np.zeros((3, 2), np.float32), np.zeros((1, 2), np.float32)]
    other = [prompts[0] + np.float32([[0], [2], [1]]), prompts[1]]
    drift = measure_drift(prompts, other)
    assert (drift.positions, drift.difference) == (4, 2.0)


def test_a_constant_added_to_all_logits_says_nothing_else():
    drift = measure_drift(rows([1.0, 2.0]), rows([4.0, 5.0]))
    assert drift.difference == 3
    assert drift.kl == pytest.approx(0, abs=1e-12)
    assert drift.flips == 0


def test_the_worst_position_counts():
    one = rows([0.0, 1.0], [0.0, 1.0])
    drift = measure_drift(one, rows([0.0, 1.0], [0.0, 1.5]))
    assert drift.difference == 0.5
    assert drift.mean_kl == pytest.approx(drift.kl / 2)


@pytest.mark.parametrize("limit", [Limit(1.0, math.inf), Limit(math.inf, 1.0)])
def test_no_number_is_beyond_every_limit(limit):
    drift = measure_drift(rows([0.0, 1.0]), rows([0.0, math.nan]))
    assert limit.violation(drift)


def test_another_vocabulary_is_another_model():
    drift = measure_drift(rows([0.0, 1.0]), rows([0.0, 1.0, 2.0]))
    assert Limit(1e9, 1e9).violation(drift)


def test_each_limit_speaks_of_what_it_limits():
    drift = measure_drift(rows([0.0, 1.0]), rows([0.0, 3.0]))
    assert "logits differ by 2, 1 are allowed" in Limit(1.0, math.inf).violation(drift)
    assert "KL divergence" in Limit(math.inf, 1e-3).violation(drift)
    assert Limit(2.0, 10.0).violation(drift) == ""


def test_figures_are_kept_to_four_digits():
    drift = measure_drift(rows([0.0, 1.0]), rows([0.0, 1.23456789]))
    found = as_json(drift)
    assert found["difference"] == 0.2346
    assert (found["flips"], found["positions"]) == (0, 1)
