"""From logits to one token a row: filters as one threshold, then one uniform number a row.

    logits [S, V] ── repetition penalty, temperature ──> probabilities
                  ── top-k, top-p, min-p ──────────────> keep what is at least threshold [S, 1]
                  ── inverse of the cumulative sum ────> token [S]

A request's token number i is drawn with fold_in(key(seed), i) and with nothing else, so a sample
does not depend on which slot it has, on its neighbours, or on when it began.

Sources: top-k Fan et al. 2018; top-p Holtzman et al. 2020 (section 3.1); min-p Nguyen et al. 2024
(section 3); repetition penalty Keskar et al. 2019 (section 4.1). Filters are applied in that order
to the probabilities after temperature, as transformers and vLLM do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from coderllm_jax.records import GREEDY, Sampling

# Candidates that top-k and top-p look at first: 18 ms for 16 rows of 262k on two CPU cores. Rows
# that want more of them (a flat distribution, a large k) are bisected, 60 ms; sorting took 1,500.
_CANDIDATES = 256
# Bits of the largest probability, 1.0, and how many steps bisect all numbers up to it.
_BITS_OF_ONE, _BISECTIONS = 0x3F800000, 30


class SamplingArrays(NamedTuple):
    """`Sampling` of all slots, on the device; seeds are uint32, the rest float32 and int32 [S]."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    seed: jax.Array

    @classmethod
    def of(cls, sampling: Sampling) -> SamplingArrays:
        """One slot's, as host scalars."""
        dtypes = ("float32", "int32", "float32", "float32", "float32", "uint32")
        values: list[Any] = [
            np.asarray(value, dtype)
            for value, dtype in zip(dataclasses.astuple(sampling), dtypes, strict=True)
        ]
        return cls(*values)

    @classmethod
    def greedy(cls, num_slots: int) -> SamplingArrays:
        """Greedy in every slot."""
        return jax.tree.map(lambda value: jnp.full(num_slots, value), cls.of(GREEDY))


def choose_tokens(
    logits_SV: jax.Array, seen_SV: jax.Array, index_S: jax.Array, sampling: SamplingArrays
) -> jax.Array:
    """The next token of every slot, int32 [S].

    logits: float32. seen: bool, tokens of the prompt and of the answer so far. index: how many
    tokens of the answer there are already.
    """
    penalty_S1 = sampling.repetition_penalty[:, None]
    penalized_SV = jnp.where(logits_SV > 0, logits_SV / penalty_S1, logits_SV * penalty_S1)
    logits_SV = jnp.where(seen_SV, penalized_SV, logits_SV)
    greedy_S = likeliest(logits_SV)

    heat_S1 = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
    probability_SV = jax.nn.softmax(logits_SV / heat_S1, axis=-1)
    threshold_S = _threshold(probability_SV, sampling)
    kept_SV = jnp.where(probability_SV >= threshold_S[:, None], probability_SV, 0.0)
    uniform_S = jax.vmap(
        lambda seed, index: jax.random.uniform(jax.random.fold_in(jax.random.key(seed), index))
    )(sampling.seed, index_S)
    drawn_S = _draw(kept_SV, uniform_S)
    return jnp.where(sampling.temperature > 0, drawn_S, greedy_S)


def likeliest(logits_SV: jax.Array) -> jax.Array:
    """The first of each row's largest logits, int32 [S]: argmax in two levels, blocks and members.

    XLA's CPU backend takes a maximum at memory's speed and argmax at a fifteenth of it.
    """
    blocks_SNB = _in_blocks(logits_SV, fill=-jnp.inf)
    size = blocks_SNB.shape[2]
    block_S = jnp.argmax(jnp.max(blocks_SNB, axis=2), axis=1)
    chosen_SB = jnp.take_along_axis(blocks_SNB, block_S[:, None, None], axis=1)[:, 0]
    return (block_S * size + jnp.argmax(chosen_SB, axis=1)).astype(jnp.int32)


def _threshold(probability_SV: jax.Array, sampling: SamplingArrays) -> jax.Array:
    """The least probability that all filters let through, [S].

    A row's is found in one way, whatever its neighbours want: the ways round differently.
    """
    few = min(_CANDIDATES, probability_SV.shape[1])
    draws = sampling.temperature > 0
    wants_k, wants_p = draws & (sampling.top_k > 0), draws & (sampling.top_p < 1)

    def by_rank() -> jax.Array:
        largest_SC, _ = jax.lax.top_k(probability_SV, few)
        mass_S = jnp.sum(largest_SC, axis=1)
        wants_more = wants_k & (sampling.top_k > few)
        wants_more |= wants_p & ~wants_k & (mass_S < sampling.top_p)
        of_few_S = _by_rank(largest_SC, sampling, wants_k=wants_k, wants_p=wants_p)
        return jax.lax.cond(
            jnp.any(wants_more),
            lambda: jnp.where(
                wants_more,
                _by_bisection(probability_SV, sampling, wants_k=wants_k, wants_p=wants_p),
                of_few_S,
            ),
            lambda: of_few_S,
        )

    by_rank_S = jax.lax.cond(
        jnp.any(wants_k | wants_p), by_rank, lambda: jnp.zeros(probability_SV.shape[0])
    )
    by_min_p_S = sampling.min_p * jnp.max(probability_SV, axis=1)
    return jnp.maximum(by_rank_S, by_min_p_S)


def _by_rank(
    largest_SC: jax.Array, sampling: SamplingArrays, *, wants_k: jax.Array, wants_p: jax.Array
) -> jax.Array:
    """From the largest, in order; right where these hold what is asked for."""
    last_k = jnp.clip(sampling.top_k - 1, 0, largest_SC.shape[1] - 1)
    by_k_S = jnp.take_along_axis(largest_SC, last_k[:, None], axis=1)[:, 0]
    after_k_SC = jnp.where(wants_k[:, None] & (largest_SC < by_k_S[:, None]), 0.0, largest_SC)
    total_S = jnp.where(wants_k, jnp.sum(after_k_SC, axis=1), 1.0)
    before_SC = (jnp.cumsum(after_k_SC, axis=1) - after_k_SC) / total_S[:, None]
    # The smallest set that reaches top_p: all tokens before which less than that has gathered.
    last_p = jnp.sum(before_SC < sampling.top_p[:, None], axis=1) - 1
    by_p_S = jnp.take_along_axis(largest_SC, last_p[:, None], axis=1)[:, 0]
    return jnp.maximum(jnp.where(wants_k, by_k_S, 0.0), jnp.where(wants_p, by_p_S, 0.0))


def _by_bisection(
    probability_SV: jax.Array, sampling: SamplingArrays, *, wants_k: jax.Array, wants_p: jax.Array
) -> jax.Array:
    """From all of them, in no order: thresholds are halved until one is found to the bit."""
    none_S = jnp.zeros(wants_k.shape)
    by_k_S = jax.lax.cond(
        jnp.any(wants_k),
        lambda: jnp.where(
            wants_k,
            _largest_reaching(sampling.top_k, probability_SV, jnp.ones_like(probability_SV)),
            none_S,
        ),
        lambda: none_S,
    )
    kept_SV = jnp.where(probability_SV >= by_k_S[:, None], probability_SV, 0.0)
    total_S = jnp.where(wants_k, jnp.sum(kept_SV, axis=1), 1.0)
    by_p_S = _largest_reaching(sampling.top_p * total_S, kept_SV, kept_SV)
    return jnp.maximum(by_k_S, jnp.where(wants_p, by_p_S, 0.0))


def _largest_reaching(target_S: jax.Array, value_SV: jax.Array, weight_SV: jax.Array) -> jax.Array:
    """The largest t for which what is at least t weighs at least the target; 0 if nothing does.

    Values are in [0, 1], where floats are in the order of their bits.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reaches_S, fails_S = bounds
        middle_S = reaches_S + (fails_S - reaches_S) // 2
        t_S1 = jax.lax.bitcast_convert_type(middle_S, jnp.float32)[:, None]
        found_S = jnp.sum(jnp.where(value_SV >= t_S1, weight_SV, 0.0), axis=1) >= target_S
        return jnp.where(found_S, middle_S, reaches_S), jnp.where(found_S, fails_S, middle_S)

    none_S = jnp.zeros(target_S.shape, jnp.int32)
    reaches_S, _ = jax.lax.fori_loop(
        0, _BISECTIONS, halve, (none_S, jnp.full_like(none_S, _BITS_OF_ONE + 1))
    )
    return jax.lax.bitcast_convert_type(reaches_S, jnp.float32)


def _draw(weight_SV: jax.Array, uniform_S: jax.Array) -> jax.Array:
    """An index with probability in proportion to its weight, by the inverse of the cumulative sum.

    In two levels, blocks and then one block's members: one sum over 262k weights in sequence would
    cost more than the model's head, and float32 would lose the small ones at its end.
    """
    blocks_SNB = _in_blocks(weight_SV, fill=0.0)
    size = blocks_SNB.shape[2]
    sums_SN = jnp.sum(blocks_SNB, axis=2)
    block_S, rest_S = _invert(sums_SN, uniform_S * jnp.sum(sums_SN, axis=1))
    chosen_SB = jnp.take_along_axis(blocks_SNB, block_S[:, None, None], axis=1)[:, 0]
    member_S, _ = _invert(chosen_SB, rest_S)
    return (block_S * size + member_S).astype(jnp.int32)


def _invert(weight_SN: jax.Array, target_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index whose cumulative weight exceeds the target, and what is left of the target.

    Rounding may put the target past the end: the last index that has any weight is then meant.
    """
    total_SN = jnp.cumsum(weight_SN, axis=1)
    past = (total_SN > target_S[:, None]) & (weight_SN > 0)
    last = weight_SN.shape[1] - 1 - jnp.argmax((weight_SN > 0)[:, ::-1], axis=1)
    index_S = jnp.where(jnp.any(past, axis=1), jnp.argmax(past, axis=1), last)
    here = jnp.take_along_axis(total_SN - weight_SN, index_S[:, None], axis=1)[:, 0]
    return index_S, jnp.maximum(target_S - here, 0.0)


def _in_blocks(row_SV: jax.Array, *, fill: float) -> jax.Array:
    """Rows as about as many blocks as a block has members, filled up at the end: [S, N, B]."""
    slots, length = row_SV.shape
    size = 1 << ((length - 1).bit_length() // 2)
    padded = jnp.pad(row_SV, ((0, 0), (0, -length % size)), constant_values=fill)
    return padded.reshape(slots, -1, size)
