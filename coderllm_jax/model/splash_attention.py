"""Attention that never holds [L, L] on TPUs: JAX's splash kernels over packed rows, under a mesh.

    q_BLHK, k_BLGK, v_BLGK, segments_BL     rows over data and fsdp, heads over tensor
      └─ shard_map ─> a kernel a device:  causal mask (global layer) or band (local layer),
                      and "same segment"; blocks that a mask hides are never visited

A loop over layers does not know which kind the next one is, so both kernels are compiled and one
is run. Owns no kernel: masks, splits and formats. `attention.attend` is the reference, and tests
hold outputs and gradients to it; on a CPU the kernels are interpreted, for those tests.

Source: `jax.experimental.pallas.ops.tpu.splash_attention` of jax 0.10.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec as P

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.sharding import BATCH_AXES, active_mesh

# What the kernels' vectors are made of.
_LANES = 128
# Rows and columns of a kernel's block, where they divide the row: the kernels' own default is
# a quarter of it.
BLOCK = 512


def can_splash(
    architecture: Architecture, precision: Precision, *, length: int, mesh: Mapping[str, int]
) -> bool:
    """Whether the kernels compute this model's attention over rows of `length`, split so.

    Heads must be whole vectors, and each device's queries must find their keys there.
    """
    heads, kv_heads = architecture.num_heads, architecture.num_kv_heads
    tensor = mesh.get("tensor", 1)
    return (
        precision.operands == jnp.bfloat16
        and architecture.is_uniform
        and architecture.head_size % _LANES == 0
        and length % _LANES == 0
        and heads % tensor == 0
        and (kv_heads % tensor == 0 or kv_heads == 1)
    )


def attend_splash(
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    segments_BL: jax.Array,
    is_global: jax.Array | bool,
    *,
    architecture: Architecture,
    precision: Precision,
) -> jax.Array:
    """Grouped-query self-attention of packed rows, [B, L, H, K] in the carried format.

    Padding is a segment like any other here: finite, and never counted.
    """
    local = functools.partial(_attend_local, architecture=architecture, precision=precision)
    arrays = (q_BLHK, k_BLGK, v_BLGK, segments_BL, jnp.asarray(is_global))
    mesh = active_mesh()
    if mesh is None:
        return local(*arrays)
    of_keys = "tensor" if architecture.num_kv_heads % mesh.shape["tensor"] == 0 else None
    queries, keys = (P(BATCH_AXES, None, axis, None) for axis in ("tensor", of_keys))
    # A kernel's outputs say nothing of how they vary over the mesh.
    return jax.shard_map(
        local,
        in_specs=(queries, keys, keys, P(BATCH_AXES, None), P()),
        out_specs=queries,
        check_vma=False,
    )(*arrays)


def _attend_local(
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    segments_BL: jax.Array,
    is_global: jax.Array,
    *,
    architecture: Architecture,
    precision: Precision,
) -> jax.Array:
    """What one device computes of its rows and heads."""
    scaled = q_BLHK * architecture.query_scale
    q, k, v = (x.astype(precision.operands).swapaxes(1, 2) for x in (scaled, k_BLGK, v_BLGK))

    def run(
        q: jax.Array, k: jax.Array, v: jax.Array, segments_BL: jax.Array, *, interpret: bool
    ) -> jax.Array:
        far, near = (
            _kernel(architecture, q.shape[1], q.shape[2], window=window, interpret=interpret)
            for window in (None, architecture.window)
        )
        ids = splash.SegmentIds(segments_BL, segments_BL)
        return jax.lax.cond(is_global, jax.vmap(far), jax.vmap(near), q, k, v, ids)

    mixed_BHLK = jax.lax.platform_dependent(
        q,
        k,
        v,
        segments_BL,
        cpu=functools.partial(run, interpret=True),
        default=functools.partial(run, interpret=False),
    )
    return mixed_BHLK.swapaxes(1, 2).astype(precision.carried)


def _kernel(
    architecture: Architecture, num_heads: int, length: int, *, window: int | None, interpret: bool
) -> Callable[..., jax.Array]:
    """The kernel of one kind of layers: (q_HLK, k_GLK, v_GLK, segment ids) -> [H, L, K]."""
    shape = (length, length)
    mask = (
        splash.CausalMask(shape)
        if window is None
        else splash.LocalMask(shape, window_size=(window - 1, 0), offset=0)
    )
    block = math.gcd(length, BLOCK)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * num_heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=architecture.attention_soft_cap or None,
        interpret=interpret,
    )
