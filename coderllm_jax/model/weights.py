"""Weights on their way from a source to devices: a stream of leaves in, the placed tree out.

Every source (GGUF, cache, safetensors, Keras, random) yields the leaves of the tree drawn in
`architecture` as (path, leaf) pairs. A leaf is an array, or a `LazyLeaf` whose tensors are read
when they are asked for:

    ("final_norm", [D])  ("embedding", one tensor [V, D])  ("blocks/query", N tensors [H, D, K])  …

`place` fills a leaf where it will live. Neither the host nor a device ever holds the model, or a
large leaf of it, unsharded:

    blocks/ffw_gating, 62 layers, 14 GB        host                         devices
      made of zeros, sharded                                                [62, D/8, F] each
      layer 0: each device's part is read      [D/8, F] of the file   ──>   written in place
      layer 1: …                               [D/8, F] of the file   ──>   written in place

Norm scales stay float32 whatever the model's dtype: they are few, and the layer computes in
float32 anyway.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.lora import is_kernel
from coderllm_jax.model.quantization import (
    FLOAT_BASE,
    Base,
    BaseFormat,
    Quantized,
    quantize_kernel,
    quantized_shapes,
)

Dtype = Literal["float32", "bfloat16"]
ShardingRule = Callable[[str, tuple[int, ...]], Sharding]  # of path and shape

# A leaf of blocks up to this is put at once; a larger one by layers, at a dispatch each.
SMALL_LEAF_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class LazyLeaf:
    """A leaf that is still in its file; `read(i)` gives its tensor i in the tree's layout.

    A leaf of blocks (`is_stacked`) has one tensor a layer, any other leaf is tensor 0. `read` may
    give a view of a mapped file: only the part that is indexed is then fetched.
    """

    shape: tuple[int, ...]
    read: Callable[[int], np.ndarray]
    is_stacked: bool

    def tensors(self) -> Iterator[np.ndarray]:
        """One tensor after another."""
        return map(self.read, range(self.shape[0] if self.is_stacked else 1))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole leaf in memory, for whoever can afford it."""
        del copy  # always one
        values = np.stack(list(self.tensors())) if self.is_stacked else np.array(self.read(0))
        return values if dtype is None else values.astype(dtype, copy=False)


Leaves = Iterable[tuple[str, np.ndarray | LazyLeaf]]


class RoundedLeaf(NamedTuple):
    """A leaf of kernels that were rounded before; see `rounded_file`."""

    codes: LazyLeaf
    scales: LazyLeaf
    base: Base


class OpenedModel(NamedTuple):
    """A model found and described, before its leaves are read (once).

    `source` says in words where it came from, `sha256` is that of the source's bytes.
    """

    architecture: Architecture
    leaves: Leaves
    tokenizer: Tokenizer
    source: str
    sha256: str


def leaf_dtype(path: str, dtype: Dtype) -> np.dtype:
    """The dtype that the leaf at `path` has in a model of `dtype`."""
    if path.endswith("norm") or dtype == "float32":
        return np.dtype(np.float32)
    return np.dtype(ml_dtypes.bfloat16)


def leaf_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Every leaf's shape by path: {"embedding": [V, D], …, "blocks/query": [N, H, D, K], …}."""
    shapes = architecture.weight_shapes()
    blocks = shapes.pop("blocks")
    return shapes | {f"blocks/{name}": shape for name, shape in blocks.items()}


def place(
    leaves: Leaves,
    architecture: Architecture,
    *,
    dtype: Dtype,
    sharding: ShardingRule | None = None,
    base: BaseFormat = FLOAT_BASE,
    rounded: Mapping[str, RoundedLeaf] | None = None,
) -> dict[str, Any]:
    """Fills every leaf on its devices and gives back the tree, kernels quantized as `base` says.

    rounded: kernels by path that need no rounding any more; their leaves are not read.
    Host memory beside what is placed: one device's part of one tensor, or a small leaf. Raises
    ModelError where a leaf is missing, foreign or of another shape, and where the architecture
    cannot have that base.
    """
    base.check(architecture)
    expected = leaf_shapes(architecture)
    placed: dict[str, jax.Array | Quantized] = {}
    for path, leaf in leaves:
        if path not in expected:
            raise ModelError(f"weight '{path}' does not belong to this architecture")
        if leaf.shape != expected[path]:
            raise ModelError(f"weight '{path}' is {leaf.shape}; expected {expected[path]}")
        where = sharding(path, leaf.shape) if sharding else None
        if rounded is not None and is_kernel(path):
            placed[path] = _fill_rounded(path, leaf.shape, rounded, sharding)
        elif not base.is_float and is_kernel(path):
            placed[path] = _fill_quantized(path, leaf, base.of(path), sharding)
        else:
            placed[path] = _fill(leaf, leaf_dtype(path, dtype), where)
    missing = expected.keys() - placed.keys()
    if missing:
        raise ModelError(f"weights are missing: {', '.join(sorted(missing))}")
    return to_tree(placed)


def to_tree(leaves: dict[str, Any]) -> dict[str, Any]:
    """{"blocks/query": x} → {"blocks": {"query": x}}, in the order of the drawing."""
    tree: dict[str, Any] = {"embedding": leaves["embedding"], "final_norm": leaves["final_norm"]}
    tree["blocks"] = {
        path.removeprefix("blocks/"): leaf
        for path, leaf in leaves.items()
        if path.startswith("blocks/")
    }
    return tree


def _fill(leaf: np.ndarray | LazyLeaf, dtype: np.dtype, where: Sharding | None) -> jax.Array:
    if isinstance(leaf, LazyLeaf) and not leaf.is_stacked:
        return _put(functools.partial(leaf.read, 0), leaf.shape, dtype, where)
    small = math.prod(leaf.shape) * dtype.itemsize <= SMALL_LEAF_BYTES
    if isinstance(leaf, LazyLeaf) and not small:
        return _fill_by_layer(leaf, dtype, where)
    return _put_values(np.asarray(leaf), dtype, where)


def _fill_by_layer(leaf: LazyLeaf, dtype: np.dtype, where: Sharding | None) -> jax.Array:
    """Zeros on the devices first, then each layer's parts written over them in place."""
    layer_where = _without_layers(where)
    write = _layer_writer(where)
    filled = _zeros(leaf.shape, dtype, where)
    for i, values in enumerate(leaf.tensors()):
        filled = write(filled, _put_values(values, dtype, layer_where), i)
        # Dispatch is asynchronous: without waiting, the host would read all layers ahead.
        filled.block_until_ready()
    return filled


def _fill_quantized(
    path: str,
    leaf: np.ndarray | LazyLeaf,
    base: Base,
    sharding: ShardingRule | None,
) -> Quantized:
    """A stack of kernels as codes and scales; one layer at a time is there as floats."""
    dtype = leaf_dtype(path, "bfloat16")  # as `quantize_kernel` rounds it, and half of the bytes
    quantize_layer = functools.partial(quantize_kernel, base=base)
    stack = jax.eval_shape(quantize_layer, jax.ShapeDtypeStruct(leaf.shape, dtype))
    where: Any = None
    layer_where: Sharding | None = None
    if sharding:
        layer_where = _without_layers(sharding(path, leaf.shape))
        where = Quantized(
            codes=sharding(f"{path}/codes", stack.codes.shape),  # type: ignore[arg-type]
            scales=sharding(f"{path}/scales", stack.scales.shape),  # type: ignore[arg-type]
            base=base,
        )

    def zeros() -> Quantized:
        return jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), stack)

    def write(filled: Quantized, layer: jax.Array, i: int) -> Quantized:
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, i, 0),
            filled,
            quantize_layer(layer),
        )

    filled = jax.jit(zeros, out_shardings=where)()
    write_layer = jax.jit(write, donate_argnums=0, out_shardings=where)
    for i, values in enumerate(leaf.tensors() if isinstance(leaf, LazyLeaf) else leaf):
        filled = write_layer(filled, _put_values(values, dtype, layer_where), i)
        jax.block_until_ready(filled)  # as in `_fill_by_layer`
    return filled


def _fill_rounded(
    path: str,
    shape: tuple[int, ...],
    rounded: Mapping[str, RoundedLeaf],
    sharding: ShardingRule | None,
) -> Quantized:
    if path not in rounded:
        raise ModelError(f"weight '{path}' is not among the rounded kernels; they are damaged")
    kept = rounded[path]
    parts = {"codes": kept.codes, "scales": kept.scales}
    filled = {}
    for (part, leaf), expected in zip(
        parts.items(), quantized_shapes(shape, kept.base), strict=True
    ):
        if leaf.shape != expected:
            raise ModelError(f"weight '{path}/{part}' is {leaf.shape}; expected {expected}")
        where = sharding(f"{path}/{part}", expected) if sharding else None
        filled[part] = _fill(leaf, leaf.read(0).dtype, where)
    return Quantized(**filled, base=kept.base)


def _zeros(shape: tuple[int, ...], dtype: np.dtype, where: Sharding | None) -> jax.Array:
    return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=where)()


@functools.lru_cache(maxsize=64)
def _layer_writer(where: Sharding | None) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Writes a layer into its stack; donation is what makes it happen in place."""

    def write(stack: jax.Array, layer: jax.Array, i: int) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)

    return jax.jit(write, donate_argnums=0, out_shardings=where)


def _without_layers(where: Sharding | None) -> Sharding | None:
    """How one layer of a stack lies. Rules never split the layer axis."""
    if not isinstance(where, NamedSharding):
        return where
    assert not where.spec or where.spec[0] is None, where.spec
    return NamedSharding(where.mesh, P(*where.spec[1:]))


def _put_values(values: np.ndarray, dtype: np.dtype, where: Sharding | None) -> jax.Array:
    return _put(lambda: values, values.shape, dtype, where)


def _put(
    read: Callable[[], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    where: Sharding | None,
) -> jax.Array:
    """One tensor on its devices. Each distinct part is read once, copied and sent on its own.

    Copied, because an alias of a mapped file would be read from disk at every memory pressure and
    could not be donated; read anew for each part, because a mapping that is dropped gives its
    pages back.
    """
    if where is None:
        return jnp.array(read(), dtype)
    devices_of: dict[tuple, tuple[Any, list[jax.Device]]] = {}
    for device, index in where.addressable_devices_indices_map(shape).items():
        assert index is not None, device
        key = tuple((part.start, part.stop) for part in index)  # slices cannot be hashed in 3.11
        devices_of.setdefault(key, (index, []))[1].append(device)
    arrays = []
    for index, devices in devices_of.values():
        part = np.array(read()[index], dtype, order="C")
        arrays += [jax.device_put(part, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, where, arrays)
