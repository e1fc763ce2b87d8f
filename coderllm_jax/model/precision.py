"""In which number format a model is kept, multiplied and carried. One record, one product.

                 weights    operands   carried (residual stream, sums)
    float32      float32    float32    float32
    mixed        bfloat16   bfloat16   float32
    bfloat16     bfloat16   bfloat16   bfloat16
    float16      float16    float16    float32

Norms, softmax, rotary angles, adapters, optimizer and loss are float32 in all of them. float16 is
for GPUs without bfloat16 and needs a scaled loss; its sums and residual stream are float32,
because the stream of Gemma 3 270M reaches 103,821 and float16 holds 65,504 (operands: at most 589).
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Precision(NamedTuple):
    """The three formats of the table above, and the name they go by."""

    name: str
    weights: jnp.dtype
    operands: jnp.dtype
    carried: jnp.dtype


_F32, _BF16, _F16 = jnp.dtype("float32"), jnp.dtype("bfloat16"), jnp.dtype("float16")
PRECISIONS = {
    "float32": Precision("float32", _F32, _F32, _F32),
    "mixed": Precision("mixed", _BF16, _BF16, _F32),
    "bfloat16": Precision("bfloat16", _BF16, _BF16, _BF16),
    "float16": Precision("float16", _F16, _F16, _F32),
}
FLOAT32 = PRECISIONS["float32"]


def resolve_precision(name: str, platform: str) -> Precision:
    """The precision a run uses; `auto` follows the device.

    On a CPU with bfloat16 instructions `mixed` runs at about twice float32's rate; a bfloat16
    *result* would take XLA's slow path there (137 against 285 to 387 GFLOP/s, benchmarks), which
    is why `bfloat16` is left to accelerators. A CPU without them emulates and loses: float32.
    """
    if name != "auto":
        return PRECISIONS[name]
    if platform != "cpu":
        return PRECISIONS["bfloat16"]
    return PRECISIONS["mixed" if _cpu_multiplies_bfloat16() else "float32"]


def _cpu_multiplies_bfloat16() -> bool:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text(errors="replace")
    return "avx512_bf16" in flags or "amx_bf16" in flags


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def contract(spec: str, x: jax.Array, y: jax.Array, precision: Precision) -> jax.Array:
    """`einsum(spec, x, y)` with operands and result in the precision's formats.

    Its own derivative, because JAX's would give each cotangent the format of its operand: a
    bfloat16 *result* is slow on CPUs and loses the sum's digits. Here both cotangents come from
    products of the same kind as the forward one, carried format out, then the argument's dtype.
    The cotangent of an argument nobody differentiates is dead code, and the compiler drops it.
    """
    return _product(spec, x, y, precision)


def _product(spec: str, x: jax.Array, y: jax.Array, precision: Precision) -> jax.Array:
    # HIGHEST keeps float32 operands whole on TPUs, which otherwise round them to bfloat16.
    exact = jax.lax.Precision.HIGHEST if precision.operands == _F32 else None
    return jnp.einsum(
        spec,
        x.astype(precision.operands),
        y.astype(precision.operands),
        precision=exact,
        preferred_element_type=precision.carried,
    )


def _contract_forward(
    spec: str, x: jax.Array, y: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(spec, x, y, precision), (x, y)


def _contract_backward(
    spec: str, precision: Precision, saved: tuple[jax.Array, jax.Array], ct: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, y = saved
    inputs, out_axes = spec.split("->")
    x_axes, y_axes = inputs.split(",")
    ct_x = _product(f"{out_axes},{y_axes}->{x_axes}", ct, y, precision)
    ct_y = _product(f"{x_axes},{out_axes}->{y_axes}", x, ct, precision)
    return ct_x.astype(x.dtype), ct_y.astype(y.dtype)


contract.defvjp(_contract_forward, _contract_backward)
