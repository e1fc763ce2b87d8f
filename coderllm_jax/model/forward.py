"""The forward pass of Gemma over KerasHub's weights: embed, blocks, final norm.

KerasHub's own block takes neither positions nor segments and builds a causal mask over the whole
row, so packed rows need this one. It is a pure function of (weights, adapters, tokens); what the
stock layer computes is reproduced to rounding, which a test holds it to.

    tokens_BL ── embedding · sqrt(D) ──> x_BLD ── N blocks ──> norm ──> hidden_BLD

    one block:   x + post_norm(attention(norm(x)))   then   x + post_norm(feed_forward(norm(x)))

The head (hidden · embeddingᵀ) is not here: `loss` and the generator each use it in their own way,
and neither ever holds it for all positions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.ad_checkpoint
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import Angles, attend, layer_angles, packed_masks, rotate
from coderllm_jax.model.fused_attention import attend_spans, can_fuse, packed_spans
from coderllm_jax.model.lora import Adapters, adapt
from coderllm_jax.model.precision import FLOAT32, Precision
from coderllm_jax.model.sharding import (
    active_mesh,
    constrain_activations,
    gather_block,
    look_up,
)
from coderllm_jax.model.splash_attention import attend_splash

Attention = Literal["dense", "fused", "splash"]
Remat = Literal["none", "block", "projections"]


@dataclasses.dataclass(frozen=True)
class ForwardOptions:
    """How a forward pass is compiled; none of it changes what is computed beyond rounding.

    attention: dense holds [L, L] for every head; fused is `fused_attention`, where that applies;
    splash is `splash_attention`, and the caller has asked whether it does.
    remat: what each block's backward recomputes: nothing, everything, or all but projections.
    scan_blocks: one compiled loop body for all layers, or one copy a layer.
    lora_scale: alpha / rank. lora_dropout: the chance that an adapter's input is dropped.
    """

    precision: Precision = FLOAT32
    attention: Attention = "dense"
    remat: Remat = "none"
    scan_blocks: bool = True
    lora_scale: float = 1.0
    lora_dropout: float = 0.0


def rms_norm(x: jax.Array, scale: jax.Array, *, epsilon: float) -> jax.Array:
    """Scales x / rms(x) by (1 + scale) over the last axis, in float32; the dtype stays."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(variance + epsilon) * (1.0 + scale.astype(jnp.float32))
    return normed.astype(x.dtype)


def embed(weights: dict, tokens_BL: jax.Array, *, options: ForwardOptions) -> jax.Array:
    """Scaled token embeddings [B, L, D] in the carried format."""
    table_VD = weights["embedding"]
    width = table_VD.shape[1]
    x_BLD = look_up(table_VD, tokens_BL).astype(options.precision.carried)
    return constrain_activations(x_BLD * jnp.sqrt(width).astype(x_BLD.dtype))


Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Project = Callable[[str, jax.Array], jax.Array]


def apply_block(
    x_BLD: jax.Array,
    block: dict[str, jax.Array],
    adapters: Adapters,
    *,
    angles: Angles,
    attention: Attend,
    architecture: Architecture,
    options: ForwardOptions,
    key: jax.Array | None = None,
    project: Project | None = None,
) -> jax.Array:
    """One decoder block; `block` and `adapters` without the layer axis.

    `attention(q_BLHK, k_BLGK, v_BLGK)` gets rotated queries and keys and returns [B, L, H, K]:
    training hands in masked self-attention, a generator one over its cache. `project(name, x)`
    replaces the product of x with the named kernel and its adapter, for whoever keeps kernels in
    another form.
    """
    epsilon = architecture.norm_epsilon
    keys = iter(jax.random.split(key, 7)) if key is not None else None

    def project_adapted(name: str, x: jax.Array) -> jax.Array:
        y = adapt(
            name,
            x,
            block[name],
            adapters.get(name),
            scale=options.lora_scale,
            precision=options.precision,
            dropout=options.lora_dropout,
            key=next(keys) if keys is not None else None,
        )
        return jax.ad_checkpoint.checkpoint_name(y, "projection")

    def post_norm(name: str, x: jax.Array) -> jax.Array:
        return rms_norm(x, block[name], epsilon=epsilon) if architecture.post_norms else x

    project = project or project_adapted

    normed = rms_norm(x_BLD, block["pre_attention_norm"], epsilon=epsilon)
    q, k = project("query", normed), project("key", normed)
    v = project("value", normed) if "value" in block else k
    if architecture.value_norm:
        v = rms_norm(v, jnp.zeros(()), epsilon=epsilon)
    if architecture.query_key_norm:
        q = rms_norm(q, block["query_norm"], epsilon=epsilon)
        k = rms_norm(k, block["key_norm"], epsilon=epsilon)
    mixed = attention(rotate(q, angles), rotate(k, angles), v)
    x_BLD = x_BLD + post_norm("post_attention_norm", project("attention_output", mixed))

    normed = rms_norm(x_BLD, block["pre_ffw_norm"], epsilon=epsilon)
    gate = jax.nn.gelu(project("ffw_gating", normed), approximate=True)
    x_ffw = project("ffw_linear", gate * project("ffw_gating_2", normed))
    x_BLD = x_BLD + post_norm("post_ffw_norm", x_ffw)
    if architecture.layer_scale:
        x_BLD = x_BLD * block["layer_scale"].astype(x_BLD.dtype)
    return constrain_activations(x_BLD)


def layer_slice(tree: dict[str, Any], layer: int, *, architecture: Architecture) -> dict[str, Any]:
    """One layer of a tree of stacks (blocks, adapters), under the names that they have in a block.

    A layer of a period does for that place in every period; see `hidden_states`.
    """
    return {
        name: jax.tree.map(lambda stack, place=place: stack[place], tree[leaf])
        for name, (leaf, place) in architecture.places_of(layer).items()
        if leaf in tree
    }


def hidden_states(
    weights: dict,
    adapters: Adapters,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    segments_BL: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
    key: jax.Array | None = None,
) -> jax.Array:
    """Final hidden states [B, L, D] of packed rows, normalized, in the carried format.

    tokens, positions, segments: int32 [B, L] as `records.PackedBatch` draws them. `key` drives
    adapter dropout; None switches it off.
    """
    is_fused = (
        options.attention == "fused"
        and active_mesh() is None  # a kernel is one device's; nobody has split it yet
        and can_fuse(architecture, options.precision, length=tokens_BL.shape[1])
    )
    seen = (packed_spans if is_fused else packed_masks)(
        positions_BL, segments_BL, window=architecture.window
    )
    angles = layer_angles(positions_BL, architecture)

    def block_step(
        x_BLD: jax.Array, layer: Any, *, kind: bool | None = None
    ) -> tuple[jax.Array, None]:
        """kind: whether the layer is global, where that is known; else the layer says so."""
        block, layer_adapters, is_global, layer_key = layer
        block = gather_block(block)
        if kind is None:
            near_or_far = functools.partial(jax.tree.map, functools.partial(_far_if, is_global))
            chosen, visible = near_or_far(*angles), near_or_far(*seen)
        else:
            chosen, visible = angles[kind], seen[kind]

        def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            if options.attention == "splash":
                return attend_splash(
                    q,
                    k,
                    v,
                    segments_BL,
                    is_global,
                    architecture=architecture,
                    precision=options.precision,
                )
            if is_fused:
                scale = architecture.query_scale
                return attend_spans(q, k, v, visible, scale=scale, precision=options.precision)
            return attend(q, k, v, visible, architecture=architecture, precision=options.precision)

        x_BLD = apply_block(
            x_BLD,
            block,
            layer_adapters,
            angles=chosen,
            attention=attention,
            architecture=architecture,
            options=options,
            key=layer_key,
        )
        return x_BLD, None

    n = architecture.num_layers
    if not architecture.is_uniform:
        x_BLD = _run_periods(
            embed(weights, tokens_BL, options=options),
            (weights["blocks"], adapters, key),
            block_step,
            architecture=architecture,
            options=options,
        )
        return rms_norm(x_BLD, weights["final_norm"], epsilon=architecture.norm_epsilon)
    is_global = jnp.array([architecture.is_global(i) for i in range(n)])
    keys = jax.random.split(key, n) if key is not None and options.lora_dropout else None
    layers = (weights["blocks"], adapters, is_global, keys)
    body = _rematerialized(block_step, options.remat)
    x_BLD = embed(weights, tokens_BL, options=options)
    if options.scan_blocks:
        x_BLD, _ = jax.lax.scan(body, x_BLD, layers)
    else:
        for i in range(n):
            x_BLD, _ = body(x_BLD, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
    return rms_norm(x_BLD, weights["final_norm"], epsilon=architecture.norm_epsilon)


def _run_periods(
    x_BLD: jax.Array,
    stacks: tuple[dict, Adapters, jax.Array | None],
    block_step: Callable,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """All layers of a model whose global layers are made otherwise, [B, L, D] in and out.

    stacks: blocks, adapters and the key of dropout. A loop's body is a period: the layers from
    behind one global layer to the next. Every stack is cut into as many parts as there are periods.
    """
    n, every = architecture.num_layers, architecture.global_every
    length = every if options.scan_blocks and n % every == 0 else n
    blocks, adapters, key = stacks
    keys = jax.random.split(key, n) if key is not None and options.lora_dropout else None
    bodies = {
        kind: _rematerialized(functools.partial(block_step, kind=kind), options.remat)
        for kind in (False, True)
    }

    def period_step(x_BLD: jax.Array, period: Any) -> tuple[jax.Array, None]:
        *trees, period_keys = period
        for i in range(length):
            block, adapter = (layer_slice(tree, i, architecture=architecture) for tree in trees)
            layer_key = None if period_keys is None else period_keys[i]
            x_BLD, _ = bodies[architecture.is_global(i)](x_BLD, (block, adapter, None, layer_key))
        return x_BLD, None

    periods = jax.tree.map(
        lambda stack: stack.reshape(n // length, -1, *stack.shape[1:]),
        (blocks, adapters, keys),
    )
    x_BLD, _ = jax.lax.scan(period_step, x_BLD, periods)
    return x_BLD


def _far_if(is_global: jax.Array, near: jax.Array, far: jax.Array) -> jax.Array:
    return jnp.where(is_global, far, near)


def _rematerialized(body: Callable, remat: Remat) -> Callable:
    if remat == "none":
        return body
    policies = jax.checkpoint_policies
    policy = (
        policies.nothing_saveable
        if remat == "block"
        else policies.save_only_these_names("projection")
    )
    # prevent_cse is for unrolled code; inside scan it only blocks fusion.
    return jax.checkpoint(body, policy=policy, prevent_cse=False)
