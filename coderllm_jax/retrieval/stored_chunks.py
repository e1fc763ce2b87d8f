r"""Chunks in a file, read where they are asked for: opening a million costs nothing.

chunks.jsonl   {"id": "optax.adam#0", …}\n{"id": …     rows as `prepare` writes them
offsets.npy    0 311 702 …                              where each begins, and the end
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk

ROWS, OFFSETS = "chunks.jsonl", "offsets.npy"


def hash_chunks(chunks: Iterable[Chunk]) -> str:
    """One sha256 for these chunks in this order."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(_line(chunk))
    return digest.hexdigest()


def check_chunks(chunks: Sequence[Chunk]) -> None:
    """DataError where there is none, or two have one id."""
    if not chunks:
        raise DataError("there are no chunks to index; run `prepare`, or name a file that has some")
    seen: set[str] = set()
    for chunk in chunks:
        if chunk.id in seen:
            raise DataError(
                f"two chunks have the id {chunk.id!r}; expected each once; rename or drop one"
            )
        seen.add(chunk.id)


def write_chunks(folder: Path, chunks: Iterable[Chunk]) -> None:
    """Both files."""
    offsets = [0]
    with (folder / ROWS).open("wb") as stream:
        for chunk in chunks:
            offsets.append(offsets[-1] + stream.write(_line(chunk)))
    np.save(folder / OFFSETS, np.array(offsets, np.int64))


class StoredChunks(Sequence[Chunk]):
    """What `write_chunks` wrote, as a sequence."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        with (folder / ROWS).open("rb") as stream:
            self._rows = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # raises IndexError, and counts from the end
        line = self._rows[int(self._offsets[number]) : int(self._offsets[number + 1])]
        return Chunk(**json.loads(line))


def _line(chunk: Chunk) -> bytes:
    # ASCII, so that a lone surrogate, which JSON can spell and UTF-8 cannot, survives.
    return json.dumps(dataclasses.asdict(chunk)).encode() + b"\n"
