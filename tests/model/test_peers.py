"""Logits equal transformers' on the same weights, in float32, to 1e-3."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from coderllm_jax.model import keras_bridge
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.sharding import tree_path
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place
from tests.model.test_huggingface import huggingface_tensors
from tests.model.test_keras_bridge import ODD, logits_of

torch = pytest.importorskip("torch", reason="needs the extra `peers`")
transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")

pytestmark = pytest.mark.peers

# Longer than the window of 16, so that local layers forget; and with scaled rotation.
LONG = dataclasses.replace(TINY, rope_global_scaling=8.0)


def transformers_logits(architecture, weights, tokens):
    """[B, L, V] from a Gemma3ForCausalLM that holds `weights`."""
    kinds = {False: "sliding_attention", True: "full_attention"}
    config = transformers.Gemma3TextConfig(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.width,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        head_dim=architecture.head_size,
        query_pre_attn_scalar=round(architecture.query_scale**-2),
        sliding_window=architecture.window,
        layer_types=[kinds[architecture.is_global(i)] for i in range(architecture.num_layers)],
        rms_norm_eps=architecture.norm_epsilon,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": architecture.rope_local},
            "full_attention": {
                "rope_type": "linear",
                "rope_theta": architecture.rope_global,
                "factor": architecture.rope_global_scaling,
            },
        },
        attn_implementation="eager",
    )
    model = transformers.Gemma3ForCausalLM(config).eval()
    leaves = {tree_path(path): np.array(x) for path, x in jax.tree.leaves_with_path(weights)}
    state = {name: torch.from_numpy(x) for name, x in huggingface_tensors(leaves).items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def _tokens(vocabulary, length):
    return np.random.default_rng(0).integers(6, vocabulary, (2, length)).astype(np.int32)


@pytest.mark.parametrize("architecture", [TINY, ODD, LONG])
def test_small_models_agree(architecture):
    weights = place(random_leaves(architecture, seed=0), architecture, dtype="float32")
    tokens = _tokens(architecture.vocabulary, 48)
    ours = logits_of(keras_bridge.to_keras_hub(architecture, weights), tokens)
    theirs = transformers_logits(architecture, weights, tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.real_model
def test_the_real_model_agrees(gemma):
    text = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
    tokens = np.array([[gemma.tokenizer.bos_id, *gemma.tokenizer.encode(text)]], np.int32)
    ours = logits_of(keras_bridge.to_keras_hub(gemma.architecture, gemma.weights), tokens)
    theirs = transformers_logits(gemma.architecture, gemma.weights, tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)
