"""Low-rank adapters: their shapes, their start, their product, their merge.

Before and after, for one kernel W [D, F] (KerasHub's `enable_lora` variables, stacked over N):

    x ── W ──> y            x ──── W ────────────────> + ──> y
                            └── dropout ── A ── B · alpha/rank ──┘

A ends where W's last axis would begin, B supplies that axis: for query [H, D, K], A is [H, D, R]
and B [R, K], one B for all heads. KerasHub forms W + A·B, whose backward pass owes the full
gradient of W; the factored product costs two thin products instead and owes nothing to W.

Source: Hu et al. 2021, "LoRA", equation 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from coderllm_jax.model.architecture import Architecture, base_name
from coderllm_jax.model.precision import FLOAT32, Precision, contract
from coderllm_jax.model.quantization import Quantized, contract_quantized

Adapter = dict[str, jax.Array]  # {"a": [N, ..., R], "b": [N, R, last]}
Adapters = dict[str, Adapter]  # by block weight name

# Forward products of the block's kernels; b, l are batch and length, g is written h for key/value.
PRODUCTS = {
    "query": "bld,hdk->blhk",
    "key": "bld,hdk->blhk",
    "value": "bld,hdk->blhk",
    "attention_output": "blhk,hkd->bld",
    "ffw_gating": "bld,df->blf",
    "ffw_gating_2": "bld,df->blf",
    "ffw_linear": "blf,fd->bld",
}


def is_kernel(path: str) -> bool:
    """Whether a leaf is one of the products' kernels: `blocks/query`, `query`.

    So is `global_query`, where a family's global layers have stacks of their own.
    """
    return path.removeprefix("blocks/").removeprefix("global_") in PRODUCTS


def adapter_shapes(
    architecture: Architecture, *, targets: tuple[str, ...], rank: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the adapters' tree, layers stacked on the leading axis.

    A target is every leaf that is it in some layer.
    """
    shapes = {}
    for name, shape in sorted(architecture.block_shapes().items()):
        if base_name(name) in targets:
            n = len(architecture.layers_of(name))
            shapes[name] = {"a": (n, *shape[:-1], rank), "b": (n, rank, shape[-1])}
    return shapes


def init_adapters(
    architecture: Architecture, *, targets: tuple[str, ...], rank: int, key: jax.Array
) -> Adapters:
    """Fresh float32 adapters: A he-uniform over its input axes, B zero, so the model is the base.

    A's bound is sqrt(6 / fan_in) with fan_in = all axes but the rank's, as Keras' initializer
    counts a kernel of that shape.
    """
    adapters: Adapters = {}
    shapes = adapter_shapes(architecture, targets=targets, rank=rank)
    for i, (name, shape) in enumerate(shapes.items()):
        fan_in = 1
        for size in shape["a"][1:-1]:
            fan_in *= size
        bound = (6.0 / fan_in) ** 0.5
        a = jax.random.uniform(
            jax.random.fold_in(key, i), shape["a"], jnp.float32, minval=-bound, maxval=bound
        )
        adapters[name] = {"a": a, "b": jnp.zeros(shape["b"], jnp.float32)}
    return adapters


def adapt(
    name: str,
    x: jax.Array,
    kernel: jax.Array | Quantized,
    adapter: Adapter | None,
    *,
    scale: float,
    precision: Precision,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """One layer's product of block weight `name` with its adapter, where it has one.

    x: the product's left operand (see PRODUCTS); kernel and adapter without the layer axis.
    Returns the product in the precision's carried format. `key` is needed where dropout > 0.
    """
    if isinstance(kernel, Quantized):
        y = contract_quantized(PRODUCTS[name], x, kernel, precision)
    else:
        y = contract(PRODUCTS[name], x, kernel, precision)
    if adapter is None:
        return y
    if dropout and key is not None:
        kept = jax.random.bernoulli(key, 1.0 - dropout, x.shape)
        x = jnp.where(kept, x / (1.0 - dropout), 0).astype(x.dtype)
    return y + adapter_product(name, x, adapter, scale=scale, precision=precision)


def adapter_product(
    name: str, x: jax.Array, adapter: Adapter, *, scale: float, precision: Precision
) -> jax.Array:
    """What an adapter adds to the product of block weight `name`: x · A · B · scale."""
    inputs, out = PRODUCTS[name].split("->")
    left, kernel_axes = inputs.split(",")
    narrow_BLR = contract(f"{left},{kernel_axes[:-1]}r->{out[:-1]}r", x, adapter["a"], precision)
    delta = contract(f"{out[:-1]}r,r{out[-1]}->{out}", narrow_BLR, adapter["b"], precision)
    return delta * scale


def merge_adapters(blocks: dict, adapters: Adapters, *, scale: float) -> dict:
    """Block weights with W + A·B·scale in place of W, each in W's dtype (sums in float32)."""
    merged = dict(blocks)
    for name, adapter in adapters.items():
        delta = jnp.einsum(
            "n...r,nrk->n...k", adapter["a"], adapter["b"], precision=jax.lax.Precision.HIGHEST
        )
        kernel = blocks[name]
        merged[name] = (kernel.astype(FLOAT32.weights) + scale * delta).astype(kernel.dtype)
    return merged
