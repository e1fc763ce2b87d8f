"""Frozen kernels in 8 or 4 bits: how they are rounded, how they lie, how they are multiplied.

A kernel is cut into blocks of 64 along its input axis (the last but one), each block and output
with a scale of its own. Two 4-bit codes share a byte, which is the same size on every device:

    W [H, D, K]     int8    codes int8  [H, D, K]       scales bfloat16 [H, D/64, K]   8.25 bits
                    int4    codes uint8 [H, D/2, K]     likewise                       4.25 bits
                    nf4     as int4; a code is a place in a table of 16 levels         4.25 bits

    W[2i, k], W[2i + 1, k]  =  level(codes[i, k] & 15), level(codes[i, k] >> 4)  ·  scales[.., k]

A product makes the kernel whole for itself and lets go of it; backward makes it again. So what a
step holds is codes and one layer's kernels, under every `remat`, where blocks are scanned. Where
they are unrolled, XLA's CPU backend makes every kernel at once, whatever barrier lies between:
training refuses that; generation, which unrolls, holds float kernels for the time of a token.

Kernels may be kept in int8 by name where the others have 4 bits (`BaseFormat`, `lora.base_int8`).
Codes come from kernels in bfloat16, whatever a run's precision, so that whoever opens a run finds
the kernels again that it trained on.

Weight-only: activations are never rounded. The embedding stays as it is, as in QLoRA: it is looked
up and it is the head, whose rounding changes every logit.

Sources: Dettmers et al. 2023, "QLoRA", section 3 and appendix E (nf4); bounds of the integers and
the nearest level as qwix 0.1.8 (`numerics.get_symmetric_bound`, `fp_to_nf4`), which tests hold this
to. QLoRA rounds its scales a second time (4.13 bits instead of 4.25); bfloat16 is left at that.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture, base_name
from coderllm_jax.model.precision import Precision, contract

Base = Literal["float", "int8", "int4", "nf4"]

BLOCK = 64
# Shorter blocks than this would have scales that weigh as much as their codes.
_SHORTEST_BLOCK = 8
_SCALE_BYTES = 2  # bfloat16
# The largest level's half step counts: 127.5 rounds into the bucket of 127.
_BOUNDS = {"int8": 127.5, "int4": 7.5, "nf4": 1.0}
# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, appendix E).
NF4_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["codes", "scales"], meta_fields=["base"]
)
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A kernel, or a stack of them, as drawn above: a pytree of two arrays, sliced like one."""

    codes: jax.Array
    scales: jax.Array
    base: Base


class BaseFormat(NamedTuple):
    """The formats of a model's kernels: `base`, and int8 where a 4-bit base would cost too much.

    int8: block weights by name (`value`); none where the base has 8 bits or floats, see `make`.
    """

    base: Base = "float"
    int8: tuple[str, ...] = ()

    @classmethod
    def make(cls, base: Base, int8: Iterable[str] = ()) -> BaseFormat:
        """The format that was asked for; `int8` means something beside a base of 4 bits only."""
        return cls(base, tuple(int8) if base in ("int4", "nf4") else ())

    @property
    def is_float(self) -> bool:
        """Whether nothing is rounded."""
        return self.base == "float"

    @property
    def in_words(self) -> str:
        """`nf4`, or `nf4 (key, value: int8)`."""
        return self.base + (f" ({', '.join(self.int8)}: int8)" if self.int8 else "")

    def of(self, path: str) -> Base:
        """The format of the kernel at `path` (`blocks/value`, `value`, `global_value`)."""
        return "int8" if base_name(path.removeprefix("blocks/")) in self.int8 else self.base

    def check(self, architecture: Architecture) -> None:
        """ModelError where a model of this architecture cannot have the format."""
        if not self.is_float and not architecture.is_uniform:
            raise ModelError(
                f"lora.base is {self.base} and the model's global layers have heads of their own "
                f"({architecture.family}), whose blocks are unrolled by periods: every period's "
                "kernels would be made whole at once; set lora.base=float"
            )


FLOAT_BASE = BaseFormat()


def quantize_kernel(kernel: jax.Array, *, base: Base) -> Quantized:
    """`quantize` as models do it: of the kernel in bfloat16, whatever it came in.

    Codes are then the model's, and not those of one run's precision: whoever opens what was
    trained on them finds them again. Gemma is published in bfloat16, which this leaves as it is.
    """
    return quantize(kernel.astype(jnp.bfloat16), base=base)


def dequantize_weights(weights: dict[str, Any], dtype: jnp.dtype) -> dict[str, Any]:
    """A model's tree with float kernels where codes were, made one layer after another."""
    make = jax.jit(lambda stack: jax.lax.map(functools.partial(dequantize, dtype=dtype), stack))
    blocks = {
        name: make(leaf) if isinstance(leaf, Quantized) else leaf
        for name, leaf in weights["blocks"].items()
    }
    return {**weights, "blocks": blocks}


def quantize(kernel: jax.Array, *, base: Base) -> Quantized:
    """Rounds a float kernel [..., inputs, outputs] to the nearest levels of `base`.

    Errors are at most half a step of the block's scale (integers), or 0.152 of it (nf4). The
    arithmetic is float32 and per element, so that no sharding changes a code.
    """
    *outer, inputs, outputs = kernel.shape
    block = block_length(inputs)
    values = kernel.astype(jnp.float32).reshape(*outer, inputs // block, block, outputs)
    scales = block_scales(values, base)
    # A block of zeros has no scale to divide by; its codes are those of zero.
    ratio = (values / jnp.where(scales > 0, scales, 1.0)).reshape(kernel.shape)
    return Quantized(
        codes=pack(nearest_codes(ratio, base), base),
        scales=scales[..., 0, :].astype(jnp.bfloat16),
        base=base,
    )


def block_scales(values: jax.Array, base: Base) -> jax.Array:
    """Of blocks [..., block, outputs], [..., 1, outputs]: no weight lies beyond the last level.

    Float32 that bfloat16 can hold.
    """
    largest = jnp.max(jnp.abs(values), axis=-2, keepdims=True)
    return rounded_up(largest / _BOUNDS[base])


def dequantize(kernel: Quantized, dtype: jnp.dtype) -> jax.Array:
    """The kernel that the codes stand for, [..., inputs, outputs] in `dtype`."""
    *outer, blocks, outputs = kernel.scales.shape
    levels = _decode(kernel.codes, kernel.base).reshape(*outer, blocks, -1, outputs)
    values = levels * kernel.scales[..., None, :].astype(jnp.float32)
    return values.reshape(*outer, -1, outputs).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def contract_quantized(
    spec: str, x: jax.Array, kernel: Quantized, precision: Precision
) -> jax.Array:
    """`contract(spec, x, W, precision)` with the W that `kernel` stands for, which is frozen.

    Its own derivative, because JAX's would keep every W between forward and backward.
    """
    return contract(spec, x, dequantize(kernel, precision.operands), precision)


def _forward(
    spec: str, x: jax.Array, kernel: Quantized, precision: Precision
) -> tuple[jax.Array, tuple[Quantized, jax.Array]]:
    return contract_quantized(spec, x, kernel, precision), (kernel, jnp.zeros(0, x.dtype))


def _backward(
    spec: str, precision: Precision, saved: tuple[Quantized, jax.Array], ct: jax.Array
) -> tuple[jax.Array, None]:
    kernel, like_x = saved
    inputs, out_axes = spec.split("->")
    x_axes, kernel_axes = inputs.split(",")
    back = f"{out_axes},{kernel_axes}->{x_axes}"
    ct_x = contract(back, ct, dequantize(kernel, precision.operands), precision)
    return ct_x.astype(like_x.dtype), None


contract_quantized.defvjp(_forward, _backward)


def block_length(inputs: int) -> int:
    """Inputs that share a scale: 64, or the largest power of two below it that divides them."""
    block = math.gcd(inputs, BLOCK)
    if block < _SHORTEST_BLOCK:
        raise ModelError(
            f"a kernel of {inputs} inputs cannot be quantized; expected a multiple of "
            f"{_SHORTEST_BLOCK}: set lora.base=float"
        )
    return block


def quantized_shapes(shape: tuple[int, ...], base: Base) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a kernel of `shape`, or a stack of them: its codes' bytes, and its scales."""
    *outer, inputs, outputs = shape
    codes = inputs if base == "int8" else inputs // 2
    return (*outer, codes, outputs), (*outer, inputs // block_length(inputs), outputs)


def quantized_bytes(shape: tuple[int, ...], base: Base) -> int:
    """What a kernel of `shape`, or a stack of them, takes as codes and scales."""
    codes, scales = quantized_shapes(shape, base)
    return math.prod(codes) + _SCALE_BYTES * math.prod(scales)


def nearest_codes(ratio: jax.Array, base: Base) -> jax.Array:
    """Codes of weights that were divided by their scale, one each: int8, or uint8 below 16."""
    if base == "int8":
        return jnp.clip(jnp.round(ratio), -128, 127).astype(jnp.int8)
    if base == "int4":
        return (jnp.clip(jnp.round(ratio), -8, 7) + 8).astype(jnp.uint8)
    # As many midpoints as lie below: the nearest level, without sixteen copies of the kernel.
    codes = jnp.zeros(ratio.shape, jnp.uint8)
    for midpoint in (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2:
        codes += (ratio > midpoint).astype(jnp.uint8)
    return codes


def pack(codes: jax.Array, base: Base) -> jax.Array:
    """Codes as they are kept: of 4 bits two inputs to a byte."""
    if base == "int8":
        return codes
    *outer, inputs, outputs = codes.shape
    pairs = codes.reshape(*outer, inputs // 2, 2, outputs)
    return pairs[..., 0, :] | (pairs[..., 1, :] << 4)


def _decode(codes: jax.Array, base: Base) -> jax.Array:
    """The levels of codes as they are kept, float32; of packed ones on an axis of their own."""
    if base == "int8":
        return levels_of(codes, base)
    return levels_of((codes[..., None, :] >> jnp.array([[0], [4]], jnp.uint8)) & 15, base)


def levels_of(codes: jax.Array, base: Base) -> jax.Array:
    """What `nearest_codes` stand for, float32, before their scale."""
    if base == "nf4":
        return jnp.asarray(NF4_LEVELS).at[codes].get(mode="promise_in_bounds")
    return codes.astype(jnp.float32) - (0.0 if base == "int8" else 8.0)


def rounded_up(values: jax.Array) -> jax.Array:
    """Float32 values >= 0, up to the next that bfloat16 can hold: no weight then exceeds it."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jax.lax.bitcast_convert_type(((bits + 0xFFFF) >> 16) << 16, jnp.float32)
