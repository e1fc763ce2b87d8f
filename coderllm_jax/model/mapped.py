"""A tensor in a file: where its bytes lie, and a view of them that reads nothing by itself.

    model.safetensors │ header │ … │ layer 7's gate_proj, bfloat16 [F, D], from byte 81,788,928 │ …

A view is mapped anew each time it is asked for and given back when it is dropped, so that pages
read from one tensor do not stay in the process while the next is read. Owns no format: who parses
a header says where a tensor lies and has checked that it fits into the file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np


class MappedTensor(NamedTuple):
    """Shape and dtype as stored, and the first byte in the file."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes from `offset` on."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self) -> np.ndarray:
        """The tensor, read-only; its bytes are fetched where it is indexed."""
        # As bytes first: numpy's memmap knows no bfloat16.
        raw = np.memmap(self.file, np.uint8, "r", offset=self.offset, shape=(self.num_bytes,))
        return raw.view(np.ndarray).view(self.dtype).reshape(self.shape)


def sha256_of(path: str | Path) -> str:
    """The file's sha256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Sequence[Path], *, extra: str = "") -> str:
    """One sha256 for several files by their names and bytes, and for `extra`."""
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(sha256_of, paths))
    lines = [f"{path.name} {digest}" for path, digest in zip(paths, digests, strict=True)]
    return hashlib.sha256("\n".join([*lines, extra]).encode()).hexdigest()
