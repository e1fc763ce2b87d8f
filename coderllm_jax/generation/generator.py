"""Greedy answers from any weights, adapters merged or not: one prefill, one decode loop.

    prompts (ragged)  ──right-pad to a bucket──>  [B, L]  ──prefill──> caches [N, B, M, G, K]
    then, on the device, one token a row and turn until every row has stopped:
        token at position p  ──blocks over the cache──> hidden [B, D] ──head──> next token

Only the last position's logits are ever computed. A row stops at `<end_of_turn>`, at the end of
text, or when its budget is spent; it then idles until the others are done. Compiled once for each
(rows, prompt bucket, budget).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import Angles, attend, rotary_angles
from coderllm_jax.model.forward import ForwardOptions, apply_block, embed, rms_norm
from coderllm_jax.model.lora import Adapters
from coderllm_jax.model.precision import contract
from coderllm_jax.model.sharding import fetch

_SMALLEST_BUCKET = 32


class Cache(NamedTuple):
    """Keys and values of every layer, [N, B, M, G, K] in the carried format."""

    keys: jax.Array
    values: jax.Array


@dataclasses.dataclass(frozen=True)
class Generator:
    """Greedy generation for one architecture; weights and adapters come with each call."""

    architecture: Architecture
    tokenizer: Tokenizer
    options: ForwardOptions

    def generate(
        self,
        weights: dict[str, Any],
        adapters: Adapters,
        prompts: Sequence[npt.NDArray[np.int32]],
        *,
        max_new_tokens: int,
    ) -> list[str]:
        """One answer a prompt (token ids from `data.prompts`), without its stop token."""
        if not prompts:
            return []
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        padded = np.zeros((len(prompts), _bucket(int(lengths.max()))), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        # Answers are for people: no adapter dropout, whatever the run trains with.
        options = dataclasses.replace(self.options, lora_dropout=0.0, remat="none")
        tokens = _generate(
            weights,
            adapters,
            padded,
            lengths,
            architecture=self.architecture,
            options=options,
            stops=(self.tokenizer.end_of_turn_id, self.tokenizer.eos_id),
            max_new_tokens=max_new_tokens,
        )
        return [self._text(row) for row in fetch(tokens)]

    def _text(self, tokens: npt.NDArray[np.int32]) -> str:
        stops = (self.tokenizer.end_of_turn_id, self.tokenizer.eos_id)
        ended = np.flatnonzero(np.isin(tokens, stops))
        return self.tokenizer.decode(tokens[: ended[0] if len(ended) else None].tolist())


def _bucket(length: int) -> int:
    """The smallest power of two that holds the longest prompt."""
    return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


@functools.partial(jax.jit, static_argnames=("architecture", "options", "stops", "max_new_tokens"))
def _generate(
    weights: dict[str, Any],
    adapters: Adapters,
    prompts_BL: jax.Array,
    lengths_B: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    stops: tuple[int, ...],
    max_new_tokens: int,
) -> jax.Array:
    """New tokens int32 [B, max_new_tokens]; after a row's stop token come zeros."""
    b, length = prompts_BL.shape
    n, g, k = architecture.num_layers, architecture.num_kv_heads, architecture.head_size
    shape = (n, b, length + max_new_tokens, g, k)
    empty = Cache(*(jnp.zeros(shape, options.precision.carried) for _ in range(2)))
    run = functools.partial(
        _run_blocks, weights=weights, adapters=adapters, architecture=architecture, options=options
    )

    positions_BL = jnp.broadcast_to(jnp.arange(length), (b, length))
    hidden_BLD, cache = run(prompts_BL, positions_BL, empty)
    last_BD = jnp.take_along_axis(hidden_BLD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    first_B = _next_token(weights, last_BD, architecture, options)
    is_stop = functools.partial(jnp.isin, test_elements=jnp.array(stops))

    def unfinished(carry: tuple) -> jax.Array:
        i, _, _, done_B, _ = carry
        return (i < max_new_tokens) & ~jnp.all(done_B)

    def decode(carry: tuple) -> tuple:
        i, token_B, out_BT, done_B, cache = carry
        position_B1 = (lengths_B + i - 1)[:, None]
        hidden_B1D, cache = run(token_B[:, None], position_B1, cache)
        token_B = _next_token(weights, hidden_B1D[:, 0], architecture, options)
        token_B = jnp.where(done_B, 0, token_B)
        return i + 1, token_B, out_BT.at[:, i].set(token_B), done_B | is_stop(token_B), cache

    out_BT = jnp.zeros((b, max_new_tokens), jnp.int32).at[:, 0].set(first_B)
    start = (jnp.int32(1), first_B, out_BT, is_stop(first_B), cache)
    return jax.lax.while_loop(unfinished, decode, start)[2]


def _run_blocks(
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    cache: Cache,
    *,
    weights: dict[str, Any],
    adapters: Adapters,
    architecture: Architecture,
    options: ForwardOptions,
) -> tuple[jax.Array, Cache]:
    """Writes the tokens' keys and values at their positions and attends to all up to each.

    Padding of a prompt lies after its last token: no earlier token sees it, and decoding
    overwrites its cache entries one by one before they come into sight.
    """
    b = tokens_BL.shape[0]
    rows_B1 = jnp.arange(b)[:, None]
    distance_BLM = positions_BL[:, :, None] - jnp.arange(cache.keys.shape[2])
    seen = distance_BLM >= 0
    near = seen & (distance_BLM < architecture.window)
    angles = [
        rotary_angles(
            positions_BL, head_size=architecture.head_size, wavelength=wavelength, scaling=scaling
        )
        for wavelength, scaling in (
            (architecture.rope_local, architecture.rope_local_scaling),
            (architecture.rope_global, architecture.rope_global_scaling),
        )
    ]

    def layer(x_BLD: jax.Array, inputs: tuple) -> tuple[jax.Array, Cache]:
        block, layer_adapters, is_global, (keys, values) = inputs
        mask = jnp.where(is_global, seen, near)
        chosen: Angles = jax.tree.map(lambda a, b: jnp.where(is_global, b, a), *angles)
        updated = []

        def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            now = Cache(
                keys.at[rows_B1, positions_BL].set(k.astype(keys.dtype)),
                values.at[rows_B1, positions_BL].set(v.astype(values.dtype)),
            )
            updated.append(now)
            return attend(q, *now, mask, architecture=architecture, precision=options.precision)

        x_BLD = apply_block(
            x_BLD,
            block,
            layer_adapters,
            angles=chosen,
            attention=attention,
            architecture=architecture,
            options=options,
        )
        return x_BLD, updated[0]

    is_global = jnp.array([architecture.is_global(i) for i in range(architecture.num_layers)])
    x_BLD = embed(weights, tokens_BL, options=options)
    x_BLD, cache = jax.lax.scan(layer, x_BLD, (weights["blocks"], adapters, is_global, cache))
    normed = rms_norm(x_BLD, weights["final_norm"], epsilon=architecture.norm_epsilon)
    return normed, Cache(*cache)


def _next_token(
    weights: dict[str, Any],
    hidden_BD: jax.Array,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """The likeliest token of each row, int32 [B]; a soft cap would not change which it is."""
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    logits_BV = contract("bd,vd->bv", hidden_BD, weights["embedding"], wide)
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
