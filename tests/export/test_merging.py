"""What is given out tensor by tensor is the merge that training's own code makes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.model.lora import merge_adapters
from coderllm_jax.model.weights import leaf_shapes
from tests.export.small_model import ALPHA, RANK, SMALL, small_model


def test_merged_kernels_are_those_of_merge_adapters(small_vocabulary):
    model = small_model(small_vocabulary)
    blocks = {name: jnp.asarray(values) for name, values in model.weights["blocks"].items()}
    merged = merge_adapters(blocks, model.adapters, scale=ALPHA / RANK)
    for path, layer in model.tensors():
        if layer is not None:
            expected = merged[path.removeprefix("blocks/")][layer]
            np.testing.assert_allclose(model.read(path, layer), expected, atol=1e-6, rtol=1e-6)


def test_one_entry_by_hand(small_vocabulary):
    model = small_model(small_vocabulary, targets=("query",))
    a, b = model.adapters["query"]["a"], model.adapters["query"]["b"]
    # Layer 2, head 1, input 3, output 5: W + sum over the rank of A·B, times alpha / rank.
    added = sum(float(a[2, 1, 3, r]) * float(b[2, r, 5]) for r in range(RANK)) * 2.0
    expected = float(model.weights["blocks"]["query"][2, 1, 3, 5]) + added
    assert model.block("query", 2)[1, 3, 5] == pytest.approx(expected, abs=1e-6)


def test_what_has_no_adapter_is_the_base_bit_for_bit(small_vocabulary):
    model = small_model(small_vocabulary, targets=("query",))
    base = model.base()
    for path, layer in model.tensors():
        same = np.array_equal(model.read(path, layer), base.read(path, layer))
        assert same == (path != "blocks/query"), path


def test_a_sum_is_rounded_once(small_vocabulary):
    model = small_model(small_vocabulary, targets=("query",))
    narrow = dict(model.weights["blocks"])
    narrow["query"] = narrow["query"].astype(jnp.bfloat16)
    model = dataclasses.replace(model, weights={**model.weights, "blocks": narrow})
    assert model.block("query", 0).dtype == np.float32


def test_every_tensor_is_given_once(small_vocabulary):
    model = small_model(small_vocabulary)
    given = [(path, layer) for path, layer in model.tensors()]
    expected = {
        (path, layer)
        for path in leaf_shapes(SMALL)
        for layer in (range(SMALL.num_layers) if path.startswith("blocks/") else [None])
    }
    assert len(given) == len(expected)
    assert set(given) == expected
