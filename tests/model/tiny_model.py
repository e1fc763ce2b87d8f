"""The tiny model and packed rows for it, as the model tests share them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place
from coderllm_jax.records import PackedBatch


def tiny_weights(architecture=TINY, *, seed=0):
    """Float32 weights of the tiny architecture."""
    return place(random_leaves(architecture, seed=seed), architecture, dtype="float32")


def pack(sequences, *, length, supervised_from=1):
    """Rows of lists of token sequences, packed by hand; targets from `supervised_from` count."""
    rows = PackedBatch(*(np.zeros((len(sequences), length), np.int32) for _ in range(5)))
    rows = rows._replace(weights=rows.weights.astype(np.float32))
    for i, row in enumerate(sequences):
        start = 0
        for segment, tokens in enumerate(row, start=1):
            n = len(tokens) - 1
            span = slice(start, start + n)
            rows.inputs[i, span] = tokens[:-1]
            rows.targets[i, span] = tokens[1:]
            rows.weights[i, span] = np.arange(1, n + 1) >= supervised_from
            rows.positions[i, span] = np.arange(n)
            rows.segments[i, span] = segment
            start += n
    return rows


def random_sequences(lengths, *, seed=0, vocabulary=TINY.vocabulary):
    """Token sequences of the given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(6, vocabulary, size=n).tolist() for n in lengths]


def random_adapters(adapters, *, seed=0):
    """The adapters' tree with noise in place of its start, so that B is not zero."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            part: jnp.asarray(generator.normal(0, 0.1, leaf.shape), jnp.float32)
            for part, leaf in adapter.items()
        }
        for name, adapter in adapters.items()
    }
