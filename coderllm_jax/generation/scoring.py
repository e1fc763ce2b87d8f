r"""How surprising a given answer is to a model: the loss of a text under a prompt.

    prompt ids   <bos> … model\n      not counted
    answer ids   A  A  A  <end>       nats of each under what stands before it, summed

One sequence at a time, padded to a power of two, over the generator's own weights: what is scored
is the model that answers. Nothing holds the logits of more than a block (see `model.loss`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from coderllm_jax.generation.network import DecodeWeights, run_blocks
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import attend, packed_masks
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.loss import HeadOptions, cross_entropy

_SHORTEST = 64


class Score(NamedTuple):
    """Summed negative log-likelihood in nats, and the number of tokens it is over."""

    nats: float
    num_tokens: int


def score_text(
    weights: DecodeWeights,
    ids: npt.NDArray[np.int32],
    supervised: npt.NDArray[np.bool_],
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> Score:
    """The loss of the `supervised` tokens of one sequence, int32 [L] and bool [L].

    A first token cannot be predicted and is never counted.
    """
    length = max(_SHORTEST, 1 << (len(ids) - 1).bit_length())
    row = np.zeros((4, 1, length), np.int32)
    row[0, 0, : len(ids)] = ids
    row[1, 0, : len(ids) - 1] = ids[1:]
    row[2, 0, : len(ids) - 1] = supervised[1:]
    row[3, 0, : len(ids)] = 1
    nats = _loss(weights, *row, architecture=architecture, options=options)
    return Score(float(nats), int(supervised[1:].sum()))


@functools.partial(jax.jit, static_argnames=("architecture", "options"))
def _loss(
    weights: DecodeWeights,
    inputs_BL: jax.Array,
    targets_BL: jax.Array,
    supervised_BL: jax.Array,
    segments_BL: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    positions_BL = jnp.broadcast_to(jnp.arange(inputs_BL.shape[1]), inputs_BL.shape)
    masks = packed_masks(positions_BL, segments_BL, window=architecture.window)

    def attention(layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mask = masks[architecture.is_global(layer)]
        return attend(q, k, v, mask, architecture=architecture, precision=options.precision)

    hidden_BLD = run_blocks(
        weights, inputs_BL, positions_BL, attention, architecture=architecture, options=options
    )
    head = HeadOptions(options.precision, soft_cap=architecture.final_soft_cap)
    return cross_entropy(
        hidden_BLD,
        weights.embedding,
        targets_BL,
        supervised_BL.astype(jnp.float32),
        options=head,
    ).loss
