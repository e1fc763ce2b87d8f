"""Keys and values of what was read and written so far, a layer at a time, in slots.

A global layer keeps every position up to the longest allowed; a local one only its window, as a
ring: position p lies at place p mod M. Two slots of a local layer, window 4 (columns are places):

    place               0  1  2  3
    slot 0, position    8  9  6  7       the next one, 10, goes to place 2, over 6, which is out of
    slot 1, position    0  1  2  -       sight by then; slot 1's goes to place 3

Where a token lies follows from its own position alone, so that what it sees is summed in the same
order whatever the other slots do: an answer is the same to the bit beside any neighbours. Keys are
stored rotated by their position.

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
    caches = []
    for layer in range(architecture.num_layers):
        seen = architecture.at(layer)
        rows, size = num_slots * seen.num_kv_heads, seen.head_size
        shape = (rows, num_places(architecture, layer, max_length=max_length), size)
        caches.append(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)))
    return tuple(caches)


def positions_held(places: int, next_position: jax.Array) -> jax.Array:
    """Which position lies at each place before `next_position` is written; negative: none.

    next_position: int32 [...]; returns [..., places].
    """
    last = next_position[..., None] - 1
    return last - (last - jnp.arange(places)) % places


def write_tokens(
    cache: LayerCache, k_SGK: jax.Array, v_SGK: jax.Array, position_S: jax.Array
) -> LayerCache:
    """One token of every slot; slots that are not in use get what nobody reads."""
    place_R = jnp.repeat(position_S % cache.places, k_SGK.shape[1])

    @jax.vmap
    def write(old_MK: jax.Array, new_K: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(
            old_MK, new_K.astype(old_MK.dtype), place, axis=0
        )

    rows, _, size = cache.keys.shape
    return LayerCache(
        *(
            write(old, new.reshape(rows, size), place_R)
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
    """Rings with positions `start` to `start + length` of some prompts.

    Of more than a ring holds, the last. before: the rings until then; None: nothing was held.
    """
    source_BM = positions_held(places, start_B + length_B)
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
    cache: LayerCache, held: LayerCache, *, slot: jax.Array, num_slots: int
) -> LayerCache:
    """The first prompt's rings in a slot."""
    groups = cache.keys.shape[0] // num_slots
    row_G = slot * groups + jnp.arange(groups)
    return LayerCache(
        *(
            old.at[row_G].set(ring[:groups].astype(old.dtype))
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
    visible_RM = jnp.repeat(visible_SM, rows // visible_SM.shape[0], axis=0)
    logits_RHM = jnp.where(visible_RM[:, None], logits_RHM, jnp.finfo(jnp.float32).min)
    probability_RHM = jax.nn.softmax(logits_RHM, axis=-1)
    mixed_RHK = contract("rhm,rmk->rhk", probability_RHM, cache.values, precision)
    return mixed_RHK.reshape(q_SHK.shape)
