"""Cross-entropy through the tied head, for supervised positions only, in one pass.

Never holds batch x length x vocabulary. Per device, with T supervised positions of its B·L:

    hidden [B·L, D] ──compact──> [T, D] ── chunks of C ──> walk the vocabulary in blocks of W:
        z = h · Eᵀ[block]                    [C, W]   one product
        m, s   running maximum and sum       [C]      as in online softmax
        g   += exp(z - m) · E[block]         [C, D]   the other product, rescaled when m grows
    loss = m + log s - z[target];   d loss / d hidden = g / s - E[target]

Because the head is frozen under LoRA, g is all that backward owes: it is ready when the loss is,
and backward multiplies it by a scalar. The running rescale is flash attention's (Dao et al. 2022,
algorithm 1) with the vocabulary for keys and E for values. Where E is trained (full fine-tuning)
backward walks the blocks once more for its gradient.

Compaction, chunks and loop lengths are per shard: hidden states never leave their device, and
chunk loops hold no collective over data or fsdp. Over `tensor` each device walks its own part of
the vocabulary and the running (m, s, g) are combined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from coderllm_jax.model.precision import Precision, contract
from coderllm_jax.model.sharding import (
    BATCH_AXES,
    active_mesh,
    gather_embedding,
    vocabulary_axis,
)

Carry = TypeVar("Carry")


class LossSums(NamedTuple):
    """Sums over supervised positions, float32 scalars: divide by `weight` for means."""

    loss: jax.Array
    correct: jax.Array
    weight: jax.Array


class HeadOptions(NamedTuple):
    """How the head is walked: C supervised positions by W vocabulary rows at a time.

    512 x 1,024 keeps a block of logits in a CPU core's cache: 330 GFLOP/s against 280 for whole
    rows of the vocabulary (benchmarks). tokens_per_last_chunk: where the last chunk would be half
    empty or more, what is left is walked in chunks of this size, if it divides half a chunk;
    0: in one as large as the others. train_embedding: whether E owes a gradient.
    """

    precision: Precision
    soft_cap: float = 0.0
    tokens_per_chunk: int = 512
    tokens_per_last_chunk: int = 0
    vocabulary_block: int = 1024
    train_embedding: bool = False


def cross_entropy(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    options: HeadOptions,
) -> LossSums:
    """Summed loss, right-token count and weight of all positions with weight > 0.

    Differentiable in hidden (and in the embedding where options say so). Under a mesh the batch
    is split over data and fsdp; the sums are global.
    """
    embedding_VD = gather_embedding(embedding_VD)
    loss, correct = _head_loss(hidden_BLD, embedding_VD, targets_BL, weights_BL, options)
    return LossSums(loss, correct, jnp.sum(weights_BL))


class _Walk(NamedTuple):
    """One shard's result: its sums, and what backward needs at each of its positions."""

    loss: jax.Array  # [1]
    correct: jax.Array  # [1]
    gradient_BLD: jax.Array  # d loss / d hidden; [B, L, 0] where nobody asked for it
    log_normalizer_BL: jax.Array  # zero where not supervised


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _head_loss(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    options: HeadOptions,
) -> tuple[jax.Array, jax.Array]:
    walk = _walk(hidden_BLD, embedding_VD, targets_BL, weights_BL, options, want_gradient=False)
    return jnp.sum(walk.loss), jnp.sum(walk.correct)


def _head_loss_forward(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    options: HeadOptions,
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    walk = _walk(hidden_BLD, embedding_VD, targets_BL, weights_BL, options, want_gradient=True)
    kept = (hidden_BLD, embedding_VD, targets_BL, weights_BL) if options.train_embedding else None
    saved = (walk.gradient_BLD, walk.log_normalizer_BL, kept)
    return (jnp.sum(walk.loss), jnp.sum(walk.correct)), saved


def _head_loss_backward(
    options: HeadOptions, saved: tuple, cotangents: tuple[jax.Array, jax.Array]
) -> tuple:
    gradient_BLD, log_normalizer_BL, kept = saved
    ct_loss, _ = cotangents  # a count of right tokens has no derivative
    ct_hidden = (gradient_BLD * ct_loss).astype(gradient_BLD.dtype)
    ct_embedding = None
    if kept is not None:
        gradient_VD = _embedding_gradient((*kept, log_normalizer_BL), options=options)
        ct_embedding = (ct_loss * gradient_VD).astype(kept[1].dtype)
    return ct_hidden, ct_embedding, None, None


_head_loss.defvjp(_head_loss_forward, _head_loss_backward)


# --- over the mesh -----------------------------------------------------------------------------


def _walk(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    options: HeadOptions,
    *,
    want_gradient: bool,
) -> _Walk:
    axis = vocabulary_axis(embedding_VD.shape[0])
    walk = functools.partial(
        _walk_shard, options=options, tensor_axis=axis, want_gradient=want_gradient
    )
    arrays = (hidden_BLD, embedding_VD, targets_BL, weights_BL)
    if active_mesh() is None:
        return walk(*arrays)
    rows = P(BATCH_AXES)
    # Loop lengths differ per shard, which the replication checker cannot type.
    return jax.shard_map(
        walk, in_specs=(rows, P(axis), rows, rows), out_specs=rows, check_vma=False
    )(*arrays)


def _embedding_gradient(arrays: tuple[jax.Array, ...], *, options: HeadOptions) -> jax.Array:
    """The gradient of E, float32 [V, D], summed over all shards.

    arrays: hidden, embedding, targets, weights and log normalizers, as `_walk` has them.
    """
    axis = vocabulary_axis(arrays[1].shape[0])

    def local(*shard: jax.Array) -> jax.Array:
        return _embedding_gradient_shard(*shard, options=options, tensor_axis=axis)

    if active_mesh() is None:
        return local(*arrays)
    rows = P(BATCH_AXES)
    return jax.shard_map(
        lambda *shard: jax.lax.psum(local(*shard), BATCH_AXES),
        in_specs=(rows, P(axis), rows, rows, rows),
        out_specs=P(axis),
        check_vma=False,
    )(*arrays)


# --- on one shard ------------------------------------------------------------------------------


class _Chunks(NamedTuple):
    """A shard's positions, supervised ones first, in chunks of C, then of E (padded)."""

    hidden_TD: jax.Array
    targets_T: jax.Array
    weights_T: jax.Array
    order: jax.Array  # [T rounded up to C], indices into T; T itself marks padding
    num_supervised: jax.Array
    size: int  # C
    last_size: int  # E, which divides half of C; or C

    def walk(self, body: Callable[[jax.Array, Carry], Carry], start: Carry) -> Carry:
        """Folds `body(rows, carry)` over all chunks; rows are indices into T, [C] or [E]."""
        # Half a chunk or less at the end is left to small ones: two or more of them are cheaper.
        most_left = self.size // 2 if self.last_size < self.size else 0
        num_large = (self.num_supervised + self.size - most_left - 1) // self.size
        carry = self._fold(body, start, size=self.size, begin=0, number=num_large)
        if not most_left:
            return carry
        begin = num_large * self.size
        left = jnp.maximum(self.num_supervised - begin, 0)
        number = (left + self.last_size - 1) // self.last_size
        return self._fold(body, carry, size=self.last_size, begin=begin, number=number)

    def _fold(
        self,
        body: Callable[[jax.Array, Carry], Carry],
        carry: Carry,
        *,
        size: int,
        begin: jax.Array | int,
        number: jax.Array,
    ) -> Carry:
        def step(i: jax.Array, carry: Carry) -> Carry:
            return body(jax.lax.dynamic_slice_in_dim(self.order, begin + i * size, size), carry)

        return jax.lax.fori_loop(0, number, step, carry)


def _compact(
    hidden_BLD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array, options: HeadOptions
) -> _Chunks:
    total = targets_BL.size
    size = min(options.tokens_per_chunk, total)
    last_size = options.tokens_per_last_chunk
    has_last_size = last_size > 0 and size % (2 * last_size) == 0
    weights_T = weights_BL.reshape(total).astype(jnp.float32)
    order = jnp.argsort(weights_T <= 0, stable=True).astype(jnp.int32)
    return _Chunks(
        hidden_TD=hidden_BLD.reshape(total, -1),
        targets_T=targets_BL.reshape(total),
        weights_T=weights_T,
        order=jnp.pad(order, (0, -total % size), constant_values=total),
        num_supervised=jnp.sum(weights_T > 0, dtype=jnp.int32),
        size=size,
        last_size=last_size if has_last_size else size,
    )


def _take(leaf: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.take(leaf, rows, axis=0, mode="fill", fill_value=0)


class _Blocks(NamedTuple):
    """The vocabulary in blocks of one size; the last one overlaps its neighbour where it must."""

    vocabulary: int
    size: int

    @property
    def num_blocks(self) -> int:
        return -(-self.vocabulary // self.size)

    def begin(self, i: jax.Array) -> jax.Array:
        return jnp.minimum(i * self.size, self.vocabulary - self.size)

    def fresh(self, i: jax.Array) -> jax.Array | bool:
        """Which of a block's columns [W] no earlier block has had."""
        if self.vocabulary % self.size == 0:
            return True
        return self.begin(i) + jnp.arange(self.size) >= i * self.size


def _blocks(embedding_VD: jax.Array, options: HeadOptions) -> _Blocks:
    vocabulary = embedding_VD.shape[0]
    return _Blocks(vocabulary, min(options.vocabulary_block, vocabulary))


def _logits(
    h_CD: jax.Array, block_WD: jax.Array, options: HeadOptions
) -> tuple[jax.Array, jax.Array | float]:
    """Float32 logits [C, W] and d logits / d (h · E), which is 1 without a soft cap."""
    # Logits are float32 whatever is carried elsewhere: their softmax decides the loss.
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    z_CW = contract("cd,wd->cw", h_CD, block_WD, wide)
    if not options.soft_cap:
        return z_CW, 1.0
    squashed = jnp.tanh(z_CW / options.soft_cap)
    return options.soft_cap * squashed, 1.0 - jnp.square(squashed)


def _walk_shard(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    options: HeadOptions,
    tensor_axis: str | None,
    want_gradient: bool,
) -> _Walk:
    chunks = _compact(hidden_BLD, targets_BL, weights_BL, options)
    total, width = chunks.hidden_TD.shape

    def chunk(rows: jax.Array, carry: tuple) -> tuple:
        loss, correct, gradient_TD, normalizer_T = carry
        weight_C = _take(chunks.weights_T, rows)
        found = _walk_vocabulary(
            _take(chunks.hidden_TD, rows),
            embedding_VD,
            _take(chunks.targets_T, rows),
            options=options,
            tensor_axis=tensor_axis,
            want_gradient=want_gradient,
        )
        losses_C = found.normalizer - found.target_logit
        hits_C = (found.target_logit >= found.maximum) & (weight_C > 0)
        if want_gradient:
            owed = (found.gradient * weight_C[:, None]).astype(gradient_TD.dtype)
            gradient_TD = gradient_TD.at[rows].set(owed, mode="drop")
        normalizer_T = normalizer_T.at[rows].set(found.normalizer, mode="drop")
        return (
            loss + jnp.sum(losses_C * weight_C),
            correct + jnp.sum(hits_C.astype(jnp.float32)),
            gradient_TD,
            normalizer_T,
        )

    start = (
        jnp.zeros((), jnp.float32),
        jnp.zeros((), jnp.float32),
        jnp.zeros((total, width if want_gradient else 0), hidden_BLD.dtype),
        jnp.zeros((total,), jnp.float32),
    )
    loss, correct, gradient_TD, normalizer_T = chunks.walk(chunk, start)
    return _Walk(
        loss=loss[None],
        correct=correct[None],
        gradient_BLD=gradient_TD.reshape(*targets_BL.shape, -1)
        if want_gradient
        else jnp.zeros((*targets_BL.shape, 0), hidden_BLD.dtype),
        log_normalizer_BL=normalizer_T.reshape(targets_BL.shape),
    )


class _Found(NamedTuple):
    """What one walk over the vocabulary tells about C positions."""

    normalizer: jax.Array  # [C], log of the sum of exp(logits)
    target_logit: jax.Array  # [C]
    maximum: jax.Array  # [C]
    gradient: jax.Array  # [C, D], d (normalizer - target_logit) / d h


def _walk_vocabulary(
    h_CD: jax.Array,
    embedding_VD: jax.Array,
    targets_C: jax.Array,
    *,
    options: HeadOptions,
    tensor_axis: str | None,
    want_gradient: bool,
) -> _Found:
    blocks = _blocks(embedding_VD, options)
    h_CD = h_CD.astype(options.precision.operands)
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    offset = jax.lax.axis_index(tensor_axis) * blocks.vocabulary if tensor_axis else 0
    local_C = targets_C - offset  # the target's row in this shard's part, if it is there

    def block(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
        maximum, total, target, g_CD = carry
        begin, size = blocks.begin(i), blocks.size
        block_WD = jax.lax.dynamic_slice_in_dim(embedding_VD, begin, size)
        z_CW, slope = _logits(h_CD, block_WD, options)
        z_CW = jnp.where(blocks.fresh(i), z_CW, jnp.finfo(jnp.float32).min)
        column = local_C - begin
        here = (column >= 0) & (column < size) & (local_C >= i * size)
        picked = jnp.take_along_axis(z_CW, jnp.clip(column, 0, size - 1)[:, None], axis=1)[:, 0]
        target = jnp.where(here, picked, target)
        grown = jnp.maximum(maximum, jnp.max(z_CW, axis=-1))
        shrink = jnp.exp(maximum - grown)
        p_CW = jnp.exp(z_CW - grown[:, None])
        total = total * shrink + jnp.sum(p_CW, axis=-1)
        if want_gradient:
            step = contract("cw,wd->cd", p_CW * slope, block_WD, wide)
            g_CD = g_CD * shrink[:, None] + step
        return (grown, total, target, g_CD), None

    c, d = h_CD.shape
    lowest = jnp.full((c,), jnp.finfo(jnp.float32).min)
    start = (lowest, jnp.zeros((c,)), lowest, jnp.zeros((c, d if want_gradient else 0)))
    (maximum, total, target, g_CD), _ = jax.lax.scan(block, start, jnp.arange(blocks.num_blocks))
    if tensor_axis:
        highest = jax.lax.pmax(maximum, tensor_axis)
        shrink = jnp.exp(maximum - highest)
        total = jax.lax.psum(total * shrink, tensor_axis)
        target = jax.lax.pmax(target, tensor_axis)
        g_CD, maximum = g_CD * shrink[:, None], highest
    if want_gradient:
        g_CD = g_CD / total[:, None] - _target_rows(embedding_VD, local_C, target, options)
        if tensor_axis:
            g_CD = jax.lax.psum(g_CD, tensor_axis)
    return _Found(maximum + jnp.log(total), target, maximum, g_CD)


def _target_slope(target_C: jax.Array, options: HeadOptions) -> jax.Array:
    if not options.soft_cap:
        return jnp.ones_like(target_C)
    return 1.0 - jnp.square(target_C / options.soft_cap)


def _target_rows(
    embedding_VD: jax.Array, local_C: jax.Array, target_C: jax.Array, options: HeadOptions
) -> jax.Array:
    """The target logit's gradient of h [C, D]: rows of E, zero where the row is another shard's."""
    vocabulary = embedding_VD.shape[0]
    here = (local_C >= 0) & (local_C < vocabulary)
    rows_CD = jnp.take(embedding_VD, jnp.clip(local_C, 0, vocabulary - 1), axis=0)
    # Rounded as the product's operand is, so that the two halves of the gradient match.
    rows_CD = rows_CD.astype(options.precision.operands).astype(jnp.float32)
    return rows_CD * (here * _target_slope(target_C, options))[:, None]


def _embedding_gradient_shard(
    hidden_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    log_normalizer_BL: jax.Array,
    *,
    options: HeadOptions,
    tensor_axis: str | None,
) -> jax.Array:
    chunks = _compact(hidden_BLD, targets_BL, weights_BL, options)
    normalizer_T = log_normalizer_BL.reshape(-1)
    blocks = _blocks(embedding_VD, options)
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    offset = jax.lax.axis_index(tensor_axis) * blocks.vocabulary if tensor_axis else 0

    def chunk(rows: jax.Array, gradient_VD: jax.Array) -> jax.Array:
        h_CD = _take(chunks.hidden_TD, rows).astype(options.precision.operands)
        weight_C = _take(chunks.weights_T, rows)
        normalizer_C = _take(normalizer_T, rows)
        column_C = _take(chunks.targets_T, rows) - offset

        def block(j: jax.Array, gradient_VD: jax.Array) -> jax.Array:
            begin, size = blocks.begin(j), blocks.size
            block_WD = jax.lax.dynamic_slice_in_dim(embedding_VD, begin, size)
            z_CW, slope = _logits(h_CD, block_WD, options)
            p_CW = jnp.exp(z_CW - normalizer_C[:, None])
            is_target = column_C[:, None] - begin == jnp.arange(size)
            owed_CW = (p_CW - is_target) * slope * weight_C[:, None] * blocks.fresh(j)
            step_WD = contract("cw,cd->wd", owed_CW, h_CD, wide)
            old_WD = jax.lax.dynamic_slice_in_dim(gradient_VD, begin, size)
            return jax.lax.dynamic_update_slice_in_dim(gradient_VD, old_WD + step_WD, begin, axis=0)

        return jax.lax.fori_loop(0, blocks.num_blocks, block, gradient_VD)

    start = jnp.zeros(embedding_VD.shape, jnp.float32)
    return chunks.walk(chunk, start)
