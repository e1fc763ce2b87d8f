"""Cached decoding against the uncached forward pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.generation.generator import Generator, _generate
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.lora import init_adapters
from tests.model.tiny_model import random_adapters, random_sequences, tiny_weights

ADAPTERS = random_adapters(
    init_adapters(TINY, targets=("query", "value"), rank=4, key=jax.random.key(0))
)
OPTIONS = ForwardOptions(lora_scale=0.5)
NEW_TOKENS = 24


LENGTH = 64

hidden = jax.jit(
    functools.partial(hidden_states, architecture=TINY, options=OPTIONS),
)


def uncached(weights, prompt):
    """Greedy tokens, the whole sequence computed anew for each."""
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(tokens)] = tokens
        positions = np.arange(LENGTH, dtype=np.int32)[None]
        states = np.asarray(hidden(weights, ADAPTERS, row, positions, np.ones_like(row)))
        logits = states[0, len(tokens) - 1] @ np.asarray(weights["embedding"]).T
        tokens.append(int(np.argmax(logits)))
    return tokens[len(prompt) :]


def test_cached_equals_uncached_for_ragged_prompts_past_the_window():
    weights = tiny_weights()
    prompts = random_sequences([5, 30, 17])
    padded = np.zeros((3, 32), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    found = _generate(
        weights,
        ADAPTERS,
        padded,
        np.array([5, 30, 17], np.int32),
        architecture=TINY,
        options=OPTIONS,
        stops=(-1,),
        max_new_tokens=NEW_TOKENS,
    )
    assert np.asarray(found).tolist() == [uncached(weights, prompt) for prompt in prompts]


def test_an_answer_ends_before_its_stop_token():
    tokenizer = ByteTokenizer()
    weights = tiny_weights()
    # A head that always says the same byte, then one that always ends the turn.
    for token, expected in ((tokenizer.encode("x")[0], "xxxx"), (tokenizer.end_of_turn_id, "")):
        rigged = weights | {
            "embedding": jnp.zeros_like(weights["embedding"]).at[token].set(1.0),
            "final_norm": jnp.full_like(weights["final_norm"], 10.0),
            "blocks": jax.tree.map(jnp.zeros_like, weights["blocks"]),
        }
        generator = Generator(TINY, tokenizer, ForwardOptions())
        prompt = np.array([token], np.int32)
        assert generator.generate(rigged, {}, [prompt], max_new_tokens=4) == [expected]
