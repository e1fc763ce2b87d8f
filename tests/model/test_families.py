"""Every family through the one path, beside KerasHub's own models; see benchmarks.family_models."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.families import (
    TOLERANCE,
    equal_tokens,
    one_step,
    our_logits,
    packed_difference,
    random_tokens,
)
from benchmarks.family_models import CASES, keras_logits, make_keras, mend_query_scale, read_keras
from coderllm_jax.config.training import LORA_TARGETS, MeshSection
from coderllm_jax.model.architecture import TINY, Architecture
from coderllm_jax.model.attention import rotary_angles
from coderllm_jax.model.forward import ForwardOptions, hidden_states, layer_slice
from coderllm_jax.model.lora import adapter_shapes, init_adapters
from coderllm_jax.model.sharding import make_mesh, weight_spec
from tests.model.tiny_model import pack, random_adapters, random_sequences, tiny_weights

pytestmark = [
    # Keras 3.15 saves a variable through an __array__ that numpy 2 finds old-fashioned.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

BY_NAME = {case.name: case for case in CASES}
# Six layers: two periods of two local layers and a global one, whose heads are twice as large.
GEMMA4 = dataclasses.replace(
    TINY,
    family="gemma4",
    num_layers=6,
    query_scale=1.0,
    global_head_size=16,
    global_kv_heads=1,
    keys_are_values=True,
    value_norm=True,
    layer_scale=True,
    rope_global_fraction=0.25,
)


@pytest.fixture(scope="module")
def made():
    """Each case's model and what we read of it, made once."""
    kept = {}

    def make(name):
        if name not in kept:
            stock = make_keras(BY_NAME[name])
            kept[name] = (stock, read_keras(stock))
        return kept[name]

    return make


@pytest.mark.parametrize("name", BY_NAME)
def test_logits_are_the_stock_models(made, name):
    stock, read = made(name)
    tokens = random_tokens(2, 40)
    ours = our_logits(read, tokens)
    if BY_NAME[name].scales_by_width:
        assert np.abs(ours - keras_logits(stock, tokens)).max() > 100 * TOLERANCE
        mend_query_scale(stock)
    np.testing.assert_allclose(ours, keras_logits(stock, tokens), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["Gemma 1", "Gemma 2", "Gemma 4"])
def test_packed_is_unpacked(made, name):
    assert packed_difference(made(name)[1]) <= TOLERANCE


@pytest.mark.parametrize("name", ["Gemma 2", "Gemma 4"])
def test_cached_tokens_are_the_uncached_ones(made, name):
    equal, number = equal_tokens(made(name)[1])
    assert equal == number


@pytest.mark.parametrize("name", ["Gemma 4"])
def test_a_step_moves_the_adapters_alone(made, name):
    found = one_step(made(name)[1])
    assert 0 < found["gradient_norm"] < np.inf
    assert found["adapters_moved"]
    assert not found["frozen_moved"]


# ------------------------------------------------------------------------- layers of two kinds


def test_global_layers_have_stacks_of_their_own():
    shapes = GEMMA4.weight_shapes()["blocks"]
    assert shapes["query"] == (4, 4, 32, 8)
    assert shapes["key"] == shapes["value"] == (4, 2, 32, 8)
    assert shapes["global_query"] == (2, 4, 32, 16)
    assert shapes["global_key"] == (2, 1, 32, 16)
    assert "global_value" not in shapes
    assert shapes["ffw_gating"] == (6, 32, 64)
    assert shapes["layer_scale"] == (6,)
    assert GEMMA4.places_of(4)["query"] == ("query", 3)
    assert GEMMA4.places_of(5)["query"] == ("global_query", 1)
    assert "value" not in GEMMA4.places_of(5)
    assert (GEMMA4.at(4).head_size, GEMMA4.at(5).head_size) == (8, 16)
    assert TINY.at(2) is TINY


def test_a_layer_is_taken_from_its_stacks():
    blocks = tiny_weights(GEMMA4)["blocks"]
    block = layer_slice(blocks, 5, architecture=GEMMA4)
    np.testing.assert_array_equal(block["query"], blocks["global_query"][1])
    np.testing.assert_array_equal(block["ffw_linear"], blocks["ffw_linear"][5])
    assert "value" not in block


def test_a_target_of_lora_is_that_of_both_kinds():
    shapes = adapter_shapes(GEMMA4, targets=("query", "value"), rank=4)
    assert shapes == {
        "query": {"a": (4, 4, 32, 4), "b": (4, 4, 8)},
        "global_query": {"a": (2, 4, 32, 4), "b": (2, 4, 16)},
        "value": {"a": (4, 2, 32, 4), "b": (4, 4, 8)},
    }


def test_of_a_partly_rotated_head_the_fast_pairs_turn():
    angles = rotary_angles(
        jnp.array([[3]]), head_size=8, wavelength=16.0, scaling=1.0, fraction=0.5
    )
    # Pairs 0 and 1 of 4 turn by 3 and by 3 / 16 ** (1/4).
    np.testing.assert_allclose(angles.sin[0, 0, 0], np.sin([3.0, 1.5, 0.0, 0.0]), rtol=1e-5)
    np.testing.assert_allclose(angles.cos[0, 0, 0], np.cos([3.0, 1.5, 0.0, 0.0]), rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{"scan_blocks": False, "remat": "block"}, {"remat": "projections"}]
)
def test_compilation_choices_change_neither_output_nor_gradient(options):
    batch = pack([random_sequences([12, 9])], length=24)
    adapters = random_adapters(
        init_adapters(GEMMA4, targets=LORA_TARGETS, rank=2, key=jax.random.key(0))
    )
    weights = tiny_weights(GEMMA4)

    def total(adapters, options):
        hidden = hidden_states(
            weights, adapters, *batch[:1], *batch[3:], architecture=GEMMA4, options=options
        )
        return jnp.sum(jnp.square(hidden) * (batch.segments > 0)[..., None])

    grad = jax.jit(jax.grad(total), static_argnums=1)
    expected, found = grad(adapters, ForwardOptions()), grad(adapters, ForwardOptions(**options))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), found, expected
    )


def test_every_variable_has_a_rule():
    mesh = make_mesh(MeshSection(platform="cpu"), devices=jax.devices()[:1])
    for name, shape in GEMMA4.weight_shapes()["blocks"].items():
        weight_spec(f"blocks/{name}", shape, mesh)
    for name, pair in adapter_shapes(GEMMA4, targets=LORA_TARGETS, rank=4).items():
        for half, shape in pair.items():
            weight_spec(f"{name}/{half}", shape, mesh)


def test_an_architecture_is_hashable_and_equal_by_its_numbers():
    """Compiled programs go by it."""
    assert hash(GEMMA4) == hash(Architecture(**dataclasses.asdict(GEMMA4)))
