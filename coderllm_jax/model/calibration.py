"""Kernels rounded for what goes through them, so that their products over given texts stay.

Rounded each to its nearest level, weights err in ways that add up wherever inputs agree. Here a
kernel's inputs are rounded one after another, and what one loses the later ones make good, as far
as the texts let them stand in for it (GPTQ):

    layer i   the texts' inputs X, X'X of each kernel  ──>  input 0 rounded, inputs 1 … mended,
              X as the float layer leaves it                input 1 rounded, inputs 2 … mended, …

Held at a time, on one device: the texts' hidden states, a layer's floats, its four X'X ([I, I]
float32), and for the widest of them some five times as much while it is factored. Codes and scales
are `model.quantization`'s, so whoever multiplies by these needs no change.

Every layer is fed what the float model feeds it. Fed what the rounded layers before it give, as
GPTQ's authors do, kernels end no better on the 270M, and a layer takes four walks instead of one.

A block's scale is one of some parts of its largest weight: that whose error, weighted by what
later inputs cannot make good, is least.

Source: Frantar et al. 2023, "GPTQ", sections 3.2 and 3.3 (inputs in their order, Cholesky form).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.attention import attend, layer_angles, packed_masks
from coderllm_jax.model.forward import ForwardOptions, apply_block, embed
from coderllm_jax.model.lora import PRODUCTS, adapt
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.quantization import (
    Base,
    BaseFormat,
    Quantized,
    block_length,
    block_scales,
    levels_of,
    nearest_codes,
    pack,
    rounded_up,
)
from coderllm_jax.model.weights import LazyLeaf, OpenedModel, leaf_dtype
from coderllm_jax.records import PackedBatch

# Kernels that share their input, in the order a block meets them.
_STAGES = (
    ("query", "key", "value"),
    ("attention_output",),
    ("ffw_gating", "ffw_gating_2"),
    ("ffw_linear",),
)
# Of the mean of X'X's diagonal, added to it. More of it spares the backward product, which sees
# the kernel from its other side, what the forward one gains: 0.01 to 0.03 was best on the 270M.
_DAMPING = 0.02
# A block's scale as parts of what its largest weight asks for.
_PARTS = np.linspace(0.7, 1.05, 15, dtype=np.float32)


def round_layers(
    opened: OpenedModel,
    batches: Sequence[PackedBatch],
    *,
    base: BaseFormat,
    precision: Precision,
) -> Iterator[dict[str, Quantized]]:
    """A layer's kernels by name, rounded for the batches' texts, one layer after another.

    batches: [B, L] each; padding counts nothing. ModelError for an architecture that cannot have
    the format.
    """
    architecture = opened.architecture
    base.check(architecture)
    leaves = dict(opened.leaves)
    options = ForwardOptions(precision=precision)
    texts = [PackedBatch(*map(jnp.asarray, batch)) for batch in batches]
    streams = _embedded(leaves["embedding"], batches, options)
    for number in range(architecture.num_layers):
        # Kernels in bfloat16, as `quantize_kernel` has them.
        layer = {
            path.removeprefix("blocks/"): jnp.asarray(
                leaf.read(number) if isinstance(leaf, LazyLeaf) else leaf[number],
                leaf_dtype(path, "bfloat16"),
            )
            for path, leaf in leaves.items()
            if path.startswith("blocks/")
        }
        products: dict[str, jax.Array] = {}
        for place, text in enumerate(texts):
            streams[place], found = walk_layer(
                streams[place],
                text,
                layer,
                architecture=architecture,
                options=options,
                is_global=architecture.is_global(number),
            )
            products = jax.tree.map(jnp.add, products, found) if products else found
        rounded = {}
        for stage in _STAGES:
            factor = factor_of(products.pop(stage[0]))
            if not jnp.isfinite(factor).all():
                raise ModelError(
                    f"layer {number} gives numbers that are not finite in {precision.name}, and "
                    f"its kernels cannot be rounded for them; set step.precision=float32 or "
                    "lora.base_rounding=nearest"
                )
            for name in stage:
                if name in layer:
                    rounded[name] = round_kernel(name, layer.pop(name), factor, base=base.of(name))
            del factor
        del layer
        yield rounded
        del rounded


def _embedded(
    leaf: np.ndarray | LazyLeaf, batches: Sequence[PackedBatch], options: ForwardOptions
) -> list[jax.Array]:
    """The texts' embeddings. Of the table, the rows that they need."""
    table = leaf.read(0) if isinstance(leaf, LazyLeaf) else leaf
    tokens = np.unique(np.concatenate([np.ravel(batch.inputs) for batch in batches]))
    rows = {"embedding": jnp.asarray(table[tokens], options.precision.weights)}
    return [
        embed(rows, jnp.asarray(np.searchsorted(tokens, batch.inputs)), options=options)
        for batch in batches
    ]


@functools.partial(jax.jit, static_argnames=("architecture", "options", "is_global"))
def walk_layer(
    x_BLD: jax.Array,
    text: PackedBatch,
    layer: dict[str, Any],
    *,
    architecture: Architecture,
    options: ForwardOptions,
    is_global: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The hidden states behind the layer, and X'X of the inputs of each stage's first kernel."""
    seen: dict[str, jax.Array] = {}
    angles = layer_angles(text.positions, architecture)[is_global]
    mask = packed_masks(text.positions, text.segments, window=architecture.window)[is_global]
    is_text = text.segments.reshape(-1, 1) > 0

    def project(name: str, x: jax.Array) -> jax.Array:
        if any(name == stage[0] for stage in _STAGES):
            inputs = x.astype(jnp.float32).reshape(is_text.size, -1) * is_text
            seen[name] = _exact_product(inputs.T, inputs)
        return adapt(name, x, layer[name], None, scale=1.0, precision=options.precision)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, mask, architecture=architecture, precision=options.precision)

    after = apply_block(
        x_BLD,
        layer,
        {},
        angles=angles,
        attention=attention,
        architecture=architecture,
        options=options,
        project=project,
    )
    return after, seen


@jax.jit
def factor_of(products: jax.Array) -> jax.Array:
    """The upper R with R'R = (X'X + damping)^-1: how the inputs behind each make good for it.

    By way of X'X = U U' with U upper, so that nothing but a triangle is inverted.
    """
    mean = jnp.mean(jnp.diagonal(products))
    unit = jnp.eye(len(products))
    damped = products + _DAMPING * jnp.where(mean > 0, mean, 1.0) * unit
    upper = jnp.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(upper, unit, lower=False)


@functools.partial(jax.jit, static_argnames=("name", "base"))
def round_kernel(name: str, kernel: jax.Array, factor: jax.Array, *, base: Base) -> Quantized:
    """One layer's kernel `name`; factor: `factor_of` its inputs, heads counted as they lie."""
    axes, num_inputs = _inputs_first(name)
    sizes = [kernel.shape[axis] for axis in axes]
    inputs = math.prod(sizes[:num_inputs])
    matrix = kernel.astype(jnp.float32).transpose(axes).reshape(inputs, -1)
    block = block_length(kernel.shape[-2])
    codes, scales = _round_matrix(matrix, factor, block=block, base=base)
    back = np.argsort(axes)
    codes = codes.reshape(sizes).transpose(back)
    sizes[num_inputs - 1] //= block
    scales = scales.reshape(sizes).transpose(back)
    return Quantized(codes=pack(codes, base), scales=scales.astype(jnp.bfloat16), base=base)


def _inputs_first(name: str) -> tuple[tuple[int, ...], int]:
    """A kernel's axes with its inputs first, and how many of them are inputs."""
    left, kernel = PRODUCTS[name].split("->")[0].split(",")
    inputs = [axis for axis, letter in enumerate(kernel) if letter in left[2:]]
    outputs = [axis for axis in range(len(kernel)) if axis not in inputs]
    return (*inputs, *outputs), len(inputs)


def _round_matrix(
    kernel: jax.Array, factor: jax.Array, *, block: int, base: Base
) -> tuple[jax.Array, jax.Array]:
    """[I, O] float32 as codes [I, O], one each, and scales [I / block, O]."""
    inputs, outputs = kernel.shape

    def round_block(left: jax.Array, number: jax.Array) -> Any:
        start = number * block
        rows = jax.lax.dynamic_slice_in_dim(left, start, block)
        strip = jax.lax.dynamic_slice_in_dim(factor, start, block)
        own = jax.lax.dynamic_slice_in_dim(strip, start, block, axis=1)
        scale = _least_error_scale(rows, jnp.diagonal(own), base)
        divisor = jnp.where(scale > 0, scale, 1.0)

        def round_row(rows: jax.Array, i: jax.Array) -> Any:
            code = nearest_codes(rows[i] / divisor, base)
            error = (rows[i] - levels_of(code, base) * scale) / own[i, i]
            return rows - own[i][:, None] * error, (code, error)

        _, (codes, errors) = jax.lax.scan(round_row, rows, jnp.arange(block))
        # Also over the block itself, which nobody reads any more.
        return left - _exact_product(strip.T, errors), (codes, scale)

    _, (codes, scales) = jax.lax.scan(round_block, kernel, jnp.arange(inputs // block))
    return codes.reshape(inputs, outputs), scales


def _least_error_scale(rows: jax.Array, owed: jax.Array, base: Base) -> jax.Array:
    """[O]: of `_PARTS`, what costs a block [block, O] least; owed: R's diagonal, [block]."""
    largest = block_scales(rows, base)[0]
    cost = jnp.square(1.0 / owed)[:, None]

    def consider(best: tuple[jax.Array, jax.Array], part: jax.Array) -> Any:
        scale = rounded_up(largest * part)
        codes = nearest_codes(rows / jnp.where(scale > 0, scale, 1.0), base)
        total = jnp.sum(cost * jnp.square(rows - levels_of(codes, base) * scale), axis=0)
        return (jnp.where(total < best[1], scale, best[0]), jnp.minimum(total, best[1])), None

    begin = largest, jnp.full(largest.shape, jnp.inf)
    (scale, _), _ = jax.lax.scan(consider, begin, jnp.asarray(_PARTS))
    return scale


def _exact_product(a: jax.Array, b: jax.Array) -> jax.Array:
    # HIGHEST keeps float32 whole on TPUs.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
