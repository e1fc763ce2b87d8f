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


def num_places(architecture: Architecture, layer: int, *, max_length: int) -> int:
    """How many positions a layer keeps of sequences of up to `max_length` tokens."""
    return max_length if architecture.is_global(layer) else min(architecture.window, max_length)


def empty_caches(
    architecture: Architecture, *, num_slots: int, max_length: int, dtype: jnp.dtype
) -> tuple[LayerCache, ...]:
    """Caches of all layers for sequences of up to `max_length` tokens."""
    rows, size = num_slots * architecture.num_kv_heads, architecture.head_size
    caches = []
    for layer in range(architecture.num_layers):
        shape = (rows, num_places(architecture, layer, max_length=max_length), size)
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
    before: LayerCache | None,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    start_B: jax.Array,
    length_B: jax.Array,
    *,
    places: int,
) -> LayerCache:
    """Rings with positions `start` to `start + length` of some prompts, at offset 0.

    Of more than a ring holds, the last. before: the rings until then; None: nothing was held.
    """
    source_BM = positions_held(places, start_B + length_B, jnp.zeros_like(start_B))
    source_BM = source_BM - start_B[:, None]
    take = jax.vmap(lambda new, source: jnp.take(new, source, axis=0, mode="clip"))

    def write(old_RMK: jax.Array | None, new_BLGK: jax.Array) -> jax.Array:
        # Whole rings are put together: XLA writes tokens one by one, and slowly.
        groups, size = new_BLGK.shape[2:]
        ring_RMK = jnp.swapaxes(take(new_BLGK, source_BM), 1, 2).reshape(-1, places, size)
        if old_RMK is None:
            return ring_RMK
        is_new_RM = jnp.repeat(source_BM >= 0, groups, axis=0)
        return jnp.where(is_new_RM[:, :, None], ring_RMK, old_RMK)

    old = before or (None, None)
    return LayerCache(write(old[0], k_BLGK), write(old[1], v_BLGK))


def write_slot(
    cache: LayerCache, held: LayerCache, *, slot: jax.Array, offset: jax.Array, num_slots: int
) -> LayerCache:
    """The first prompt's rings in a slot, turned by its offset."""
    groups = cache.keys.shape[0] // num_slots
    row_G = slot * groups + jnp.arange(groups)
    return LayerCache(
        *(
            old.at[row_G].set(jnp.roll(ring[:groups], offset, axis=1).astype(old.dtype))
            for old, ring in zip(cache, held, strict=True)
        )
    )


def rows_to_tokens(ring_RMK: jax.Array, *, num_rows: int) -> jax.Array:
    """Rings as keys of `model.attention`: [B·G, M, K] → [B, M, G, K]."""
    _, places, size = ring_RMK.shape
    return jnp.swapaxes(ring_RMK.reshape(num_rows, -1, places, size), 1, 2)


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
    of the rate. Operands keep the caches' format: they are not converted at every token.
    """
    rows, _, size = cache.keys.shape
    precision = precision._replace(operands=cache.keys.dtype)
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
