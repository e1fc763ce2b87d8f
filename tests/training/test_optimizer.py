"""Schedules by their corners; every optimizer that has a name makes a step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coderllm_jax.config.training import OptimizerSection
from coderllm_jax.training.optimizer import make_optimizer, make_schedule

SECTION = OptimizerSection(warmup_fraction=0.1, final_fraction=0.1)


@pytest.mark.parametrize(
    ("name", "middle", "end"),
    [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1), ("wsd", 1.0, 0.1)],
)
def test_schedule_corners(name, middle, end):
    section = dataclasses.replace(SECTION, schedule=name)
    schedule = make_schedule(section, learning_rate=1.0, num_steps=100)
    found = [float(schedule(step)) for step in (0, 9, 10, 55, 100)]
    np.testing.assert_allclose(found, [0.1, 1.0, 1.0, middle, end], atol=1e-6)


def test_without_warmup_the_first_step_has_the_peak():
    section = dataclasses.replace(SECTION, warmup_fraction=0.0)
    assert float(make_schedule(section, learning_rate=0.5, num_steps=10)(0)) == 0.5


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "adafactor", "sgd"])
def test_every_optimizer_descends(name):
    section = dataclasses.replace(SECTION, name=name)
    optimizer = make_optimizer(section)
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((3,))}
    state = optimizer.init(params)
    for _ in range(5):
        updates, state = optimizer.update(params, state, params)  # gradient of |x|² / 2
        params = optax.apply_updates(params, jax.tree.map(lambda u: 0.05 * u, updates))
    assert float(jnp.max(params["a"])) < 1.0
    assert float(jnp.max(params["b"])) < 1.0


def test_clipping_bounds_the_global_norm():
    section = dataclasses.replace(SECTION, name="sgd", b1=0.0, clip_norm=1.0)
    optimizer = make_optimizer(section)
    gradient = {"a": jnp.full((4,), 10.0), "b": jnp.full((5,), 10.0)}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(float(optax.tree.norm(updates)), 1.0, rtol=1e-5)
