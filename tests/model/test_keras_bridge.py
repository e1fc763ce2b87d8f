"""The tree is KerasHub's set of variables, and both sides compute the same."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from coderllm_jax.config.training import LORA_TARGETS
from coderllm_jax.errors import ModelError
from coderllm_jax.model import keras_bridge
from coderllm_jax.model.architecture import GEMMA3_270M, TINY, Architecture
from coderllm_jax.model.lora import adapter_shapes, init_adapters, merge_adapters
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import leaf_shapes, place

GEMMA3_27B = Architecture(
    family="gemma3",
    num_layers=62,
    vocabulary=262_144,
    width=5376,
    feed_forward=21_504,
    num_heads=32,
    num_kv_heads=16,
    head_size=128,
    window=1024,
    global_every=6,
    query_scale=168**-0.5,
    rope_global_scaling=8.0,
)
OLD = dataclasses.replace(TINY, query_key_norm=False)
GEMMA = dataclasses.replace(
    OLD, family="gemma", global_every=1, rope_global=1e4, post_norms=False, window=4096
)
GEMMA2 = dataclasses.replace(
    OLD, family="gemma2", global_every=2, attention_soft_cap=50.0, final_soft_cap=30.0
)
# Everything KerasHub's constructor cannot say at once: see the bridge's docstring.
ODD = dataclasses.replace(
    TINY, query_scale=(32 // 2) ** -0.5, num_heads=2, norm_epsilon=1e-3, rope_global=3e5
)


@pytest.fixture(scope="module")
def tree():
    return place(random_leaves(TINY, seed=0), TINY, dtype="float32")


@pytest.fixture(scope="module")
def adapters():
    """Adapters whose B is not zero, so that they count."""
    fresh = init_adapters(TINY, targets=LORA_TARGETS, rank=4, key=jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.05, fresh)


def logits_of(backbone, tokens):
    """[B, L, V] from a KerasHub backbone, through its tied embedding."""
    padding = np.ones_like(tokens)
    hidden = backbone.predict({"token_ids": tokens, "padding_mask": padding}, verbose=0)
    return np.asarray(backbone.token_embedding(hidden, reverse=True))


@pytest.mark.parametrize("architecture", [TINY, GEMMA3_270M, GEMMA3_27B, GEMMA, GEMMA2])
@pytest.mark.parametrize("targets", [(), ("query", "value"), LORA_TARGETS])
def test_our_tree_is_exactly_kerashubs_variables(architecture, targets):
    expected = leaf_shapes(architecture)
    for name, pair in adapter_shapes(architecture, targets=targets, rank=4).items():
        expected |= {f"{name}/{half}": shape for half, shape in pair.items()}
    found = keras_bridge.abstract_shapes(architecture, targets=targets, rank=4)
    assert found == expected


@pytest.mark.parametrize("architecture", [TINY, ODD, GEMMA, GEMMA2])
def test_weights_and_numbers_come_back(architecture):
    weights = place(random_leaves(architecture, seed=0), architecture, dtype="float32")
    found, values = keras_bridge.from_keras_hub(keras_bridge.to_keras_hub(architecture, weights))
    assert found == architecture
    jax.tree.map(np.testing.assert_array_equal, values, weights)


def test_query_scale_reaches_the_layers_that_kerashub_forgets():
    weights = place(random_leaves(ODD, seed=0), ODD, dtype="float32")
    backbone = keras_bridge.to_keras_hub(ODD, weights)
    assert not any(b.attention.query_head_dim_normalize for b in backbone.transformer_layers)


def test_adapters_come_back_and_leave_the_base_alone(tree, adapters):
    backbone = keras_bridge.to_keras_hub(TINY, tree, adapters, alpha=8.0)
    jax.tree.map(np.testing.assert_array_equal, keras_bridge.read_adapters(backbone), adapters)
    jax.tree.map(np.testing.assert_array_equal, keras_bridge.from_keras_hub(backbone)[1], tree)


def test_alpha_scales_as_it_does_for_us(tree, adapters):
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    adapted = keras_bridge.to_keras_hub(TINY, tree, adapters, alpha=8.0)
    merged = tree | {"blocks": merge_adapters(tree["blocks"], adapters, scale=8.0 / 4)}
    expected = logits_of(keras_bridge.to_keras_hub(TINY, merged), tokens)
    np.testing.assert_allclose(logits_of(adapted, tokens), expected, atol=2e-4)
    base = logits_of(keras_bridge.to_keras_hub(TINY, tree), tokens)
    assert np.abs(expected - base).max() > 0.1


def test_kerashub_does_not_take_our_arrays(tree, adapters):
    """Keras donates its variables to `predict` and `fit`: an alias of ours would be deleted."""
    backbone = keras_bridge.to_keras_hub(TINY, tree, adapters)
    logits_of(backbone, np.ones((1, 4), np.int32))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((tree, adapters)))


def test_what_cannot_be_said_in_kerashub_is_refused(tree, adapters):
    with pytest.raises(ModelError, match="no bridge"):
        keras_bridge.to_keras_hub(dataclasses.replace(TINY, family="gemma4"), tree)
    with pytest.raises(ModelError, match="query_key_norm is True"):
        keras_bridge.to_keras_hub(dataclasses.replace(TINY, family="gemma2"), tree)
    with pytest.raises(ModelError, match=r"query_scale is 0\.5"):
        keras_bridge.to_keras_hub(dataclasses.replace(TINY, query_scale=0.5), tree)
    mixed = {"query": adapters["query"], "value": {"a": np.ones((3, 2, 32, 2)), "b": None}}
    with pytest.raises(ModelError, match=r"ranks \[2, 4\]"):
        keras_bridge.to_keras_hub(TINY, tree, mixed)


def test_another_backend_is_refused(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ModelError, match="set KERAS_BACKEND=jax"):
        keras_bridge.import_keras_hub()


@pytest.mark.long
@pytest.mark.real_model
def test_the_real_model_speaks(gemma):
    """Any slip in layout, norm or rotation makes nonsense of this."""
    backbone = keras_bridge.to_keras_hub(gemma.architecture, gemma.weights)
    tokenizer = gemma.tokenizer
    prompt = [tokenizer.bos_id, *tokenizer.encode("The capital of France is")]
    last = logits_of(backbone, np.array([prompt], np.int32))[0, -1]
    assert "Paris" in tokenizer.decode(np.argsort(last)[-5:])
