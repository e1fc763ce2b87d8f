"""Keys and values of what was read and written so far, a layer at a time, in slots.

A global layer keeps every position up to the longest allowed; a local one only its window. Both
are rings, and all slots turn together: whatever is decoded in turn t lies at place t mod M in all
slots. Two slots of a local layer, window 4, after turn 9 (columns are places):

    place               0  1  2  3
    slot 0, position    7  8  5  6       began at turn 6 with position 5: offset 1
    slot 1, position    2  3  0  1       began at turn 8 with position 2: offset 6

    turn 10 writes place 2: position 9 of slot 0, over 5, and 4 of slot 1, over 0; both are out of
    sight by then

So a token's place is (position + offset) mod M, and one slice writes all slots at once: a write for
each slot in turn costs as much as their attention. Keys are stored rotated by their position.

Slots and KV heads share an axis: row s·G + g is head g of slot s. With an axis each, XLA reshapes
the written cache for its product and copies all of it to do so.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.precision import Precision, contract


class LayerCache(NamedTuple):
    """One layer's keys and values, [S·G rows, M places, K] each."""

    keys: jax.Array
    values: jax.Array

    @property
    def places(self) -> int:
        """How many positions each slot holds."""
        return self.keys.shape[1]


def empty_caches(
    architecture: Architecture, *, num_slots: int, max_length: int, dtype: jnp.dtype
) -> tuple[LayerCache, ...]:
    """Caches of all layers for sequences of up to `max_length` tokens."""
    caches = []
    for layer in range(architecture.num_layers):
        is_global = architecture.is_global(layer)
        places = max_length if is_global else min(architecture.window, max_length)
        shape = (num_slots * architecture.num_kv_heads, places, architecture.head_size)
        caches.append(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)))
    return tuple(caches)


def positions_held(places: int, next_position: jax.Array, offset: jax.Array) -> jax.Array:
    """Which position lies at each place before `next_position` is written; negative: none.

    next_position, offset: int32 [...]; returns [..., places].
    """
    unturned = jnp.arange(places) - offset[..., None]
    last = next_position[..., None] - 1
    return last - (last - unturned) % places


def write_turn(
    cache: LayerCache, k_SGK: jax.Array, v_SGK: jax.Array, turn: jax.Array
) -> LayerCache:
    """One token of every slot, in turn `turn`; slots that are not in use get what nobody reads."""
    place = turn % cache.places
    return LayerCache(
        *(
            jax.lax.dynamic_update_slice_in_dim(
                old, new.reshape(old.shape[0], 1, -1).astype(old.dtype), place, axis=1
            )
            for old, new in zip(cache, (k_SGK, v_SGK), strict=True)
        )
    )


def write_piece(
    cache: LayerCache,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    *,
    slot_B: jax.Array,
    start_B: jax.Array,
    length_B: jax.Array,
    offset_B: jax.Array,
) -> LayerCache:
    """Positions `start` to `start + length` of some slots; of more than a ring holds, the last."""
    held_BM = positions_held(cache.places, start_B + length_B, offset_B)
    source_BM = held_BM - start_B[:, None]
    is_new_BGMK = (source_BM >= 0)[:, None, :, None]
    rows_BG = slot_rows(slot_B, num_kv_heads=k_BLGK.shape[2])
    take = jax.vmap(lambda new, source: jnp.take(new, source, axis=0, mode="clip"))

    def write(old: jax.Array, new_BLGK: jax.Array) -> jax.Array:
        # Whole rings are put together and written: a write for each token costs more.
        new_BGMK = jnp.swapaxes(take(new_BLGK.astype(old.dtype), source_BM), 1, 2)
        ring_BGMK = jnp.where(is_new_BGMK, new_BGMK, old.at[rows_BG].get(mode="clip"))
        return old.at[rows_BG].set(ring_BGMK, mode="drop")

    return LayerCache(write(cache.keys, k_BLGK), write(cache.values, v_BLGK))


def slot_rows(slot: jax.Array, *, num_kv_heads: int) -> jax.Array:
    """The rows of slots [...], as [..., G]; slots past the end have rows past the end."""
    return slot[..., None] * num_kv_heads + jnp.arange(num_kv_heads)


def turn_rings(cache: LayerCache, by: jax.Array) -> LayerCache:
    """One slot's rings [G, M, K] with what lies at place i at place i + by, around the ring."""
    return LayerCache(*(jnp.roll(ring, by, axis=1) for ring in cache))


def attend_held(
    q_SHK: jax.Array,
    cache: LayerCache,
    visible_SM: jax.Array,
    *,
    architecture: Architecture,
    precision: Precision,
) -> jax.Array:
    """Attention of one token of each slot over what its slot holds, [S, H, K]; softmax in float32.

    As `model.attention.attend`, whose product of one query XLA's CPU backend computes at a third
    of the rate.
    """
    rows, _, size = cache.keys.shape
    q_RHK = (q_SHK * architecture.query_scale).reshape(rows, -1, size)
    logits_RHM = contract("rhk,rmk->rhm", q_RHK, cache.keys, precision).astype(jnp.float32)
    if architecture.attention_soft_cap:
        cap = architecture.attention_soft_cap
        logits_RHM = cap * jnp.tanh(logits_RHM / cap)
    visible_RM = jnp.repeat(visible_SM, architecture.num_kv_heads, axis=0)
    logits_RHM = jnp.where(visible_RM[:, None], logits_RHM, jnp.finfo(jnp.float32).min)
    probability_RHM = jax.nn.softmax(logits_RHM, axis=-1)
    mixed_RHK = contract("rhm,rmk->rhk", probability_RHM, cache.values, precision)
    return mixed_RHK.reshape(q_SHK.shape)
