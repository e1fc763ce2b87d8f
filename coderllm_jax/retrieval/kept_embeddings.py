"""Embedded texts that a build keeps as it goes, so that one that was killed goes on.

    index/embedded-3fb2…/              one folder an embedding identity
      9c41….npz   keys [64, 32]  vectors [64, D]      a batch, named by its own sha256

A text's key is its sha256. A batch appears whole or not at all, and one whose bytes are no longer
those that its name says is passed over: its texts are embedded again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)
_PREFIX = "embedded-"


def key_of(text: str) -> bytes:
    """A text's key: its sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class KeptEmbeddings:
    """The batches of one embedding identity inside an index's folder."""

    def __init__(self, index: Path, identity: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
        self._folder = index / f"{_PREFIX}{digest[:16]}"

    def __iter__(self) -> Iterator[tuple[bytes, npt.NDArray[np.float32]]]:
        """(key, vector) of every undamaged batch."""
        for path in sorted(self._folder.glob("*.npz")):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.stem:
                _log.warning("%s is damaged; its texts are embedded again", path)
                continue
            try:
                with np.load(io.BytesIO(content), allow_pickle=False) as batch:
                    keys, vectors_ND = batch["keys"], batch["vectors"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                _log.warning("%s cannot be read (%s); its texts are embedded again", path, error)
                continue
            for key, vector_D in zip(keys, vectors_ND, strict=True):
                yield key.tobytes(), vector_D

    def keep(self, keys: Sequence[bytes], vectors_ND: npt.NDArray[np.float32]) -> None:
        """Writes one batch, whole or not at all."""
        stream = io.BytesIO()
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        np.savez(stream, keys=rows, vectors=vectors_ND)
        content = stream.getvalue()
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".unfinished-{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.replace(self._folder / f"{hashlib.sha256(content).hexdigest()}.npz")


def drop_kept(index: Path) -> None:
    """Removes every batch, of whatever identity: the index holds what they held."""
    for folder in index.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder)
