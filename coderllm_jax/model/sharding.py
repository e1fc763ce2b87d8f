"""Where every array lives: one mesh of three axes, one rule for every large variable.

    data     rows of the batch; weights are copies
    fsdp     rows of the batch too; weights are sharded by width and gathered a block at a time
    tensor   heads, feed-forward and vocabulary; hidden states are summed over it

Rules are matched by a weight's name; where a size does not divide its axis the array is a copy
over that axis on purpose (key and value of a model with one KV head). A name without a rule is an
error, never a silent copy. Activations are always split by rows and by nothing else, so nothing
but weights, gradients and scalars crosses data or fsdp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coderllm_jax.config.training import MeshSection
from coderllm_jax.errors import ConfigError
from coderllm_jax.model.architecture import base_name

BATCH_AXES = ("data", "fsdp")
MESH_AXES = ("data", "fsdp", "tensor")

# Without the layer axis. Adapters follow their kernel: A has its axes but the last, B its last.
_BLOCK_RULES: dict[str, tuple[str | None, ...]] = {
    "pre_attention_norm": (None,),
    "post_attention_norm": (None,),
    "pre_ffw_norm": (None,),
    "post_ffw_norm": (None,),
    "query_norm": (None,),
    "key_norm": (None,),
    "query": ("tensor", "fsdp", None),
    "key": ("tensor", "fsdp", None),
    "value": ("tensor", "fsdp", None),
    "attention_output": ("tensor", None, "fsdp"),
    "ffw_gating": ("fsdp", "tensor"),
    "ffw_gating_2": ("fsdp", "tensor"),
    "ffw_linear": ("tensor", "fsdp"),
    "layer_scale": (),
}
_TOP_RULES: dict[str, tuple[str | None, ...]] = {
    "embedding": ("tensor", "fsdp"),
    "final_norm": (None,),
}


def make_mesh(section: MeshSection, *, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices of the process group; raises where the sizes do not multiply."""
    devices = jax.devices() if devices is None else devices
    fixed = section.fsdp * section.tensor
    data = len(devices) // fixed if section.data == -1 else section.data
    if data * fixed != len(devices):
        raise ConfigError(
            f"mesh {section.data}x{section.fsdp}x{section.tensor} (data x fsdp x tensor) does not "
            f"use the {len(devices)} device(s) here; make the product {len(devices)}"
        )
    grid = np.array(devices).reshape(data, section.fsdp, section.tensor)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def row_multiple(mesh: Mesh | jax.sharding.AbstractMesh, accumulation_steps: int = 1) -> int:
    """What the rows of a step must be a multiple of, to be split evenly over data x fsdp."""
    return mesh.shape["data"] * mesh.shape["fsdp"] * accumulation_steps


def host_rows(mesh: Mesh, num_rows: int) -> range:
    """Which of a batch's rows this process's devices hold; `num_rows` is a `row_multiple`.

    Where only tensor spans hosts, each of them holds all rows.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((num_rows, 1)).values()
    held = sorted({index[0].indices(num_rows)[:2] for index in places if index is not None})
    first, last = held[0][0], held[-1][1]
    if sum(stop - start for start, stop in held) != last - first:
        raise ConfigError(
            f"mesh {'x'.join(map(str, mesh.devices.shape))} gives a host rows that do not lie "
            "together; make mesh.tensor or mesh.fsdp a multiple of the devices of one host"
        )
    return range(first, last)


def weight_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule for one variable: `blocks/query`, `embedding`, or an adapter's `query/a`.

    A quantized kernel's parts (`blocks/query/codes`, `/scales`) go by the kernel's rule.
    """
    parts = path.split("/")
    if parts[0] == "blocks":
        rule: tuple[str | None, ...] = (None, *_rule(_BLOCK_RULES, parts[1], path))
    elif len(parts) == 2 and parts[1] in ("a", "b"):
        kernel = _rule(_BLOCK_RULES, parts[0], path)
        rule = (None, *kernel[:-1], None) if parts[1] == "a" else (None, None, kernel[-1])
    else:
        rule = _rule(_TOP_RULES, parts[0], path)
    fits = (
        axis if axis is None or size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=True)
    )
    return P(*fits)


def _rule(rules: dict[str, tuple[str | None, ...]], name: str, path: str) -> tuple[str | None, ...]:
    name = base_name(name)
    if name not in rules:
        raise KeyError(f"no sharding rule for variable '{path}'; add one to model/sharding.py")
    return rules[name]


def tree_path(path: tuple[Any, ...]) -> str:
    """A jax key path as the `a/b/c` that rules, caches and checkpoints use."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf (array or ShapeDtypeStruct) of a weights or adapters tree."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, weight_spec(tree_path(path), leaf.shape, mesh)),
        tree,
    )


def sharding_by_path(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """The rule as a function of (path, shape), for loaders that place tensor by tensor."""
    return lambda path, shape: NamedSharding(mesh, weight_spec(path, shape, mesh))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows [B, L] over data and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES, None))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: scalars and keys."""
    return NamedSharding(mesh, P())


def fetch(tree: Any) -> Any:
    """The whole of every array as numpy, on every process, however it is sharded."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def active_mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh a trace runs under (`jax.set_mesh`), or None where there is one device only."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain_activations(x: jax.Array) -> jax.Array:
    """Rows over data and fsdp, every other axis whole."""
    if active_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES, *(None,) * (x.ndim - 1)))


def gather_block(block: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """One layer's weights whole over fsdp, tensor axes kept.

    Without it the partitioner may multiply by sharded widths and all-reduce hidden states.
    """
    mesh = active_mesh()
    if mesh is None:
        return block
    # A quantized kernel travels as its codes and scales, whose axes are the kernel's.
    return {
        name: jax.tree.map(lambda part, rule=_BLOCK_RULES[name]: _gathered(part, rule, mesh), leaf)
        for name, leaf in block.items()
    }


def gather_embedding(table_VD: jax.Array) -> jax.Array:
    """The embedding whole over fsdp, its vocabulary still over tensor."""
    mesh = active_mesh()
    return table_VD if mesh is None else _gathered(table_VD, _TOP_RULES["embedding"], mesh)


def vocabulary_axis(vocabulary: int) -> str | None:
    """The mesh axis that the vocabulary's rows are split over, where they are."""
    mesh = active_mesh()
    if mesh is None or mesh.shape["tensor"] == 1 or vocabulary % mesh.shape["tensor"]:
        return None
    return "tensor"


def look_up(table_VD: jax.Array, ids_BL: jax.Array) -> jax.Array:
    """Rows of the embedding for token ids, [B, L, D].

    Under a mesh each device looks up its own tokens in its own part of the vocabulary. Left to
    the partitioner, a lookup in a sharded table gathers the whole batch's rows on every device.
    """
    if active_mesh() is None:
        return jnp.take(table_VD, ids_BL, axis=0)
    axis = vocabulary_axis(table_VD.shape[0])

    def local(part_VD: jax.Array, ids_BL: jax.Array) -> jax.Array:
        if axis is None:
            return jnp.take(part_VD, ids_BL, axis=0)
        row_BL = ids_BL - jax.lax.axis_index(axis) * part_VD.shape[0]
        here = (row_BL >= 0) & (row_BL < part_VD.shape[0])
        found = jnp.take(part_VD, jnp.where(here, row_BL, 0), axis=0)
        return jax.lax.psum(jnp.where(here[..., None], found, 0), axis)

    rows = P(BATCH_AXES)
    lookup = jax.shard_map(local, in_specs=(P(axis), rows), out_specs=rows)
    return lookup(gather_embedding(table_VD), ids_BL)


def _gathered(
    leaf: jax.Array, rule: tuple[str | None, ...], mesh: jax.sharding.AbstractMesh
) -> jax.Array:
    spec = (
        axis if axis == "tensor" and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, leaf.shape, strict=True)
    )
    return jax.lax.with_sharding_constraint(leaf, P(*spec))
