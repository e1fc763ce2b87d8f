"""Attention over packed rows: who may see whom, rotary positions, and the dense product.

Two examples in one row, window 2 on a local layer (q down, k across; `.` is masked):

    segments   1 1 1 2 2        global  x . . . .        local   x . . . .
    positions  0 1 2 0 1                x x . . .                x x . . .
                                        x x x . .                . x x . .
                                        . . . x .                . . . x .
                                        . . . x x                . . . x x
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.precision import Precision, contract


class Angles(NamedTuple):
    """Cosine and sine of rotary embedding, each float32 [B, L, 1, K / 2]."""

    cos: jax.Array
    sin: jax.Array


def layer_angles(positions_BL: jax.Array, architecture: Architecture) -> tuple[Angles, Angles]:
    """(local, global) angles for token positions."""
    far = architecture.global_head_size or architecture.head_size
    return (
        rotary_angles(
            positions_BL,
            head_size=architecture.head_size,
            wavelength=architecture.rope_local,
            scaling=architecture.rope_local_scaling,
        ),
        rotary_angles(
            positions_BL,
            head_size=far,
            wavelength=architecture.rope_global,
            scaling=architecture.rope_global_scaling,
            fraction=architecture.rope_global_fraction,
        ),
    )


def rotary_angles(
    positions_BL: jax.Array,
    *,
    head_size: int,
    wavelength: float,
    scaling: float,
    fraction: float = 1.0,
) -> Angles:
    """Angles for token positions, linear scaling (Su et al. 2021, RoFormer, section 3.2.2).

    Of the pairs, the `fraction` that turns fastest rotates; the others stand still.
    """
    half = head_size // 2
    frequency_K = wavelength ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if fraction < 1:
        frequency_K = frequency_K.at[int(fraction * head_size) // 2 :].set(0.0)
    angle = positions_BL.astype(jnp.float32)[:, :, None, None] / scaling * frequency_K
    return Angles(jnp.cos(angle), jnp.sin(angle))


def rotate(x_BLHK: jax.Array, angles: Angles) -> jax.Array:
    """Rotates the pairs (k, k + K/2) by the angles; the dtype stays."""
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = (
        first * angles.cos - second * angles.sin,
        second * angles.cos + first * angles.sin,
    )
    return jnp.concatenate(rotated, axis=-1).astype(x_BLHK.dtype)


def packed_masks(
    positions_BL: jax.Array, segments_BL: jax.Array, *, window: int
) -> tuple[jax.Array, jax.Array]:
    """(local, global) boolean masks [B, L, M]: same segment, not later, and within the window."""
    distance_BLM = positions_BL[:, :, None] - positions_BL[:, None, :]
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    visible = same & (distance_BLM >= 0)
    return visible & (distance_BLM < window), visible


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    *,
    architecture: Architecture,
    precision: Precision,
) -> jax.Array:
    """Grouped-query attention, dense, softmax in float32; returns [B, L, H, K].

    A row with nothing to see (padding) gets the mean of all values: finite, and never counted.
    """
    b, length, heads, size = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q = (q_BLHK * architecture.query_scale).reshape(b, length, groups, heads // groups, size)
    logits = contract("blghk,bmgk->bghlm", q, k_BMGK, precision).astype(jnp.float32)
    if architecture.attention_soft_cap:
        cap = architecture.attention_soft_cap
        logits = cap * jnp.tanh(logits / cap)
    logits = jnp.where(mask_BLM[:, None, None], logits, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(logits, axis=-1)
    mixed = contract("bghlm,bmgk->blghk", probabilities, v_BMGK, precision)
    return mixed.reshape(b, length, heads, size)
