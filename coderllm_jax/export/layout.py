"""From the tree's layout to that of checkpoints, a few megabytes at a time; what they cannot say.

`model.stored_layout` draws the two layouts and turns the stored one into views of the tree's; this
is the way back, which has to copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from coderllm_jax.model.architecture import Architecture, base_name

# What is cast or quantized at once; an embedding of 262,144 rows is the largest tensor by far.
_CHUNK_ITEMS = 1 << 23


def stored_view(name: str, values: np.ndarray, architecture: Architecture) -> np.ndarray:
    """One layer of block weight `name` as checkpoints store it: matrices are [out, in]."""
    kind = base_name(name)
    if kind in ("query", "key", "value"):
        return values.transpose(0, 2, 1).reshape(-1, architecture.width)
    if kind == "attention_output":
        return values.reshape(-1, architecture.width).T
    return values.reshape(1) if kind == "layer_scale" else values.T


def difference_of(found: Architecture, meant: Architecture) -> str:
    """What another architecture than the one meant was read from a file, in words; "" if alike."""
    fields = [field.name for field in dataclasses.fields(meant)]
    differing = [name for name in fields if getattr(found, name) != getattr(meant, name)]
    pairs = [f"{name} is {getattr(meant, name)}" for name in differing]
    said = [f"{name} {getattr(found, name)}" for name in differing]
    return f"its {', '.join(pairs)}, and what was written says {', '.join(said)}" if pairs else ""


def row_chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The array in contiguous runs of whole rows, in order; a vector is one run."""
    per_row = max(1, values[:1].size)
    step = max(1, _CHUNK_ITEMS // per_row)
    for start in range(0, len(values), step):
        yield np.ascontiguousarray(values[start : start + step])
