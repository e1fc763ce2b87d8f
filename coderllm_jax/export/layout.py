"""From the tree's layout to that of checkpoints, a few megabytes at a time.

`model.stored_layout` draws the two layouts and turns the stored one into views of the tree's; this
is the way back, which has to copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coderllm_jax.model.architecture import Architecture

# What is cast or quantized at once; an embedding of 262,144 rows is the largest tensor by far.
_CHUNK_ITEMS = 1 << 23


def stored_view(name: str, values: np.ndarray, architecture: Architecture) -> np.ndarray:
    """One layer of block weight `name` as checkpoints store it: matrices are [out, in]."""
    if name in ("query", "key", "value"):
        return values.transpose(0, 2, 1).reshape(-1, architecture.width)
    if name == "attention_output":
        return values.reshape(-1, architecture.width).T
    return values.T


def row_chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The array in contiguous runs of whole rows, in order; a vector is one run."""
    per_row = max(1, values[:1].size)
    step = max(1, _CHUNK_ITEMS // per_row)
    for start in range(0, len(values), step):
        yield np.ascontiguousarray(values[start : start + step])
