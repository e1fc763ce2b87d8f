"""How matrices lie in checkpoints that torch and llama.cpp write: [out, in], heads side by side.

    stored                          the tree
    q_proj      [H·K, D]      →     query            [H, D, K]
    o_proj      [D, H·K]      →     attention_output [H, K, D]
    gate_proj   [F, D]        →     ffw_gating       [D, F]
    any norm    [D]           →     the same; whether it is stored as scale or as 1 + scale is
                                    the format's own affair

Everything here is a view: of a mapped file nothing is read.
"""

from __future__ import annotations

import numpy as np

from coderllm_jax.model.architecture import Architecture, base_name


def stored_shape(name: str, architecture: Architecture) -> tuple[int, ...]:
    """The shape in which a checkpoint stores one layer of block weight `name`."""
    shape = architecture.block_shapes()[name]
    name = base_name(name)
    if name == "layer_scale":
        return (1,)
    if name in ("query", "key", "value"):
        heads, width, size = shape
        return (heads * size, width)
    if name == "attention_output":
        heads, size, width = shape
        return (width, heads * size)
    return shape[::-1]


def scale_alone(stored: np.ndarray) -> np.ndarray:
    """The scale of a norm that is stored as 1 + scale, in float32."""
    return stored.astype(np.float32) - 1.0


def tree_view(name: str, stored: np.ndarray, architecture: Architecture) -> np.ndarray:
    """One stored layer of `name` in the tree's layout."""
    shape = architecture.block_shapes()[name]
    name = base_name(name)
    if name in ("query", "key", "value"):
        heads, width, size = shape
        return stored.reshape(heads, size, width).transpose(0, 2, 1)
    if name == "attention_output":
        heads, size, width = shape
        return stored.reshape(width, heads, size).transpose(1, 2, 0)
    return stored.reshape(shape) if name == "layer_scale" else stored.T
