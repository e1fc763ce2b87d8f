"""Fused attention, interpreted: equal to the dense one, outputs and gradients, on any packing."""

from __future__ import annotations

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.attention import attend, packed_masks
from coderllm_jax.model.fused_attention import (
    Blocks,
    Cut,
    Spans,
    attend_spans,
    can_fuse,
    can_launch,
    packed_spans,
)
from coderllm_jax.model.precision import PRECISIONS

# Float32 operands, which the kernels take where they are interpreted: the algebra is compared.
EXACT = PRECISIONS["float32"]
HEADS, GROUPS, SIZE = 4, 2, 16
ARCHITECTURE = dataclasses.replace(
    TINY, num_heads=HEADS, num_kv_heads=GROUPS, head_size=SIZE, window=7, query_scale=0.3
)
# Rows of 64: one long example, many short ones, an end of padding, nothing but padding.
PACKINGS = ([64], [3, 1, 20, 9, 31], [5, 30], [])
SMALL = Blocks(*(Cut(16, 8, 8, 2),) * 3)


def packed(rows, *, length=64):
    """(positions, segments) of rows given as lists of example lengths."""
    positions, segments = np.zeros((2, len(rows), length), np.int32)
    for i, sizes in enumerate(rows):
        ends = np.cumsum([0, *sizes])
        for segment, (start, end) in enumerate(itertools.pairwise(ends), 1):
            positions[i, start:end] = np.arange(end - start)
            segments[i, start:end] = segment
    return positions, segments


def test_spans_of_the_drawing():
    positions, segments = packed([[3, 2]], length=6)
    local, whole = packed_spans(positions, segments, window=2)
    assert whole.first.tolist() == [[0, 0, 0, 3, 3, 5]]
    assert whole.last.tolist() == [[2, 2, 2, 4, 4, 5]]
    assert local.first.tolist() == [[0, 0, 1, 3, 3, 5]]
    assert local.last.tolist() == [[1, 2, 2, 4, 4, 5]]


@pytest.mark.parametrize("is_global", [False, True])
def test_spans_say_what_the_masks_say(is_global):
    positions, segments = packed(PACKINGS)
    mask = packed_masks(jnp.array(positions), jnp.array(segments), window=7)[is_global]
    first, last = packed_spans(jnp.array(positions), jnp.array(segments), window=7)[is_global]
    index = np.arange(64)
    of_query = (index <= index[:, None]) & (index >= np.asarray(first)[..., None])
    of_key = (index[:, None] >= index) & (index[:, None] <= np.asarray(last)[:, None, :])
    real = (segments > 0)[..., None]
    np.testing.assert_array_equal(of_query & real, np.asarray(mask) & real)
    np.testing.assert_array_equal(of_query, of_key)


@pytest.mark.parametrize(
    ("is_global", "blocks"),
    [(True, SMALL), (False, SMALL), (False, Blocks(*(Cut(8, 16, 8, 2),) * 3))],
)
def test_equals_dense_attention_and_its_gradients(is_global, blocks):
    positions, segments = (jnp.array(x) for x in packed(PACKINGS))
    masks = packed_masks(positions, segments, window=ARCHITECTURE.window)
    spans = packed_spans(positions, segments, window=ARCHITECTURE.window)
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(4, 64, heads, SIZE) for heads in (HEADS, GROUPS, GROUPS, HEADS)]
    q, k, v, ct = (jax.random.normal(*each) for each in zip(keys, shapes, strict=True))
    # Padding is never counted: nothing is owed to it.
    real = (segments > 0)[..., None, None]
    ct = ct * real

    def dense(q, k, v):
        mask = masks[is_global]
        return attend(q, k, v, mask, architecture=ARCHITECTURE, precision=EXACT) * real

    def fused(q, k, v):
        scale = ARCHITECTURE.query_scale
        return attend_spans(q, k, v, spans[is_global], scale=scale, precision=EXACT, blocks=blocks)

    expected, pull_expected = jax.vjp(dense, q, k, v)
    found, pull_found = jax.vjp(jax.jit(fused), q, k, v)
    np.testing.assert_allclose(found * real, expected, atol=2e-6)
    for mine, theirs in zip(pull_found(ct), pull_expected(ct), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_a_block_that_nobody_sees_is_not_read():
    """NaN in keys outside every run would spoil a sum that touches them, even masked."""
    spans = Spans(*(jnp.array([[0] * 8 + [8] * 8 + [16] * 16]) for _ in range(2)))
    spans = spans._replace(last=jnp.array([[7] * 8 + [15] * 8 + [31] * 16]))
    x = jnp.ones((1, 32, 1, SIZE))
    spoiled = x.at[:, :8].set(jnp.nan)
    blocks = Blocks(*(Cut(8, 8, 8, 2),) * 3)

    def fused(k):
        return attend_spans(x, k, k, spans, scale=1.0, precision=EXACT, blocks=blocks)

    found, pull = jax.vjp(fused, spoiled)
    assert np.isnan(found[0, :8]).all()
    assert np.isfinite(found[0, 8:]).all()
    (owed,) = pull(x.at[:, :8].set(0))
    assert np.isfinite(owed[0, 8:]).all()


def test_lengths_that_blocks_do_not_divide_get_smaller_ones():
    blocks = Blocks(Cut(64, 64, 8, 2), Cut(64, 32, 4, 3), Cut(128, 16, 8, 1))
    assert blocks.fitting(8192) == blocks
    assert blocks.fitting(48) == Blocks(Cut(16, 16, 8, 2), Cut(16, 16, 4, 3), Cut(16, 16, 8, 1))


def test_only_what_the_kernels_compute_is_fused():
    short = PRECISIONS["bfloat16"]
    assert can_fuse(ARCHITECTURE, short, length=64)
    assert can_fuse(ARCHITECTURE, PRECISIONS["mixed"], length=64)
    assert not can_fuse(ARCHITECTURE, EXACT, length=64)
    assert not can_fuse(ARCHITECTURE, short, length=40)
    assert not can_fuse(TINY, short, length=64)  # heads of 8
    assert not can_fuse(dataclasses.replace(ARCHITECTURE, head_size=48), short, length=64)
    capped = dataclasses.replace(ARCHITECTURE, attention_soft_cap=50.0)
    assert not can_fuse(capped, short, length=64)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "wanted"),
    [
        ("gpu", "NVIDIA H200", "9.0", True),
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0", False),  # too little shared memory
        ("gpu", "NVIDIA L4", "8.9", False),  # too little shared memory
        ("gpu", "Tesla T4", "7.5", False),  # no bfloat16
        ("gpu", "AMD Instinct MI300X", "gfx942", False),
        ("cpu", "cpu", "", False),
        ("tpu", "TPU v5 lite", "", False),
    ],
)
def test_kernels_are_launched_on_devices_that_they_were_made_for(
    platform, kind, capability, wanted
):
    device = types.SimpleNamespace(platform=platform, device_kind=kind)
    if capability:
        device.compute_capability = capability
    assert can_launch(device) is wanted
