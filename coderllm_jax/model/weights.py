"""Weights on their way from a source to devices: a stream of leaves in, the placed tree out.

Every source (GGUF, cache, safetensors, KerasHub, random) yields the leaves of the tree drawn in
`architecture` as (path, host array) pairs, one in memory at a time:

    ("embedding", [V, D])  ("final_norm", [D])  ("blocks/query", [N, H, D, K])  …

`place` puts each on its devices before it asks for the next, so that the host never holds the
model twice. Norm scales stay float32 whatever the model's dtype: they are few, and the layer
computes in float32 anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture

Dtype = Literal["float32", "bfloat16"]
Leaves = Iterable[tuple[str, np.ndarray]]
ShardingRule = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]  # of path and shape


class OpenedModel(NamedTuple):
    """A model found and described, before its leaves are read (once).

    `source` says in words where it came from. `sha256` is that of the source's bytes; None where
    there is no one file to hash: that of the leaves, taken as they pass, then stands in.
    """

    architecture: Architecture
    leaves: Leaves
    tokenizer: Tokenizer
    source: str
    sha256: str | None = None


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
) -> dict[str, Any]:
    """Puts every leaf on its devices and gives back the tree.

    With `sharding`, each device reads only its own part of a leaf, so a memory-mapped source is
    never copied whole. Raises ModelError where a leaf is missing, foreign or of another shape.
    """
    expected = leaf_shapes(architecture)
    placed: dict[str, jax.Array] = {}
    for path, values in leaves:
        if path not in expected:
            raise ModelError(f"weight '{path}' does not belong to this architecture")
        if values.shape != expected[path]:
            raise ModelError(f"weight '{path}' is {values.shape}; expected {expected[path]}")
        wanted = leaf_dtype(path, dtype)
        if sharding is None:
            # jnp.array copies: an alias of the mapped file would be read from disk at every
            # memory pressure, and could not be donated.
            placed[path] = jnp.array(values, wanted)
        else:
            placed[path] = jax.make_array_from_callback(
                values.shape, sharding(path, values.shape), _reader(values, wanted)
            )
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


def _reader(values: np.ndarray, dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    return lambda index: np.array(values[index], dtype)
