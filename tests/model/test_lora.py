"""Adapters: fresh ones change nothing, merged ones everything the same, frozen ones owe nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.config.training import LORA_TARGETS
from coderllm_jax.model.architecture import GEMMA3_270M, TINY
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.lora import adapt, adapter_shapes, init_adapters, merge_adapters
from coderllm_jax.model.precision import FLOAT32
from tests.model.tiny_model import pack, random_adapters, random_sequences, tiny_weights

BATCH = pack([random_sequences([12, 9])], length=24)


def fresh(rank=4):
    return init_adapters(TINY, targets=LORA_TARGETS, rank=rank, key=jax.random.key(1))


compiled = jax.jit(hidden_states, static_argnames=("architecture", "options"))


def hidden(weights, adapters, *, key=None, **options):
    return compiled(
        weights,
        adapters,
        BATCH.inputs,
        BATCH.positions,
        BATCH.segments,
        architecture=TINY,
        options=ForwardOptions(**options),
        key=key,
    )


def test_fresh_adapters_leave_the_base_as_it_is():
    """B is zero, so the delta is exactly zero; the rest is rounding of differently fused sums."""
    weights = tiny_weights()
    np.testing.assert_allclose(hidden(weights, fresh()), hidden(weights, {}), atol=2e-6)
    assert not any(np.asarray(adapter["b"]).any() for adapter in fresh().values())


def test_merged_equals_unmerged():
    weights, adapters = tiny_weights(), random_adapters(fresh())
    merged = weights | {"blocks": merge_adapters(weights["blocks"], adapters, scale=0.5)}
    apart = hidden(weights, adapters, lora_scale=0.5)
    np.testing.assert_allclose(hidden(merged, {}), apart, atol=2e-5)
    assert np.abs(np.asarray(apart - hidden(weights, {}))).max() > 1e-2


def test_shapes_are_keras_hubs_for_the_real_model():
    shapes = adapter_shapes(GEMMA3_270M, targets=("value", "query"), rank=8)
    assert shapes == {
        "query": {"a": (18, 4, 640, 8), "b": (18, 8, 256)},
        "value": {"a": (18, 1, 640, 8), "b": (18, 8, 256)},
    }


def test_dropout_acts_only_with_a_key_and_keeps_the_mean():
    weights, adapters = tiny_weights(), random_adapters(fresh())
    plain = hidden(weights, adapters)
    np.testing.assert_array_equal(hidden(weights, adapters, lora_dropout=0.5), plain)
    keys = jax.random.split(jax.random.key(0), 2)
    one, other = (hidden(weights, adapters, lora_dropout=0.5, key=key) for key in keys)
    assert np.abs(np.asarray(one - other)).max() > 1e-3

    x, kernel = jnp.ones((1, 4096, 2)), jnp.zeros((2, 1))
    adapter = {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 1))}
    dropped = adapt(
        "ffw_gating", x, kernel, adapter, scale=1.0, precision=FLOAT32, dropout=0.25, key=keys[0]
    )
    assert abs(float(dropped.mean()) - 2.0) < 0.05


@pytest.mark.long
def test_no_gradient_of_a_frozen_matrix_is_computed():
    """Gradients of thin adapters cost about twice the forward pass, not three times.

    Counted by the compiler, unrolled, because it counts a loop's body once.
    """
    weights, adapters = tiny_weights(), fresh(rank=1)

    def total(weights, adapters):
        return jnp.sum(hidden(weights, adapters, scan_blocks=False))

    def flops(function):
        return jax.jit(function).lower(weights, adapters).compile().cost_analysis()["flops"]

    forward = flops(total)
    assert flops(jax.grad(total, argnums=1)) < 2.6 * forward
    assert flops(jax.grad(total, argnums=0)) > 2.6 * forward
