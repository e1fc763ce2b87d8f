"""Safetensors written as tensors come: first the header, which needs shapes alone, then the bytes.

    model.safetensors                      all of it, where it fits into one shard
    model-00001-of-00003.safetensors  …    else as many as are needed, none larger than the limit
    model.safetensors.index.json           {"metadata": {"total_size": …}, "weight_map": {name: …}}

The layout of one file is drawn in `training.adapter`. A shard ends before the tensor that would
take it past the limit; one tensor is never split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from coderllm_jax.export.layout import row_chunks

INDEX = "model.safetensors.index.json"
_NAMES = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}


class PendingTensor(NamedTuple):
    """A tensor that is read when it is written; `dtype` is that of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path, tensors: Sequence[PendingTensor], *, max_shard_bytes: int
) -> list[Path]:
    """Writes all tensors in their order, and the index where there is more than one file."""
    shards = _divide(tensors, max_shard_bytes)
    if len(shards) == 1:
        files = [folder / "model.safetensors"]
    else:
        total = f"{len(shards):05d}"
        files = [
            folder / f"model-{i:05d}-of-{total}.safetensors" for i in range(1, len(shards) + 1)
        ]
        index = {
            "metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors)},
            "weight_map": {
                tensor.name: file.name
                for file, shard in zip(files, shards, strict=True)
                for tensor in shard
            },
        }
        (folder / INDEX).write_text(f"{json.dumps(index, indent=1)}\n")
    for file, shard in zip(files, shards, strict=True):
        write_file(file, shard)
    return files


def write_file(file: Path, tensors: Sequence[PendingTensor]) -> None:
    """One safetensors file; `format: pt` is what transformers asks of it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = tensor.read()
            assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
            for chunk in row_chunks(values):
                stream.write(chunk.astype(tensor.dtype, copy=False).tobytes())


def _divide(tensors: Sequence[PendingTensor], limit: int) -> list[list[PendingTensor]]:
    shards: list[list[PendingTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.num_bytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    return shards
