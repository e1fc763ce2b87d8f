"""Rings: what lies where, against sequences written out by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.generation.cache import (
    LayerCache,
    attend_held,
    positions_held,
    write_piece,
    write_slot,
    write_tokens,
)
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.attention import attend
from coderllm_jax.model.precision import FLOAT32, PRECISIONS

PLACES, GROUPS, SIZE = 4, 2, 3


def held(next_position):
    return positions_held(PLACES, jnp.array(next_position)).tolist()


def test_the_drawing():
    assert held([10, 3]) == [[8, 9, 6, 7], [0, 1, 2, -1]]
    # After the next tokens: 10 lies over 6, and 3 where nothing was.
    assert held([11, 4]) == [[8, 9, 10, 7], [0, 1, 2, 3]]


def test_a_sequence_shorter_than_its_ring_leaves_places_empty():
    assert held(2) == [0, 1, -2, -1]
    assert max(held(0)) < 0


def keys_of(positions, row):
    """Keys that say whose they are: [L, G, K] from 100 · row + position, and the group."""
    base = 100.0 * row + np.asarray(positions, np.float32)
    return np.stack([np.full((GROUPS, SIZE), 0.0) + value for value in base]) + (
        np.arange(GROUPS)[None, :, None] / 10
    )


pieces = jax.jit(functools.partial(write_piece, places=PLACES))
slots = jax.jit(functools.partial(write_slot, num_slots=2))
tokens = jax.jit(write_tokens)


def in_pieces(lengths, row):
    """A prompt's rings, written in pieces of these lengths, each padded to 8 tokens."""
    rings, start = None, 0
    for length in lengths:
        padded = np.full((1, 8, GROUPS, SIZE), -1.0, np.float32)
        padded[0, :length] = keys_of(range(start, start + length), row)
        rings = pieces(rings, padded, padded, np.array([start]), np.array([length]))
        start += length
    return rings


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.lists(st.integers(1, 7), min_size=1, max_size=2),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_slots_that_begin_at_different_times_hold_their_last_tokens(first, second, gap, more):
    cache = LayerCache(*(jnp.full((2 * GROUPS, PLACES, SIZE), -7.0) for _ in range(2)))
    lengths = [first, second]
    position = [0, 0]

    def begin(slot):
        position[slot] = sum(lengths[slot])
        return slots(cache, in_pieces(lengths[slot], slot), slot=np.int32(slot))

    cache = begin(0)
    for step in range(gap + more):
        if step == gap:
            cache = begin(1)
        new = np.stack([keys_of([position[slot]], slot)[0] for slot in (0, 1)])
        cache = tokens(cache, new, new, np.array(position, np.int32))
        position = [position[0] + 1, position[1] + (step >= gap)]
    for slot in (0, 1):
        positions = held(position[slot])
        assert max(positions) == position[slot] - 1
        rows = np.asarray(cache.keys).reshape(2, GROUPS, PLACES, SIZE)[slot]
        for place, where in enumerate(positions):
            if where >= 0:
                np.testing.assert_allclose(rows[:, place], keys_of([where], slot)[0], rtol=1e-6)
    np.testing.assert_array_equal(cache.keys, cache.values)


def test_attention_to_rings_is_attention():
    generator = np.random.default_rng(0)
    groups, size = TINY.num_kv_heads, TINY.head_size
    q = generator.normal(size=(3, TINY.num_heads, size)).astype(np.float32)
    k, v = generator.normal(size=(2, 3, 7, groups, size)).astype(np.float32)
    visible = generator.random((3, 7)) < 0.6
    visible[:, 0] = True
    rows = [np.swapaxes(each, 1, 2).reshape(3 * groups, 7, size) for each in (k, v)]
    expected = attend(q[:, None], k, v, visible[:, None], architecture=TINY, precision=FLOAT32)
    # `mixed` keeps float32 caches, and must not round them at every token.
    for name in ("float32", "mixed"):
        found = attend_held(
            q,
            LayerCache(*map(jnp.asarray, rows)),
            visible,
            architecture=TINY,
            precision=PRECISIONS[name],
        )
        np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)
