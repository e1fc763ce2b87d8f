r"""The likeliest token from a quarter of the bytes: int8 finds who can win, exact logits decide.

    E_v = s_v · C_v + r_v            C int8 [V, D]; |r_v| and |E_v| are kept beside it
    h   = a · c + a' · c' + e        two int8 digits a row; they are two rows of one product

    h·E_v differs from (a c + a' c')·s_v C_v by at most  |e| |E_v| + |h - e| |r_v|  (Cauchy-Schwarz)

              low      estimate      high
    token v    |----------*-----------|              high < best low: cannot be the likeliest
    token w            |--------*---------|          candidates: exact logits are computed
    best low           ^

Reading the head is half of decoding for one row, and this reads 168 MB where float32 reads 671. It
is the same token that all logits would give, to rounding: nothing is estimated about a candidate.
Where more tokens could win than are looked at, all logits are computed after all.

Greedy decoding only: a draw needs every token's probability.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.generation.network import DecodeWeights, head_logits
from coderllm_jax.generation.sampling import likeliest
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.precision import Precision

# On 896 positions of code, Gemma 3 270M left 3 candidates in the median and 60 at most.
_CANDIDATES = 128
_BLOCK, _BLOCKS = 64, 64
_LARGEST_CODE = 127
_ROWS_AT_ONCE = 4096
# Keeps the bound a bound where it is computed in float32.
_SLACK = 1.001


class Screen(NamedTuple):
    """The int8 form of an embedding: codes [V, D], and float32 [V] each: scale, |E_v|, |r_v|."""

    codes: jax.Array
    scale: jax.Array
    length: jax.Array
    error: jax.Array


@functools.partial(jax.jit, static_argnames="precision")
def make_screen(embedding_VD: jax.Array, *, precision: Precision) -> Screen:
    """The screen of an embedding whose products are the precision's."""

    def rows(part_ND: jax.Array) -> Screen:
        exact_ND = _rounded(part_ND, precision)
        scale_N = jnp.maximum(jnp.max(jnp.abs(exact_ND), axis=1), 1e-30) / _LARGEST_CODE
        code_ND = jnp.round(exact_ND / scale_N[:, None])
        error_ND = exact_ND - scale_N[:, None] * code_ND
        return Screen(
            codes=code_ND.astype(jnp.int8),
            scale=scale_N,
            length=jnp.linalg.norm(exact_ND, axis=1),
            error=jnp.linalg.norm(error_ND, axis=1),
        )

    # In parts: the whole embedding in float32 would be the largest array of all.
    vocabulary, width = embedding_VD.shape
    parts = embedding_VD.reshape(-1, math.gcd(vocabulary, _ROWS_AT_ONCE), width)
    return jax.tree.map(
        lambda leaf: leaf.reshape(vocabulary, *leaf.shape[2:]), jax.lax.map(rows, parts)
    )


def screened_likeliest(
    weights: DecodeWeights,
    screen: Screen,
    hidden_SD: jax.Array,
    active_S: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """The first of each active row's largest logits, int32 [S], as `likeliest(head_logits(...))`.

    Candidates are compared before the model's soft cap, which orders nothing anew. What idle rows
    hold is no model's and would often leave too many candidates.
    """
    exact_SD = _rounded(hidden_SD, options.precision)
    high_SV, best_low_S = _bounds(screen, exact_SD)
    slots, vocabulary = high_SV.shape
    padded_SV = jnp.pad(high_SV, ((0, 0), (0, -vocabulary % _BLOCK)), constant_values=-jnp.inf)
    high_SNB = padded_SV.reshape(slots, -1, _BLOCK)
    num_blocks = min(_BLOCKS, high_SNB.shape[1])
    high_of_block_SN, block_SN = jax.lax.top_k(jnp.max(high_SNB, axis=2), num_blocks)
    found_SM = jnp.take_along_axis(high_SNB, block_SN[:, :, None], axis=1).reshape(slots, -1)
    high_SC, member_SC = jax.lax.top_k(found_SM, min(_CANDIDATES, found_SM.shape[1]))
    token_SC = (
        jnp.take_along_axis(block_SN, member_SC // _BLOCK, axis=1) * _BLOCK + member_SC % _BLOCK
    )
    # The last one that is looked at cannot win, so nobody behind it can.
    sees_all = vocabulary <= high_SC.shape[1]
    is_enough_S = (high_of_block_SN[:, -1] < best_low_S) & (high_SC[:, -1] < best_low_S)
    are_enough = jnp.all(is_enough_S | ~active_S)

    def of_candidates() -> jax.Array:
        rows_SCD = weights.embedding[token_SC].astype(jnp.float32)
        logits_SC = jnp.sum(_rounded(rows_SCD, options.precision) * exact_SD[:, None], axis=-1)
        logits_SC = jnp.where(high_SC >= best_low_S[:, None], logits_SC, -jnp.inf)
        is_best_SC = logits_SC == jnp.max(logits_SC, axis=1, keepdims=True)
        return jnp.min(jnp.where(is_best_SC, token_SC, vocabulary), axis=1).astype(jnp.int32)

    def of_all() -> jax.Array:
        return likeliest(
            head_logits(weights, hidden_SD, architecture=architecture, options=options)
        )

    return jax.lax.cond(sees_all | are_enough, of_candidates, of_all)


def _bounds(screen: Screen, exact_SD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The most that each logit can be, [S, V], and the most that one is at least, [S]."""
    slots = exact_SD.shape[0]
    step_S1 = jnp.maximum(jnp.max(jnp.abs(exact_SD), axis=1, keepdims=True), 1e-30) / _LARGEST_CODE
    coarse_SD = jnp.round(exact_SD / step_S1)
    fine_step_S1 = step_S1 / (2 * _LARGEST_CODE)
    fine_SD = jnp.round((exact_SD - coarse_SD * step_S1) / fine_step_S1)
    fine_SD = jnp.clip(fine_SD, -_LARGEST_CODE, _LARGEST_CODE)
    shown_SD = coarse_SD * step_S1 + fine_SD * fine_step_S1
    products_SV = jnp.einsum(
        "sd,vd->sv",
        jnp.concatenate([coarse_SD, fine_SD]).astype(jnp.int8),
        screen.codes,
        preferred_element_type=jnp.int32,
    ).astype(jnp.float32)
    estimate_SV = screen.scale * (
        step_S1 * products_SV[:slots] + fine_step_S1 * products_SV[slots:]
    )
    left_S1 = jnp.linalg.norm(exact_SD - shown_SD, axis=1, keepdims=True)
    shown_S1 = jnp.linalg.norm(shown_SD, axis=1, keepdims=True)
    reach_SV = _SLACK * (left_S1 * screen.length + shown_S1 * screen.error)
    return estimate_SV + reach_SV, jnp.max(estimate_SV - reach_SV, axis=1)


def _rounded(x: jax.Array, precision: Precision) -> jax.Array:
    """Float32 values as the product of that precision sees them."""
    return x.astype(precision.operands).astype(jnp.float32)
