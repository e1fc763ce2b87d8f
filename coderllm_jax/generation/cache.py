"""Keys and values of what was read and written so far, a layer at a time, in slots.

A global layer keeps every position up to the longest allowed; a local one only its window, as a
ring in which position p lies at p mod window. Six slots' worth of one local layer, window 4, after
position 5 (columns are places in the ring):

    place      0  1  2  3
    position   4  5  2  3        position 6 goes to place 2, over 2, which is out of sight by then

Keys are stored rotated by their position. Attention reads places in any order, so a ring needs no
turning back.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture


class LayerCache(NamedTuple):
    """One layer's keys and values, [S slots, M places, G, K] each."""

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
        shape = (num_slots, places, architecture.num_kv_heads, architecture.head_size)
        caches.append(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)))
    return tuple(caches)


def positions_held(places: int, next_position: jax.Array) -> jax.Array:
    """Which position lies at each place before `next_position` is written; negative: none.

    next_position: int32 [...]; returns [..., places]. The same for rings and for whole caches,
    which are rings that never turn.
    """
    place = jnp.arange(places)
    last = next_position[..., None] - 1
    return last - (last - place) % places
