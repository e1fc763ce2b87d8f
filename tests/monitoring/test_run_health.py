"""Figures about a training that rules refer to: what they notice, and what they leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coderllm_jax.monitoring.run_health import RunHealth


def rows(losses, *, start=1, **more):
    return [
        {
            "step": step,
            "time": float(step),
            "loss": loss,
            "grad_norm": 1.0,
            "step_time_s": 1.0,
            "data_wait_s": 0.0,
            **more,
        }
        for step, loss in enumerate(losses, start)
    ]


def after(all_rows, *, is_fresh=True):
    health = RunHealth()
    for row in all_rows:
        health.add(row, is_fresh=is_fresh)
    return health


def evaluations(losses):
    return [{"step": 10 * i, "time": 0.0, "eval_loss": loss} for i, loss in enumerate(losses)]


def test_a_loss_that_is_not_finite_is_told_of_and_forgotten():
    health = after(rows([2.0, None]))
    assert health.figures()["not_finite"] == 1.0
    for row in rows([2.0] * 6, start=3):
        health.add(row, is_fresh=True)
    assert health.figures()["not_finite"] == 0.0


def test_one_bad_row_between_two_looks_is_not_missed():
    health = after(rows([2.0, math.nan, *[2.0] * 50]))
    assert health.figures()["not_finite"] == 1.0
    assert health.figures()["not_finite"] == 0.0


def test_one_that_is_long_over_is_no_news():
    assert after(rows([2.0, None, *[2.0] * 50]), is_fresh=False).figures()["not_finite"] == 0.0


@pytest.mark.parametrize("name", ["grad_norm", "eval_loss"])
def test_other_figures_must_be_finite_too(name):
    row = {"step": 1, "time": 0.0, name: None, **({} if name == "eval_loss" else {"loss": 2.0})}
    assert after([row]).figures()["not_finite"] == 1.0


def test_a_rise_beyond_the_noise_is_seen_and_noise_is_not():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.2, 3000)
    quiet = after(rows((2.0 + noise).tolist()))
    assert quiet.figures()["loss_rise"] == 0.0
    for row in rows((3.5 + noise[:40]).tolist(), start=3001):
        quiet.add(row, is_fresh=True)
    assert quiet.figures()["loss_rise"] > 0.4


def test_one_absurd_loss_does_not_blind_it():
    noise = np.random.default_rng(0).normal(0, 0.05, 300)
    losses = 2.0 + noise
    losses[200] = 1e6
    health = after(rows(losses.tolist()))
    assert health.figures()["loss_rise"] == 0.0
    for row in rows((3.5 + noise[:40]).tolist(), start=301):
        health.add(row, is_fresh=True)
    assert health.figures()["loss_rise"] > 0.2


def test_a_falling_loss_does_not_rise():
    assert after(rows([10.0 / i for i in range(1, 500)])).figures()["loss_rise"] == 0.0


def test_evaluations_that_stand_still_for_half_of_the_run():
    falling = [5.0 - 0.1 * i for i in range(20)]
    assert after(evaluations(falling)).figures()["plateau_fraction"] == 0.0
    still = after(evaluations(falling + [falling[-1]] * 30))
    assert still.figures()["plateau_fraction"] > 0.5
    still.add({"step": 600, "time": 0.0, "eval_loss": 0.5}, is_fresh=True)
    assert still.figures()["plateau_fraction"] == 0.0
    assert RunHealth().figures()["plateau_fraction"] is None


def test_overfitting_is_both_at_once():
    def run(train, evals):
        health = RunHealth()
        for block, eval_loss in enumerate(evals):
            for row in rows([train[block]] * 20, start=1 + 20 * block):
                health.add(row, is_fresh=True)
            health.add(
                {"step": 20 * (block + 1), "time": 0.0, "eval_loss": eval_loss}, is_fresh=True
            )
        return health

    overfit = run([3.0, 2.0, 1.5, 1.0], [2.5, 2.0, 2.4, 2.6])
    assert overfit.figures()["overfitting"] == pytest.approx(0.2)
    assert overfit.best == (40, 2.0)
    # Both rise: that is divergence, another rule's.
    assert run([3.0, 2.0, 2.5, 3.0], [2.5, 2.0, 2.4, 2.6]).figures()["overfitting"] == 0.0
    # One bad evaluation.
    assert run([3.0, 2.0, 1.5, 1.0], [2.5, 2.0, 2.0, 2.6]).figures()["overfitting"] == 0.0


def test_waiting_for_data_is_a_part_of_recent_steps():
    assert after(rows([2.0] * 9, data_wait_s=0.9)).figures()["data_wait_fraction"] is None
    waiting = after([*rows([2.0] * 30), *rows([2.0] * 20, start=31, data_wait_s=0.4)])
    assert waiting.figures()["data_wait_fraction"] == pytest.approx(0.4)


def test_rows_of_several_steps_weigh_as_many():
    health = after(
        {"step": 10 * i, "time": 0.0, "loss": 2.0, "step_time_s": 1.0, "data_wait_s": 5.0}
        for i in range(1, 21)
    )
    assert health.figures()["data_wait_fraction"] == pytest.approx(0.5)


def test_skipped_batches():
    skipping = after([*rows([2.0] * 10), *rows([2.0] * 10, start=11, skipped=1)])
    assert skipping.figures()["skipped_fraction"] == pytest.approx(0.5)
