"""The two compiled halves of generation: prompts into caches, and one more token for every slot.

    slots        0            1            2            3
    prefill      keys and values of a prompt, a piece at a time, apart from the slots; no logits
    start        puts them into a slot, with the prompt's last token: from here on it decodes
    decode       token [S] ── blocks over the caches ──> hidden [S, D] ── head ──> next token [S]

Logits exist for one position a slot, in decode, and nowhere else: a prompt's last token is decoded
like any other, so there is one place where tokens are chosen. Every shape is fixed but the length
of a prompt's piece, which is one of a few buckets: that many programs are compiled.

Rows never see one another, and slots have a fixed number, so what a slot answers does not depend
on what the others do. Between two numbers of slots, or two formats, answers may differ by rounding.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.generation.cache import (
    LayerCache,
    attend_held,
    empty_caches,
    num_places,
    positions_held,
    rows_to_tokens,
    write_piece,
    write_slot,
    write_tokens,
)
from coderllm_jax.generation.network import DecodeWeights, head_logits, run_blocks
from coderllm_jax.generation.sampling import SamplingArrays, choose_tokens, likeliest
from coderllm_jax.generation.screen import Screen, screened_likeliest
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import attend
from coderllm_jax.model.forward import ForwardOptions

# Alternatives that log-probabilities come with, as OpenAI's interface allows.
MAX_ALTERNATIVES = 20


class SlotState(NamedTuple):
    """What decoding carries from token to token; donated. One entry a slot in every field.

    token is the last one, which is not in the caches yet; position is where it belongs. answered
    counts the answer's tokens so far. seen is bool [S, V].
    """

    caches: tuple[LayerCache, ...]
    token: jax.Array
    position: jax.Array
    answered: jax.Array
    budget: jax.Array
    active: jax.Array
    seen: jax.Array
    sampling: SamplingArrays


class Piece(NamedTuple):
    """A piece of each of B prompts: ids int32 [B, L], of which `length[b]` from `start[b]` on."""

    ids: Any
    start: Any
    length: Any


class Start(NamedTuple):
    """What a slot begins to decode with; scalars, and seen bool [V]."""

    slot: Any
    token: Any
    position: Any
    budget: Any
    seen: Any
    sampling: SamplingArrays


class Decoded(NamedTuple):
    """What one step of decoding gave each slot, [S]; of slots that were not active, nothing.

    finished: this was the slot's last token, because it is a stop token or spent the budget.
    logprob: the chosen token's under the model itself, before penalty, temperature and filters;
    alternatives are the likeliest tokens and their log-probabilities, [S, 20].
    """

    token: jax.Array
    active: jax.Array
    finished: jax.Array
    logprob: jax.Array | None = None
    alternatives: tuple[jax.Array, jax.Array] | None = None


def new_slots(
    architecture: Architecture, *, num_slots: int, max_length: int, dtype: jnp.dtype
) -> SlotState:
    """Slots in which nothing has begun; sequences hold at most `max_length` tokens."""

    def zeros(dtype: Any = jnp.int32) -> jax.Array:
        return jnp.zeros(num_slots, dtype)

    return SlotState(
        empty_caches(architecture, num_slots=num_slots, max_length=max_length, dtype=dtype),
        token=zeros(),
        position=zeros(),
        answered=zeros(),
        budget=zeros(),
        active=zeros(bool),
        seen=jnp.zeros((num_slots, architecture.vocabulary), bool),
        sampling=SamplingArrays.greedy(num_slots),
    )


@functools.partial(jax.jit, static_argnames=("architecture", "options", "max_length"))
def prefill(
    weights: DecodeWeights,
    before: tuple[LayerCache, ...] | None,
    piece: Piece,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    max_length: int,
) -> tuple[LayerCache, ...]:
    """What B prompts hold with a piece of each, in rings of their own.

    before: what they held before it; None: nothing. It stays, for other prompts that begin alike.
    """
    offset_L = jnp.arange(piece.ids.shape[1])
    positions_BL = piece.start[:, None] + offset_L
    written_BL = offset_L < piece.length[:, None]
    after: list[LayerCache] = []

    def attention(layer: int, q: Any, k: Any, v: Any) -> jax.Array:
        held = before[layer] if before is not None else None
        places = num_places(architecture, layer, max_length=max_length)
        after.append(write_piece(held, k, v, piece.start, piece.length, places=places))
        key_positions_BM = jnp.where(written_BL, positions_BL, -1)
        if held is not None:
            held_BM = positions_held(places, piece.start)
            key_positions_BM = jnp.concatenate([held_BM, key_positions_BM], axis=1)
            k, v = (
                jnp.concatenate([rows_to_tokens(old, num_rows=k.shape[0]), new], axis=1)
                for old, new in zip(held, (k, v), strict=True)
            )
        mask = _visible(positions_BL, key_positions_BM, architecture, layer)
        return attend(q, k, v, mask, architecture=architecture, precision=options.precision)

    run_blocks(
        weights, piece.ids, positions_BL, attention, architecture=architecture, options=options
    )
    return tuple(after)


@functools.partial(jax.jit, donate_argnames="state")
def start(state: SlotState, held: tuple[LayerCache, ...] | None, begin: Start) -> SlotState:
    """Hands a slot over to decoding, with what its prompt holds but for its last token.

    held: rings of prompts, of which the first is meant; None: the last token is the only one.
    """
    slot = begin.slot
    caches = state.caches
    if held is not None:
        caches = tuple(
            write_slot(cache, rings, slot=slot, num_slots=state.token.shape[0])
            for cache, rings in zip(caches, held, strict=True)
        )
    return state._replace(
        caches=caches,
        token=state.token.at[slot].set(begin.token),
        position=state.position.at[slot].set(begin.position),
        answered=state.answered.at[slot].set(0),
        budget=state.budget.at[slot].set(begin.budget),
        active=state.active.at[slot].set(True),
        seen=state.seen.at[slot].set(begin.seen),
        sampling=jax.tree.map(
            lambda all_slots, one: all_slots.at[slot].set(one), state.sampling, begin.sampling
        ),
    )


@functools.partial(
    jax.jit,
    static_argnames=("architecture", "options", "stops", "samples", "logprobs"),
    donate_argnames="state",
)
def decode(
    weights: DecodeWeights,
    state: SlotState,
    cancelled_S: jax.Array,
    screen: Screen | None = None,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    stops: tuple[int, ...],
    samples: bool,
    logprobs: bool,
) -> tuple[SlotState, Decoded]:
    """One token for every active slot. `cancelled` slots stop before it.

    samples: whether any slot is not greedy; logprobs: whether anybody asked for them. Both cost
    passes over [S, V] that greedy answers can do without, and where there is a `screen`, so are
    most logits.
    """
    active_S = state.active & ~cancelled_S
    caches = list(state.caches)

    def attention(layer: int, q: Any, k: Any, v: Any) -> jax.Array:
        caches[layer] = write_tokens(caches[layer], k[:, 0], v[:, 0], state.position)
        held_SM = positions_held(caches[layer].places, state.position + 1)
        visible_S1M = _visible(state.position[:, None], held_SM, architecture, layer)
        mixed_SHK = attend_held(
            q[:, 0],
            caches[layer],
            visible_S1M[:, 0],
            architecture=architecture,
            precision=options.precision,
        )
        return mixed_SHK[:, None]

    hidden_S1D = run_blocks(
        weights,
        state.token[:, None],
        state.position[:, None],
        attention,
        architecture=architecture,
        options=options,
    )
    seen_SV = state.seen
    logprob_S = alternatives = None
    if screen is not None and not (samples or logprobs):
        token_S = screened_likeliest(
            weights, screen, hidden_S1D[:, 0], active_S, architecture=architecture, options=options
        )
    else:
        logits_SV = head_logits(
            weights, hidden_S1D[:, 0], architecture=architecture, options=options
        )
        token_S = likeliest(logits_SV)
    if samples:
        token_S = choose_tokens(logits_SV, state.seen, state.answered, state.sampling)
        seen_SV = state.seen.at[jnp.arange(token_S.shape[0]), token_S].set(True)
    token_S = jnp.where(active_S, token_S, state.token)

    if logprobs:
        logprob_SV = jax.nn.log_softmax(logits_SV, axis=-1)
        logprob_S = jnp.take_along_axis(logprob_SV, token_S[:, None], axis=1)[:, 0]
        best, tokens = jax.lax.top_k(logprob_SV, min(MAX_ALTERNATIVES, logprob_SV.shape[1]))
        alternatives = (tokens.astype(jnp.int32), best)

    step_S = active_S.astype(jnp.int32)
    answered_S = state.answered + step_S
    is_stop_S = jnp.isin(token_S, jnp.array(stops, jnp.int32))
    finished_S = active_S & (is_stop_S | (answered_S >= state.budget))
    state = state._replace(
        caches=tuple(caches),
        token=token_S,
        position=state.position + step_S,
        answered=answered_S,
        active=active_S & ~finished_S,
        seen=seen_SV,
    )
    return state, Decoded(token_S, active_S, finished_S, logprob_S, alternatives)


def _visible(
    query_BL: jax.Array, key_BM: jax.Array, architecture: Architecture, layer: int
) -> jax.Array:
    """Which keys each query sees, [B, L, M], by position; keys at negative ones do not exist."""
    distance_BLM = query_BL[:, :, None] - key_BM[:, None, :]
    visible = (key_BM >= 0)[:, None, :] & (distance_BLM >= 0)
    if architecture.is_global(layer):
        return visible
    return visible & (distance_BLM < architecture.window)
