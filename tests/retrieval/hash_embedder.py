"""An embedding model that loads nothing: words are hashed into a vector, and calls are counted."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WORD = re.compile(r"[a-z0-9]+")


class HashEmbedder:
    """Texts that share words are near. `embedded` are the documents in the order they came."""

    def __init__(self, model: str = "hash", *, dimensions: int = 64, document_prefix: str = ""):
        self.embedded: list[str] = []
        self._model, self._dimensions, self._prefix = model, dimensions, document_prefix

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "model": self._model,
            "fingerprint": f"{zlib.crc32(self._model.encode()):064x}",
            "query_prefix": "",
            "document_prefix": self._prefix,
        }

    def embed_documents(self, texts: Sequence[str]):
        self.embedded += texts
        return self._embed([self._prefix + text for text in texts])

    def embed_queries(self, texts: Sequence[str]):
        return self._embed(texts)

    def _embed(self, texts: Sequence[str]):
        vectors = np.full((len(texts), self._dimensions), 1e-3, np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in _WORD.findall(text.lower()):
                hashed = zlib.crc32(f"{self._model} {word}".encode())
                vector[hashed % self._dimensions] += 1 if hashed & 1 << 20 else -1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
