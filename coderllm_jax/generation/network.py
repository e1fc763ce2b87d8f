"""The model as the generator computes it: layers apart, kernels as matrices [out, in].

    query, key, value [G, D, K]   ──>   [G·K, D]      attention_output [H, K, D]   ──>   [D, H·K]
    ffw_gating, ffw_gating_2      ──>   [F, D]        ffw_linear [F, D]            ──>   [D, F]

A few rows times a kernel is bound by reading the kernel, so it must lie as the product reads it:
XLA transposes a kernel of heads anew at every token (BUILD_NOTES.md has figures), and a slice of a
stacked array would be copied at every token. Under a mesh kernels keep their axes, by whose names
the sharding rules go.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import layer_angles
from coderllm_jax.model.forward import (
    ForwardOptions,
    Project,
    apply_block,
    embed,
    layer_slice,
    rms_norm,
)
from coderllm_jax.model.lora import Adapters, adapt, adapter_product
from coderllm_jax.model.precision import contract
from coderllm_jax.model.quantization import Quantized
from coderllm_jax.model.sharding import active_mesh, gather_block, gather_embedding

# attention(layer, q_BLHK, k_BLGK, v_BLGK) -> [B, L, H, K]
LayerAttention = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]


class DecodeWeights(NamedTuple):
    """Weights with their layers apart; blocks and adapters are one dict a layer.

    Adapters' dicts are empty where they were merged into the kernels.
    """

    embedding: jax.Array
    final_norm: jax.Array
    blocks: tuple[dict[str, jax.Array], ...]
    adapters: tuple[Adapters, ...]


@functools.partial(jax.jit, static_argnames="architecture")
def split_layers(
    weights: dict[str, Any], adapters: Adapters, *, architecture: Architecture
) -> DecodeWeights:
    """The stacked tree of `model.architecture` as the module's drawing has it."""

    def layers(tree: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        numbers = range(architecture.num_layers)
        return tuple(layer_slice(tree, i, architecture=architecture) for i in numbers)

    blocks = layers(weights["blocks"])
    if active_mesh() is None:
        blocks = tuple(
            {name: _flattened(name, leaf) for name, leaf in block.items()} for block in blocks
        )
    return DecodeWeights(weights["embedding"], weights["final_norm"], blocks, layers(adapters))


def run_blocks(
    weights: DecodeWeights,
    ids_BL: jax.Array,
    positions_BL: jax.Array,
    attention: LayerAttention,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """Final hidden states [B, L, D], normalized; `attention` looks after masks and caches."""
    angles = layer_angles(positions_BL, architecture)
    is_flat = active_mesh() is None
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
            project=_flat_project(block, adapters, architecture.at(layer), options)
            if is_flat
            else None,
        )
    return rms_norm(x_BLD, weights.final_norm, epsilon=architecture.norm_epsilon)


def head_logits(
    weights: DecodeWeights,
    hidden_SD: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """Every token's logit, float32 [S, V]."""
    wide = options.precision._replace(carried=jnp.dtype("float32"))
    logits_SV = contract("bd,vd->bv", hidden_SD, gather_embedding(weights.embedding), wide)
    cap = architecture.final_soft_cap
    return cap * jnp.tanh(logits_SV / cap) if cap else logits_SV


def _flattened(name: str, kernel: jax.Array | Quantized) -> jax.Array | Quantized:
    """A kernel as [out, in], heads folded into the axis that they belong to.

    Norms and quantized kernels stay as they are.
    """
    if isinstance(kernel, Quantized):
        return kernel
    if name in ("query", "key", "value"):
        return jnp.swapaxes(kernel, 1, 2).reshape(-1, kernel.shape[1])
    if name == "attention_output":
        return kernel.reshape(-1, kernel.shape[2]).T
    return kernel if kernel.ndim < 2 else kernel.T


def _flat_project(
    block: dict[str, Any],
    adapters: Adapters,
    architecture: Architecture,
    options: ForwardOptions,
) -> Project:
    """Products with a block's flattened kernels, of [B, L, in] or of [B, L, H, K]."""

    def project(name: str, x: jax.Array) -> jax.Array:
        if isinstance(block[name], Quantized):
            return adapt(
                name,
                x,
                block[name],
                adapters.get(name),
                scale=options.lora_scale,
                precision=options.precision,
            )
        batch, length = x.shape[:2]
        rows = x.reshape(batch * length, -1)
        y = contract("bd,od->bo", rows, block[name], options.precision)
        if name in ("query", "key", "value"):
            y = y.reshape(batch, length, -1, architecture.head_size)
        else:
            y = y.reshape(batch, length, -1)
        if name in adapters:
            y = y + adapter_product(
                name, x, adapters[name], scale=options.lora_scale, precision=options.precision
            )
        return y

    return project
