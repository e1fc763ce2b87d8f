"""A question in, ranked passages out.

    question ──┬─ vector ── nearest vectors ──────── dense ─────┐
               ├─ words ─── BM25 ─────────────────── lexical ───┼─ fusion ── hits, best first
               └─ names ─── BM25 of the names alone ─ names ────┘

The third ranking is for `optax.scale_by_adam` and its like: who names something asks about it, and
its passages would otherwise have to win by the words around the name. A hit is relevant where it is
similar enough (`retrieval.relevance`) or says a name that the question says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.records import Chunk
from coderllm_jax.retrieval.embedder import Embedder
from coderllm_jax.retrieval.fusion import fuse
from coderllm_jax.retrieval.lexical import LexicalScores
from coderllm_jax.retrieval.store import Index
from coderllm_jax.retrieval.vectors import top_positions


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Which rankings there are, how long, and how they are weighed.

    Weights and k were chosen on the validation halves of benchmarks/retrieval.py: with k = 60 and
    equal weights, what BM25 finds for questions in other words pushes aside what vectors find.
    """

    mode: str = "hybrid"
    depth: int = 50
    rrf_k: float = 10.0
    dense_weight: float = 1.0
    lexical_weight: float = 0.5
    name_weight: float = 1.0


class Hit(NamedTuple):
    """A passage that was found.

    score: the fusion's, as a part of what it would be for the first of every ranking.
    similarity: the cosine, or the words' share where nothing was embedded.
    """

    chunk: Chunk
    position: int
    score: float
    similarity: float
    is_named: bool
    is_relevant: bool


class Found(NamedTuple):
    """What a search brought, best first, and the seconds it took."""

    hits: tuple[Hit, ...]
    embed_s: float
    search_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.embed_s + self.search_s


class Searcher:
    """An opened index and the model that embeds questions for it."""

    def __init__(
        self, index: Index, embedder: Embedder, settings: SearchSettings | None = None
    ) -> None:
        index.check_identity(embedder.identity)
        self.index = index
        self.settings = settings or SearchSettings()
        self.embedder = embedder

    def search(self, question: str, k: int) -> Found:
        """The best `k` passages."""
        started = time.perf_counter()
        vector_D = None
        if self.settings.mode != "lexical":
            vector_D = self.embedder.embed_queries([question])[0]
        embedded = time.perf_counter()
        hits = self._rank(question, vector_D, k)
        return Found(hits, embedded - started, time.perf_counter() - embedded)

    def _rank(
        self, question: str, vector_D: npt.NDArray[np.float32] | None, k: int
    ) -> tuple[Hit, ...]:
        settings = self.settings
        depth = max(settings.depth, k)
        rankings: list[Sequence[int]] = []
        weights: list[float] = []
        if vector_D is not None:
            positions_K = self.index.nearest.search(vector_D[None], depth).positions_QK[0]
            rankings.append(positions_K[positions_K >= 0].tolist())
            weights.append(settings.dense_weight)
        words = self.index.lexical.score(question)
        if settings.mode != "dense":
            rankings += [_matching(words.all_N, depth), _matching(words.names_N, depth)]
            weights += [settings.lexical_weight, settings.name_weight]
        best = sum(w for w, r in zip(weights, rankings, strict=True) if r) / (settings.rrf_k + 1)
        fused = fuse(rankings, weights=weights, k=settings.rrf_k)[:k]
        return tuple(
            self._hit(position, score / best if best else 0.0, vector_D, words)
            for position, score in fused
        )

    def _hit(
        self,
        position: int,
        score: float,
        vector_D: npt.NDArray[np.float32] | None,
        words: LexicalScores,
    ) -> Hit:
        if vector_D is None:
            similarity, threshold = words.share(position), self.index.thresholds.lexical
        else:
            similarity = float(self.index.vectors_ND[position] @ vector_D)
            threshold = self.index.thresholds.dense
        is_named = bool(words.names_N[position] > 0)
        return Hit(
            self.index.chunks[position],
            position,
            score,
            similarity,
            is_named,
            is_named or threshold is None or similarity >= threshold.value,
        )


def _matching(scores_N: npt.NDArray[np.float32], depth: int) -> list[int]:
    """The best positions that have any score: most have none."""
    matching = np.flatnonzero(scores_N > 0)
    return matching[top_positions(scores_N[matching], depth)].tolist()
