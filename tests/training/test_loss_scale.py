"""The float16 loss scale: when it moves, and what a step does with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.config import TrainingConfig
from coderllm_jax.model.load import load_model
from coderllm_jax.training.guard import REASONS
from coderllm_jax.training.loss_scale import Scaled, adjust_scale, split_scale, start_scaling
from coderllm_jax.training.step import build_program
from tests.model.tiny_model import pack, random_sequences

LENGTH = 32
BATCH = pack([random_sequences([9, 14]), [], [], []], length=LENGTH, supervised_from=3)


def moved(scale, num_finite, *, is_finite):
    before = Scaled("old", jnp.float32(scale), jnp.int32(num_finite))
    after = adjust_scale(before, "new", is_finite=jnp.asarray(is_finite))
    assert after.opt_state == "new"
    return float(after.scale), int(after.num_finite)


@pytest.mark.parametrize(
    ("before", "is_finite", "after"),
    [
        ((4096, 0), True, (4096, 1)),
        ((4096, 498), True, (4096, 499)),
        ((4096, 499), True, (8192, 0)),
        ((4096, 499), False, (2048, 0)),
        ((1, 7), False, (1, 0)),
        ((2**24, 499), True, (2**24, 0)),
    ],
)
def test_it_is_halved_at_once_and_doubled_after_500_steps(before, is_finite, after):
    assert moved(*before, is_finite=is_finite) == after


def test_other_precisions_have_none():
    state, scale = split_scale(("moments",))
    assert (state, float(scale)) == (("moments",), 1.0)
    assert adjust_scale(("old",), ("new",), is_finite=jnp.asarray(False)) == ("new",)


def build(precision):
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.step.precision = precision
    config.data.sequence_length = LENGTH
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_fraction = 0.0
    config.optimizer.name = "sgd"
    model = load_model("tiny", dtype="float32", cache_dir="unused")
    return build_program(TrainingConfig.from_config_dict(config), model, num_steps=10)


@pytest.fixture(scope="module")
def float16():
    return build("float16")


def test_a_scaled_step_is_the_step(float16):
    """B's gradient is that of float32 to float16's three digits, whatever the scale."""
    plain = build("float32")
    _, expected = plain.train_step(plain.init_state(), plain.put_batch(BATCH))
    for scale in (1.0, 4096.0):
        state = float16.init_state()
        state = state._replace(opt_state=state.opt_state._replace(scale=jnp.float32(scale)))
        _, metrics = float16.train_step(state, float16.put_batch(BATCH))
        assert float(metrics.loss_scale) == scale
        np.testing.assert_allclose(metrics.loss, expected.loss, rtol=2e-3)
        np.testing.assert_allclose(metrics.grad_norm, expected.grad_norm, rtol=1e-2)


def test_an_overflow_changes_nothing_but_the_scale(float16):
    """A scale of 16 million takes the cotangents past 65,504; half of it is tried next."""
    state = float16.init_state()
    state = state._replace(opt_state=state.opt_state._replace(scale=jnp.float32(2.0**24)))
    before = jax.device_get(state)
    state, metrics = float16.train_step(state, float16.put_batch(BATCH))
    assert REASONS[int(metrics.verdict)] == "not_finite"
    assert np.isfinite(metrics.loss)
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, after.trainable, before.trainable)
    jax.tree.map(
        np.testing.assert_array_equal, after.opt_state.opt_state, before.opt_state.opt_state
    )
    assert float(after.opt_state.scale) == 2.0**23


def test_training_finds_its_scale_and_goes_on(float16):
    state = float16.init_state()
    state = state._replace(opt_state=state.opt_state._replace(scale=jnp.float32(2.0**24)))
    verdicts = []
    for _ in range(14):
        state, metrics = float16.train_step(state, float16.put_batch(BATCH))
        verdicts.append(REASONS[int(metrics.verdict)])
    assert verdicts[0] == "not_finite"
    assert verdicts[-1] == "accepted"
    assert float(state.opt_state.scale) == 2.0 ** (24 - verdicts.count("not_finite"))


def test_start():
    assert float(start_scaling(()).scale) == 64
