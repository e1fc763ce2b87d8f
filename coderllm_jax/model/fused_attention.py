"""Attention that never holds [L, L]: flash attention for packed rows, in Pallas for NVIDIA GPUs.

In a packed row every query sees one unbroken run of keys, on a local layer as on a global one, and
every key is seen by one unbroken run of queries. Two numbers a position say it all, both of them
never falling along the row, so that a block of queries knows at once where its keys begin:

    segments   1 1 1 2 2      global  x . . . .   first  0     local, 2   x . . . .   first  0
    positions  0 1 2 0 1              x x . . .          0                x x . . .          0
                                      x x x . .          0                . x x . .          1
                                      . . . x .          3                . . . x .          3
                                      . . . x x          3                . . . x x          3
                               last   2 2 2 4 4                    last   1 2 2 4 4

Blocks outside the runs are never visited: short examples in a long row cost what they cost alone.
Padding sees itself only; it is never counted.

Source: Dao 2023, FlashAttention-2, algorithms 1 and 2. `attention.attend` is the reference, and
tests hold outputs and gradients to it. On a CPU the kernels are interpreted, for those tests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.precision import Precision

# NVIDIA's data-centre parts since Hopper, by compute capability: a block of threads has 227 KiB of
# shared memory there. At heads of 256 the fastest cuts on an H200 need up to 192 KiB, which an A100
# (163 KiB) and smaller parts do not have.
_CAPABILITIES = ("9.0", "10.0", "10.3")
# Where a block of 16 x 16 is the smallest that the matrix units take.
_SMALLEST_HEAD = 16
_HIDDEN = -1e30  # finite: a difference of two of them must not be NaN
_LOG2_E = math.log2(math.e)


class Spans(NamedTuple):
    """Who sees whom, int32 [B, L]: each query's first key, and the last query that sees a key."""

    first: jax.Array
    last: jax.Array


class Cut(NamedTuple):
    """How a kernel is cut: a program's own rows, others at one time, warps, pipeline stages."""

    own: int
    other: int
    warps: int
    stages: int


class Blocks(NamedTuple):
    """The three kernels' cuts. A length must be a multiple of all rows; `fitting` sees to it.

    The fastest of eight each on an H200 (`benchmarks.gpu_attention`): 5 % of a 4B step.
    """

    forward: Cut = Cut(128, 64, 8, 2)
    query_gradient: Cut = Cut(64, 64, 4, 2)
    key_value_gradient: Cut = Cut(32, 64, 4, 2)

    def fitting(self, length: int) -> Blocks:
        """The same, with rows that divide `length`."""
        return Blocks(
            *(
                cut._replace(own=math.gcd(cut.own, length), other=math.gcd(cut.other, length))
                for cut in self
            )
        )


BLOCKS = Blocks()


class _Setting(NamedTuple):
    """What is fixed when a kernel is compiled."""

    scale: float
    blocks: Blocks


def packed_spans(
    positions_BL: jax.Array, segments_BL: jax.Array, *, window: int
) -> tuple[Spans, Spans]:
    """(local, global) spans of rows as `records.PackedBatch` draws them."""
    index_L = jnp.arange(positions_BL.shape[1], dtype=jnp.int32)
    start_BL = jnp.where(segments_BL > 0, index_L - positions_BL, index_L)
    return _spans(jnp.maximum(start_BL, index_L - (window - 1))), _spans(start_BL)


def _spans(first_BL: jax.Array) -> Spans:
    index_L = jnp.arange(first_BL.shape[1], dtype=jnp.int32)
    find = functools.partial(jnp.searchsorted, side="right")
    last_BL = jax.vmap(find, in_axes=(0, None))(first_BL, index_L) - 1
    return Spans(first_BL.astype(jnp.int32), last_BL.astype(jnp.int32))


def can_fuse(architecture: Architecture, precision: Precision, *, length: int) -> bool:
    """Whether the kernels compute this model's attention over rows of `length`."""
    size = architecture.head_size
    return (
        precision.operands == jnp.bfloat16
        and size >= _SMALLEST_HEAD
        and size & (size - 1) == 0
        and length % _SMALLEST_HEAD == 0
        and not architecture.attention_soft_cap
        and architecture.is_uniform
    )


def can_launch(device: jax.Device) -> bool:
    """Whether the kernels were made for such a device."""
    return (
        device.platform == "gpu"
        and device.device_kind.startswith("NVIDIA")
        and str(getattr(device, "compute_capability", "")) in _CAPABILITIES
    )


def attend_spans(
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    spans: Spans,
    *,
    scale: float,
    precision: Precision,
    blocks: Blocks | None = None,
) -> jax.Array:
    """Grouped-query self-attention [B, L, H, K] within spans; softmax and sums in float32.

    Differentiable in q, k and v. The result has the precision's carried format. blocks: BLOCKS
    where nobody says.
    """
    q, k, v = (x.astype(precision.operands) for x in (q_BLHK, k_BLGK, v_BLGK))
    mixed = _attend(q, k, v, spans, _Setting(scale, (blocks or BLOCKS).fitting(q.shape[1])))
    return mixed.astype(precision.carried)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Any, k: Any, v: Any, spans: Spans, setting: _Setting) -> jax.Array:
    return _forward(q, k, v, spans, setting)[0]


def _attend_forward(
    q: Any, k: Any, v: Any, spans: Spans, setting: _Setting
) -> tuple[jax.Array, tuple]:
    # Under the name of projections, because both are as dear to compute again as those.
    out, normalizer = (
        jax.ad_checkpoint.checkpoint_name(x, "projection")
        for x in _forward(q, k, v, spans, setting)
    )
    return out, (q, k, v, spans, out, normalizer)


def _attend_backward(setting: _Setting, saved: tuple, ct_BLHK: jax.Array) -> tuple:
    q, k, v, spans, out, normalizer = saved
    owed_BHL = jnp.einsum("blhk,blhk->bhl", out.astype(jnp.float32), ct_BLHK.astype(jnp.float32))
    arrays = (q, k, v, ct_BLHK, spans.first, spans.last, normalizer, owed_BHL)
    ct_q = _query_gradient(arrays, setting)
    ct_k, ct_v = _key_value_gradient(arrays, setting)
    return ct_q, ct_k, ct_v, None


_attend.defvjp(_attend_forward, _attend_backward)


# --- launches ----------------------------------------------------------------------------------


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, setting: _Setting
) -> tuple[jax.Array, jax.Array]:
    """Output like q, and log2 of each softmax's sum of powers of two, float32 [B, H, L]."""
    b, length, heads, size = q.shape
    cut = setting.blocks.forward
    rows = cut.own
    own, whole = _views(length, size, group=heads // k.shape[2])
    return _launch(
        functools.partial(
            _forward_kernel, scale=setting.scale, block_queries=rows, block_keys=cut.other
        ),
        (q, k, v, spans.first),
        grid=(length // rows, b, heads),
        in_specs=[own.rows(rows), whole.key_rows, whole.key_rows, whole.scalars],
        out_specs=[own.rows(rows), own.figures(rows)],
        out_shape=[q, jax.ShapeDtypeStruct((b, heads, length), jnp.float32)],
        cut=cut,
        name="packed_attention",
    )


def _query_gradient(arrays: tuple, setting: _Setting) -> jax.Array:
    q, k = arrays[:2]
    b, length, heads, size = q.shape
    cut = setting.blocks.query_gradient
    rows = cut.own
    own, whole = _views(length, size, group=heads // k.shape[2])
    (ct_q,) = _launch(
        functools.partial(
            _query_gradient_kernel,
            scale=setting.scale,
            block_queries=rows,
            block_keys=cut.other,
        ),
        (*arrays[:5], *arrays[6:]),
        grid=(length // rows, b, heads),
        in_specs=[
            own.rows(rows),
            whole.key_rows,
            whole.key_rows,
            own.rows(rows),
            whole.scalars,
            own.figures(rows),
            own.figures(rows),
        ],
        out_specs=[own.rows(rows)],
        out_shape=[q],
        cut=cut,
        name="packed_attention_dq",
    )
    return ct_q


def _key_value_gradient(arrays: tuple, setting: _Setting) -> tuple[jax.Array, jax.Array]:
    q, k = arrays[:2]
    b, length, heads, size = q.shape
    groups, cut = k.shape[2], setting.blocks.key_value_gradient
    rows = cut.own
    own, whole = _views(length, size, group=heads // groups)
    # Each query head writes its own share: heads of a group run side by side.
    shares = _launch(
        functools.partial(
            _key_value_gradient_kernel,
            scale=setting.scale,
            block_keys=rows,
            block_queries=cut.other,
        ),
        arrays,
        grid=(length // rows, b, heads),
        in_specs=[
            whole.rows,
            own.key_rows(rows),
            own.key_rows(rows),
            whole.rows,
            whole.scalars,
            whole.scalars,
            whole.figures,
            whole.figures,
        ],
        out_specs=[own.rows(rows), own.rows(rows)],
        out_shape=[q, q],
        cut=cut,
        name="packed_attention_dkv",
    )

    def summed(share: jax.Array) -> jax.Array:
        by_group = share.reshape(b, length, groups, heads // groups, size)
        return jnp.sum(by_group, axis=3, dtype=jnp.float32).astype(q.dtype)

    return summed(shares[0]), summed(shares[1])


class _Own(NamedTuple):
    """Views of a program's own block of rows, for a grid of (block, b, head)."""

    size: int
    group: int

    def rows(self, rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, None, self.size), lambda i, b, h: (b, i, h, 0))

    def key_rows(self, rows: int) -> pl.BlockSpec:
        group = self.group
        return pl.BlockSpec((None, rows, None, self.size), lambda i, b, h: (b, i, h // group, 0))

    def figures(self, rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, rows), lambda i, b, h: (b, h, i))


class _Whole(NamedTuple):
    """Views of a whole row, of which a kernel reads what it needs."""

    length: int
    size: int
    group: int

    @property
    def rows(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, None, self.size), lambda i, b, h: (b, 0, h, 0))

    @property
    def key_rows(self) -> pl.BlockSpec:
        group = self.group
        return pl.BlockSpec(
            (None, self.length, None, self.size), lambda i, b, h: (b, 0, h // group, 0)
        )

    @property
    def figures(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, self.length), lambda i, b, h: (b, h, 0))

    @property
    def scalars(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length), lambda i, b, h: (b, 0))


def _views(length: int, size: int, *, group: int) -> tuple[_Own, _Whole]:
    return _Own(size, group), _Whole(length, size, group)


def _launch(
    kernel: Callable[..., None],
    arrays: tuple,
    *,
    grid: tuple[int, ...],
    in_specs: list,
    out_specs: list,
    out_shape: list,
    cut: Cut,
    name: str,
) -> Any:
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in out_shape]

    def call(*operands: jax.Array, interpret: bool) -> Any:
        return pl.pallas_call(
            kernel,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=shapes,
            compiler_params=triton.CompilerParams(num_warps=cut.warps, num_stages=cut.stages),
            interpret=interpret,
            name=name,
        )(*operands)

    # By the platform that is compiled for, which need not be the one that compiles.
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(call, interpret=True),
        default=functools.partial(call, interpret=False),
    )


# --- kernels -----------------------------------------------------------------------------------


def _scores(q: jax.Array, k: jax.Array, scale: float) -> jax.Array:
    """Logits as exponents of two: the hardware's exponential."""
    return triton.dot(q, k.T) * (scale * _LOG2_E)


def _seen(rows: jax.Array, columns: jax.Array, first: jax.Array) -> jax.Array:
    return (columns[None, :] <= rows[:, None]) & (columns[None, :] >= first[:, None])


def _forward_kernel(
    *refs: Any,
    scale: float,
    block_queries: int,
    block_keys: int,
) -> None:
    (q_ref, k_ref, v_ref, first_ref, out_ref, normalizer_ref) = refs
    begin = pl.program_id(0) * block_queries
    rows = begin + jnp.arange(block_queries)
    q = q_ref[...]
    first = first_ref[pl.ds(begin, block_queries)]

    def step(j: jax.Array, carry: tuple) -> tuple:
        mixed, top, total = carry
        part = pl.ds(j * block_keys, block_keys)
        columns = j * block_keys + jnp.arange(block_keys)
        k, v = k_ref[part, :], v_ref[part, :]
        z = jnp.where(_seen(rows, columns, first), _scores(q, k, scale), _HIDDEN)
        grown = jnp.maximum(top, jnp.max(z, axis=1))
        shrink = jnp.exp2(top - grown)
        p = jnp.exp2(z - grown[:, None])
        mixed = mixed * shrink[:, None] + triton.dot(p.astype(v.dtype), v)
        return mixed, grown, total * shrink + jnp.sum(p, axis=1)

    start = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full((block_queries,), _HIDDEN, jnp.float32),
        jnp.zeros((block_queries,), jnp.float32),
    )
    # A row that a block hides wholly counts nonsense there, which shrinks to nothing at its own.
    low, high = first_ref[begin] // block_keys, pl.cdiv(begin + block_queries, block_keys)
    mixed, top, total = jax.lax.fori_loop(low, high, step, start)
    out_ref[...] = (mixed / total[:, None]).astype(out_ref.dtype)
    normalizer_ref[...] = top + jnp.log2(total)


def _query_gradient_kernel(
    *refs: Any,
    scale: float,
    block_queries: int,
    block_keys: int,
) -> None:
    (q_ref, k_ref, v_ref, ct_ref, first_ref, normalizer_ref, owed_ref, ct_q_ref) = refs
    begin = pl.program_id(0) * block_queries
    rows = begin + jnp.arange(block_queries)
    q, ct = q_ref[...], ct_ref[...]
    first = first_ref[pl.ds(begin, block_queries)]
    normalizer, owed = normalizer_ref[...], owed_ref[...]

    def step(j: jax.Array, ct_q: jax.Array) -> jax.Array:
        part = pl.ds(j * block_keys, block_keys)
        columns = j * block_keys + jnp.arange(block_keys)
        k, v = k_ref[part, :], v_ref[part, :]
        z = jnp.where(_seen(rows, columns, first), _scores(q, k, scale), _HIDDEN)
        p = jnp.exp2(z - normalizer[:, None])
        ct_z = p * (triton.dot(ct, v.T) - owed[:, None])
        return ct_q + triton.dot(ct_z.astype(k.dtype), k)

    low, high = first_ref[begin] // block_keys, pl.cdiv(begin + block_queries, block_keys)
    ct_q = jax.lax.fori_loop(low, high, step, jnp.zeros(q.shape, jnp.float32))
    ct_q_ref[...] = (ct_q * scale).astype(ct_q_ref.dtype)


def _key_value_gradient_kernel(
    *refs: Any,
    scale: float,
    block_keys: int,
    block_queries: int,
) -> None:
    (
        q_ref,
        k_ref,
        v_ref,
        ct_ref,
        first_ref,
        last_ref,
        normalizer_ref,
        owed_ref,
        ct_k_ref,
        ct_v_ref,
    ) = refs
    begin = pl.program_id(0) * block_keys
    columns = begin + jnp.arange(block_keys)
    k, v = k_ref[...], v_ref[...]

    def step(i: jax.Array, carry: tuple) -> tuple:
        ct_k, ct_v = carry
        part = pl.ds(i * block_queries, block_queries)
        rows = i * block_queries + jnp.arange(block_queries)
        q, ct = q_ref[part, :], ct_ref[part, :]
        seen = _seen(rows, columns, first_ref[part])
        z = jnp.where(seen, _scores(q, k, scale), _HIDDEN)
        p = jnp.exp2(z - normalizer_ref[part][:, None])
        ct_v = ct_v + triton.dot(p.astype(ct.dtype).T, ct)
        ct_z = p * (triton.dot(ct, v.T) - owed_ref[part][:, None])
        return ct_k + triton.dot(ct_z.astype(q.dtype).T, q), ct_v

    start = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    low, high = begin // block_queries, last_ref[begin + block_keys - 1] // block_queries + 1
    ct_k, ct_v = jax.lax.fori_loop(low, high, step, start)
    ct_k_ref[...] = (ct_k * scale).astype(ct_k_ref.dtype)
    ct_v_ref[...] = ct_v.astype(ct_v_ref.dtype)
