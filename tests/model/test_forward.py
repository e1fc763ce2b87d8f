"""The forward pass: equal to KerasHub's, blind across examples, the same however compiled."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.config.training import LORA_TARGETS
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.keras_bridge import to_keras_hub
from coderllm_jax.model.lora import init_adapters
from coderllm_jax.model.precision import PRECISIONS
from tests.model.tiny_model import pack, random_adapters, random_sequences, tiny_weights

compiled = jax.jit(hidden_states, static_argnames=("architecture", "options"))


def run(batch, *, weights=None, adapters=None, architecture=TINY, **options):
    return np.asarray(
        compiled(
            tiny_weights(architecture) if weights is None else weights,
            adapters or {},
            batch.inputs,
            batch.positions,
            batch.segments,
            architecture=architecture,
            options=ForwardOptions(**options),
        )
    )


@pytest.mark.parametrize("scaling", [1.0, 8.0])
def test_equals_the_stock_keras_hub_forward(scaling):
    """Rows longer than the window, so that local and global layers differ."""
    architecture = dataclasses.replace(TINY, rope_global_scaling=scaling)
    weights = tiny_weights(architecture)
    tokens = np.array(random_sequences([41, 41]), np.int32)
    stock = to_keras_hub(architecture, weights)
    expected = stock({"token_ids": tokens, "padding_mask": np.ones_like(tokens)})
    batch = pack([[[*row, 0]] for row in tokens.tolist()], length=41)
    found = run(batch, weights=weights, architecture=architecture)
    np.testing.assert_allclose(found, np.asarray(expected), atol=2e-5)


def test_adapters_equal_keras_hubs_lora():
    adapters = random_adapters(
        init_adapters(TINY, targets=LORA_TARGETS, rank=4, key=jax.random.key(0))
    )
    weights = tiny_weights()
    tokens = np.array(random_sequences([24]), np.int32)
    stock = to_keras_hub(TINY, weights, adapters)
    expected = stock({"token_ids": tokens, "padding_mask": np.ones_like(tokens)})
    found = run(pack([[[*tokens[0], 0]]], length=24), weights=weights, adapters=adapters)
    np.testing.assert_allclose(found, np.asarray(expected), atol=2e-5)


def test_packed_examples_never_see_each_other():
    first, second = random_sequences([20, 11])
    together = run(pack([[first, second]], length=32))[0]
    np.testing.assert_allclose(together[:19], run(pack([[first]], length=32))[0, :19], atol=1e-5)
    np.testing.assert_allclose(together[19:29], run(pack([[second]], length=32))[0, :10], atol=1e-5)


def test_a_token_never_sees_what_comes_after_it():
    (tokens,) = random_sequences([20])
    changed = [*tokens[:10], *((np.array(tokens[10:]) + 1) % 500 + 6).tolist()]
    before, after = (run(pack([[each]], length=20))[0] for each in (tokens, changed))
    np.testing.assert_array_equal(before[:10], after[:10])
    assert np.abs(before[10:19] - after[10:19]).max() > 1e-3


def test_a_local_layer_sees_its_window_and_no_further():
    local = dataclasses.replace(TINY, num_layers=1, global_every=2)
    (tokens,) = random_sequences([40])
    changed = [(tokens[0] + 1) % 500 + 6, *tokens[1:]]
    rows = [run(pack([[each]], length=40), architecture=local)[0] for each in (tokens, changed)]
    differs = np.abs(rows[0] - rows[1]).max(axis=-1) > 0
    assert differs[: TINY.window].all()
    assert not differs[TINY.window :].any()


def test_padding_is_finite_and_changes_nothing():
    (tokens,) = random_sequences([9])
    short, long = run(pack([[tokens]], length=8)), run(pack([[tokens]], length=30))
    assert np.isfinite(long).all()
    np.testing.assert_allclose(long[0, :8], short[0], atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "block", "projections"])
@pytest.mark.parametrize("scan_blocks", [True, False])
def test_compilation_choices_change_neither_output_nor_gradient(remat, scan_blocks):
    batch = pack([random_sequences([12, 9])], length=24)
    adapters = random_adapters(
        init_adapters(TINY, targets=("query", "ffw_linear"), rank=4, key=jax.random.key(0))
    )
    weights = tiny_weights()

    def total(adapters, options):
        hidden = hidden_states(
            weights, adapters, *batch[:1], *batch[3:], architecture=TINY, options=options
        )
        return jnp.sum(jnp.square(hidden) * (batch.segments > 0)[..., None])

    expected = jax.grad(total)(adapters, ForwardOptions())
    options = ForwardOptions(remat=remat, scan_blocks=scan_blocks)
    found = jax.jit(jax.grad(total), static_argnums=1)(adapters, options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


@pytest.mark.parametrize(("name", "tolerance"), [("mixed", 0.03), ("bfloat16", 0.08)])
def test_short_formats_stay_near_float32(name, tolerance):
    batch = pack([random_sequences([20])], length=20)
    exact, found = run(batch), run(batch, precision=PRECISIONS[name]).astype(np.float32)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 0 < error < tolerance
