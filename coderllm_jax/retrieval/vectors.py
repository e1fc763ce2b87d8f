"""The nearest vectors to a query by inner product: all of them looked at, or a tree's best leaves.

    ExactIndex     up to about 20,000 vectors, and wherever ScaNN does not run: every inner product
    ScannIndex     above: a tree whose leaves hold about sqrt(N) vectors, of which a part is
                   searched with 4-bit codes (anisotropic quantization, Guo et al., ICML 2020), and
                   the best of those again with the vectors themselves

Both give the same thing, best first and equal ones by position:

    positions [Q, K]   7 3 9       scores [Q, K]   0.91 0.88 0.88

Vectors are float32 of length 1, so that the inner product is the cosine.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from coderllm_jax.retrieval.lean_imports import without

EXACT_BELOW = 20_000

# A block's scores are held at once: 64 queries by 32,768 rows are 8 MB, which caches hold.
_ROWS_PER_BLOCK, _QUERIES_PER_BLOCK = 32_768, 64
_GROUP = 64


class Neighbours(NamedTuple):
    """The K best of each query: positions int64 [Q, K] and scores float32 [Q, K]."""

    positions_QK: npt.NDArray[np.int64]
    scores_QK: npt.NDArray[np.float32]


class VectorIndex(Protocol):
    """Whatever finds near vectors."""

    def search(self, queries_QD: npt.NDArray[np.float32], k: int) -> Neighbours:
        """The best `k` (or all, where there are fewer) of each query."""


class ExactIndex:
    """Every inner product. The vectors may be a mapped file."""

    def __init__(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        self._vectors_ND = vectors_ND

    def search(self, queries_QD: npt.NDArray[np.float32], k: int) -> Neighbours:
        """The best `k` of each query."""
        parts = [
            self._search(queries_QD[start : start + _QUERIES_PER_BLOCK], k)
            for start in range(0, len(queries_QD), _QUERIES_PER_BLOCK)
        ]
        return Neighbours(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _search(self, queries_QD: npt.NDArray[np.float32], k: int) -> Neighbours:
        best = [_Best(k) for _ in queries_QD]
        for start in range(0, len(self._vectors_ND), _ROWS_PER_BLOCK):
            scores_QN = queries_QD @ self._vectors_ND[start : start + _ROWS_PER_BLOCK].T
            maxima_Q = scores_QN.max(axis=1)
            for found, scores_N, maximum in zip(best, scores_QN, maxima_Q, strict=True):
                if maximum > found.floor:
                    found.add(scores_N, start)
        return Neighbours(
            np.stack([found.positions_K for found in best]),
            np.stack([found.scores_K for found in best]),
        )


class _Best:
    """The best of one query so far."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.positions_K = np.empty(0, np.int64)
        self.scores_K = np.empty(0, np.float32)

    @property
    def floor(self) -> float:
        """What a later position must exceed; an equal one comes after all of these."""
        return float(self.scores_K[-1]) if len(self.scores_K) == self._k else -math.inf

    def add(self, scores_N: npt.NDArray[np.float32], start: int) -> None:
        """Takes in the scores of the rows from `start` on."""
        positions = top_positions(scores_N, self._k)
        scores = np.concatenate([self.scores_K, scores_N[positions]])
        order = np.argsort(-scores, kind="stable")[: self._k]
        self.positions_K = np.concatenate([self.positions_K, positions + start])[order]
        self.scores_K = scores[order]


def top_positions(scores_N: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Where the best `k` scores are, best first, equal ones by position.

    The k-th largest of the groups' maxima is a score that at least k reach, so only what reaches
    it, ties included, has to be sorted.
    """
    candidates = np.arange(len(scores_N))
    num_groups = len(scores_N) // _GROUP
    if num_groups > k:
        maxima = scores_N[: num_groups * _GROUP].reshape(num_groups, _GROUP).max(axis=1)
        threshold = np.partition(maxima, num_groups - k)[num_groups - k]
        candidates = np.flatnonzero(scores_N >= threshold)
    order = np.argsort(-scores_N[candidates], kind="stable")[:k]
    return candidates[order]


@dataclasses.dataclass(frozen=True)
class ScannSettings:
    """How ScaNN is built and searched for N vectors.

    Its authors advise about sqrt(N) leaves. 5 % of them are searched, 10 at least, and of what the
    codes find the best 4 K (100 at least) are looked at again: benchmarks/retrieval.md has the
    recall and the speed that this gives.
    """

    num_leaves: int
    leaves_to_search: int
    training_size: int

    @classmethod
    def for_size(cls, num_vectors: int) -> ScannSettings:
        """What this many vectors want."""
        num_leaves = max(1, round(math.sqrt(num_vectors)))
        return cls(
            num_leaves=num_leaves,
            leaves_to_search=min(num_leaves, max(10, math.ceil(0.05 * num_leaves))),
            training_size=min(num_vectors, 100_000),
        )


class ScannIndex:
    """A ScaNN searcher over a folder's vectors (Linux only)."""

    def __init__(self, searcher: Any) -> None:
        self._searcher = searcher

    @classmethod
    def build(
        cls, vectors_ND: npt.NDArray[np.float32], settings: ScannSettings | None = None
    ) -> ScannIndex:
        """Trains tree and codes: minutes for a million vectors; equal input, equal index."""
        settings = settings or ScannSettings.for_size(len(vectors_ND))
        return cls(
            _scann()
            .builder(vectors_ND, 10, "dot_product")
            .tree(
                settings.num_leaves,
                settings.leaves_to_search,
                training_sample_size=settings.training_size,
            )
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(100)
            .build()
        )

    def save(self, folder: Path, *, vectors: Path) -> None:
        """Writes all but the vectors, which are read from `vectors`, a .npy file of them."""
        folder.mkdir(parents=True)
        self._searcher.serialize(str(folder), relative_path=True)
        (folder / _SCANN_VECTORS).unlink()
        assets = folder / _SCANN_ASSETS
        text = assets.read_text(encoding="utf-8")
        own, shared = f'"{_SCANN_VECTORS}"', json.dumps(os.path.relpath(vectors, folder))
        assert text.count(own) == 1, "ScaNN names its copy of the vectors otherwise"
        assets.write_text(text.replace(own, shared), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ScannIndex:
        """What `save` wrote. Check the folder first: ScaNN unpickles a file that may be added."""
        return cls(_scann().load_searcher(str(folder)))

    def search(self, queries_QD: npt.NDArray[np.float32], k: int) -> Neighbours:
        """The best `k` of each query in the leaves searched; position -1 where these hold fewer."""
        reordered = max(100, 4 * k)
        if len(queries_QD) == 1:  # no thread pool for one
            found = self._searcher.search(queries_QD[0], k, reordered)
            positions_QK, scores_QK = found[0][None], found[1][None]
        else:
            positions_QK, scores_QK = self._searcher.search_batched_parallel(
                queries_QD, k, reordered
            )
        is_filler_QK = np.isnan(scores_QK)
        return Neighbours(
            np.where(is_filler_QK, -1, positions_QK.astype(np.int64)),
            np.where(is_filler_QK, -np.inf, scores_QK),
        )


_SCANN_VECTORS, _SCANN_ASSETS = "dataset.npy", "scann_assets.pbtxt"


def scann_problem() -> str:
    """Why ScaNN cannot serve here; empty where it can."""
    if sys.platform != "linux":
        return "ScaNN runs on Linux only"
    if importlib.util.find_spec("scann") is None:
        return "ScaNN is not installed (pip install 'coderllm-jax[retrieval]')"
    return ""


def _scann() -> Any:
    with without("tensorflow"):
        from scann import scann_ops_pybind

    return scann_ops_pybind
