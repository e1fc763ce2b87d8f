"""The two compiled halves of generation: prompts into caches, and one more token for every slot.

    slots        0            1            2            3
    prefill      writes keys and values of a piece of one prompt into its slot's caches; no logits
    start        hands a slot the prompt's last token: from here on it takes part in decoding
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

from coderllm_jax.generation.cache import LayerCache, empty_caches, positions_held
from coderllm_jax.generation.sampling import SamplingArrays, choose_tokens
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import attend, rotary_angles
from coderllm_jax.model.forward import ForwardOptions, apply_block, embed, rms_norm
from coderllm_jax.model.lora import Adapters
from coderllm_jax.model.precision import contract
from coderllm_jax.model.sharding import gather_block, gather_embedding

# Alternatives that log-probabilities come with, as OpenAI's interface allows.
MAX_ALTERNATIVES = 20


class SlotState(NamedTuple):
    """What decoding carries from token to token; donated. One entry a slot in every field.

    token is the last one, which is not in the caches yet; position is where it belongs.
    answered counts the answer's tokens so far. seen is bool [S, V].
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
    """A piece of a prompt for each of B slots: ids int32 [B, L] and, under each, where it belongs.

    Row b holds `length[b]` tokens from position `start[b]` on, for slot `slot[b]`.
    """

    ids: Any
    slot: Any
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


class DecodeWeights(NamedTuple):
    """Weights with their layers apart: a slice of a stacked array would be copied at every token.

    blocks and adapters are one dict a layer; adapters' are empty where they were merged.
    """

    embedding: jax.Array
    final_norm: jax.Array
    blocks: tuple[dict[str, jax.Array], ...]
    adapters: tuple[Adapters, ...]


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


@functools.partial(jax.jit, static_argnames=("num_layers",))
def split_layers(weights: dict[str, Any], adapters: Adapters, *, num_layers: int) -> DecodeWeights:
    """The stacked tree of `model.architecture` as decoding wants it."""

    def layers(tree: Any) -> tuple[Any, ...]:
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(num_layers))

    return DecodeWeights(
        weights["embedding"], weights["final_norm"], layers(weights["blocks"]), layers(adapters)
    )


@functools.partial(
    jax.jit, static_argnames=("architecture", "options", "is_first"), donate_argnames="state"
)
def prefill(
    weights: DecodeWeights,
    state: SlotState,
    piece: Piece,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    is_first: bool,
) -> SlotState:
    """Writes the keys and values of a piece of each prompt. `is_first`: nothing lies before it."""
    length = piece.ids.shape[1]
    offset_L = jnp.arange(length)
    positions_BL = piece.start[:, None] + offset_L
    written_BL = offset_L < piece.length[:, None]
    caches = list(state.caches)

    def attention(layer: int, q: Any, k: Any, v: Any) -> jax.Array:
        cache = caches[layer]
        places = cache.places
        # Of a piece longer than a ring, the end alone stays in it.
        stays_BL = written_BL & (offset_L >= piece.length[:, None] - places)
        place_BL = jnp.where(stays_BL, positions_BL % places, places)  # past the end: dropped
        caches[layer] = LayerCache(
            *(
                old.at[piece.slot[:, None], place_BL].set(new.astype(old.dtype), mode="drop")
                for old, new in zip(cache, (k, v), strict=True)
            )
        )
        key_positions_BM = jnp.where(written_BL, positions_BL, -1)
        if not is_first:
            before_BM = positions_held(places, piece.start)
            key_positions_BM = jnp.concatenate([before_BM, key_positions_BM], axis=1)
            k, v = (
                jnp.concatenate([old[piece.slot], new.astype(old.dtype)], axis=1)
                for old, new in zip(cache, (k, v), strict=True)
            )
        mask = _visible(positions_BL, key_positions_BM, architecture, layer)
        return attend(q, k, v, mask, architecture=architecture, precision=options.precision)

    _blocks(weights, piece.ids, positions_BL, attention, architecture=architecture, options=options)
    return state._replace(caches=tuple(caches))


@functools.partial(jax.jit, donate_argnames="state")
def start(state: SlotState, begin: Start) -> SlotState:
    """Hands a slot over to decoding."""
    slot = begin.slot
    return state._replace(
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


@jax.jit
def save_slot(state: SlotState, slot: Any) -> tuple[LayerCache, ...]:
    """A copy of one slot's keys and values, each [M, G, K]."""
    return jax.tree.map(lambda leaf: leaf[slot], state.caches)


@functools.partial(jax.jit, donate_argnames="state")
def load_slot(state: SlotState, kept: tuple[LayerCache, ...], slot: Any) -> SlotState:
    """Puts what `save_slot` gave into a slot."""
    caches = jax.tree.map(lambda leaf, one: leaf.at[slot].set(one), state.caches, kept)
    return state._replace(caches=caches)


@functools.partial(
    jax.jit,
    static_argnames=("architecture", "options", "stops", "samples", "logprobs"),
    donate_argnames="state",
)
def decode(
    weights: DecodeWeights,
    state: SlotState,
    cancelled_S: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    stops: tuple[int, ...],
    samples: bool,
    logprobs: bool,
) -> tuple[SlotState, Decoded]:
    """One token for every active slot. `cancelled` slots stop before it.

    samples: whether any slot is not greedy; logprobs: whether anybody asked for them. Both cost
    passes over [S, V] that greedy answers can do without.
    """
    active_S = state.active & ~cancelled_S
    positions_S1 = state.position[:, None]
    caches = list(state.caches)
    slots_S = jnp.arange(active_S.shape[0])

    def attention(layer: int, q: Any, k: Any, v: Any) -> jax.Array:
        places = caches[layer].places
        place_S = jnp.where(active_S, state.position % places, places)
        keys, values = (
            old.at[slots_S, place_S].set(new[:, 0].astype(old.dtype), mode="drop")
            for old, new in zip(caches[layer], (k, v), strict=True)
        )
        caches[layer] = LayerCache(keys, values)
        held_SM = positions_held(places, state.position + 1)
        mask = _visible(positions_S1, held_SM, architecture, layer)
        return attend(q, keys, values, mask, architecture=architecture, precision=options.precision)

    hidden_S1D = _blocks(
        weights,
        state.token[:, None],
        positions_S1,
        attention,
        architecture=architecture,
        options=options,
    )
    logits_SV = _logits(weights, hidden_S1D[:, 0], architecture, options)
    if samples:
        token_S = choose_tokens(logits_SV, state.seen, state.answered, state.sampling)
        seen_SV = state.seen.at[slots_S, token_S].set(True)
    else:
        token_S, seen_SV = jnp.argmax(logits_SV, axis=-1).astype(jnp.int32), state.seen
    token_S = jnp.where(active_S, token_S, state.token)

    logprob_S = alternatives = None
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


def _blocks(
    weights: DecodeWeights,
    ids_BL: jax.Array,
    positions_BL: jax.Array,
    attention: Any,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """Final hidden states, normalized; `attention(layer, q, k, v)` looks after the caches."""
    angles = {
        is_global: rotary_angles(
            positions_BL,
            head_size=architecture.head_size,
            wavelength=architecture.rope_global if is_global else architecture.rope_local,
            scaling=architecture.rope_global_scaling
            if is_global
            else architecture.rope_local_scaling,
        )
        for is_global in (False, True)
    }
    x_BLD = embed({"embedding": weights.embedding}, ids_BL, options=options)
    for layer, (block, adapters) in enumerate(zip(weights.blocks, weights.adapters, strict=True)):
        x_BLD = apply_block(
            x_BLD,
            gather_block(block),
            adapters,
            angles=angles[architecture.is_global(layer)],
            attention=functools.partial(attention, layer),
            architecture=architecture,
            options=options,
        )
    return rms_norm(x_BLD, weights.final_norm, epsilon=architecture.norm_epsilon)


def _visible(
    query_BL: jax.Array, key_BM: jax.Array, architecture: Architecture, layer: int
) -> jax.Array:
    """Which keys each query sees, [B, L, M], by position; keys at negative ones do not exist."""
    distance_BLM = query_BL[:, :, None] - key_BM[:, None, :]
    visible = (key_BM >= 0)[:, None, :] & (distance_BLM >= 0)
    if architecture.is_global(layer):
        return visible
    return visible & (distance_BLM < architecture.window)


def _logits(
    weights: DecodeWeights,
    hidden_SD: jax.Array,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """Float32 [S, V]."""
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    logits_SV = contract("bd,vd->bv", hidden_SD, gather_embedding(weights.embedding), wide)
    if architecture.final_soft_cap:
        cap = architecture.final_soft_cap
        logits_SV = cap * jnp.tanh(logits_SV / cap)
    return logits_SV
