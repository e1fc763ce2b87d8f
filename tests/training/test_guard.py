"""Which batches are not learnt from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.training.guard import REASONS, WINDOW, Recent, judge, nothing_yet, remember

DEVIATIONS = 6.0


def after(losses: list[float], norm: float = 1.0) -> Recent:
    recent = nothing_yet()
    step = jax.jit(remember)
    for loss in losses:
        recent = step(recent, jnp.float32(loss), jnp.float32(norm), jnp.array(True))
    return recent


def verdict(
    recent: Recent, loss: float, norm: float = 1.0, *, deviations: float = DEVIATIONS
) -> str:
    found = judge(recent, jnp.float32(loss), jnp.float32(norm), deviations=deviations)
    return REASONS[int(found)]


USUAL = [2.0 + 0.1 * (i % 3) for i in range(WINDOW)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(bad: float) -> None:
    for deviations in (DEVIATIONS, 0.0):
        assert verdict(nothing_yet(), bad, deviations=deviations) == "not_finite"
        assert verdict(nothing_yet(), 2.0, bad, deviations=deviations) == "not_finite"
        assert verdict(after(USUAL), bad, deviations=deviations) == "not_finite"


def test_a_spike_of_either_figure_is_refused() -> None:
    recent = after(USUAL)
    assert verdict(recent, 2.1) == "accepted"
    assert verdict(recent, 9.0) == "spike"
    assert verdict(recent, 2.1, 50.0) == "spike"
    assert verdict(recent, 9.0, 50.0, deviations=0.0) == "accepted"
    assert verdict(recent, 0.001) == "accepted"  # better than ever is no damage


def test_the_first_steps_are_not_judged_by_one_another() -> None:
    assert verdict(after(USUAL[:15]), 90.0) == "accepted"
    assert verdict(after(USUAL[:16]), 90.0) == "spike"


def test_a_loss_that_hardly_scatters_may_wobble() -> None:
    recent = after([2.0] * WINDOW)
    assert verdict(recent, 2.9) == "accepted"
    assert verdict(recent, 3.1) == "spike"
    assert verdict(recent, 2.0, 2.9) == "accepted"
    assert verdict(recent, 2.0, 3.1) == "spike"


def test_a_noisy_loss_is_given_room() -> None:
    noisy = after([1.0, 5.0] * 32)  # mean 3, deviation 2
    assert verdict(noisy, 14.0) == "accepted"
    assert verdict(noisy, 16.0) == "spike"


def test_only_the_last_steps_count() -> None:
    assert verdict(after([50.0] * 20 + [2.0] * (WINDOW - 1)), 30.0) == "accepted"
    assert verdict(after([50.0] * 20 + [2.0] * WINDOW), 30.0) == "spike"


def test_rejected_steps_are_not_remembered() -> None:
    recent = after(USUAL)
    same = remember(recent, jnp.float32(np.nan), jnp.float32(np.inf), jnp.array(False))
    jax.tree.map(np.testing.assert_array_equal, same, recent)
