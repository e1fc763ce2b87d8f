"""From what similarity on a passage is worth showing, learnt from questions whose passage is known.

    known       the question and its own passage           0.50 0.64 0.72 ...
    shuffled    the question and some other question's     0.21 0.35 0.53 ...
    threshold   the shuffled ones' median, or less: at most `missed_fraction` of known pairs lie
                below it

A passage below it is no nearer to the question than any passage of this index is to any question
put to it. Where nothing reaches it, nothing relevant was found.

Why not the line that parts known from shuffled pairs best: questions made from documentation name
their symbol and quote its words, so that line is drawn far too high for what people ask. On optax,
0.50 keeps 95 % of the known pairs and turns away 28 of 40 hand-written questions in other words;
this threshold, 0.35, turns away 7, while nothing off-topic comes above 0.30
(benchmarks/retrieval.md).

Covers: questions that have nothing to do with the index. Does not cover: questions in its field
whose answer it happens not to hold, whose nearest passages look as near as right ones do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from coderllm_jax.records import Chunk, Example
from coderllm_jax.retrieval.embedder import Embedder
from coderllm_jax.retrieval.lexical import LexicalIndex

MAX_PAIRS = 200

T = TypeVar("T")


class Pair(NamedTuple):
    """A question, and the ids of the chunks of which any one answers it."""

    question: str
    chunk_ids: tuple[str, ...]


class Threshold(NamedTuple):
    """Similarity from which on a passage counts, and what share of the pairs reach it."""

    value: float
    known_kept: float
    shuffled_kept: float
    num_pairs: int


class Thresholds(NamedTuple):
    """A threshold for cosines and one for shares of BM25's ceiling; None: all are relevant."""

    dense: Threshold | None = None
    lexical: Threshold | None = None


def pairs_from_examples(examples: Iterable[Example], chunks: Iterable[Chunk]) -> list[Pair]:
    """Training questions beside the chunks of their symbol, as many as calibration uses."""
    by_symbol: dict[tuple[str, str], list[str]] = {}
    for chunk in chunks:
        if chunk.symbol:
            by_symbol.setdefault((chunk.source, chunk.symbol), []).append(chunk.id)
    pairs = [
        Pair(example.question, tuple(by_symbol[example.source, example.symbol]))
        for example in examples
        if (example.source, example.symbol) in by_symbol
    ]
    return _spread(pairs)


def calibrate(
    pairs: Sequence[Pair],
    chunks: Sequence[Chunk],
    vectors_ND: npt.NDArray[np.float32],
    *,
    lexical: LexicalIndex,
    embedder: Embedder,
    missed_fraction: float,
) -> Thresholds:
    """Both thresholds; none where `missed_fraction` is 0 or no pair is about these chunks."""
    position_of = {chunk.id: position for position, chunk in enumerate(chunks)}
    known = [(p.question, [position_of[i] for i in p.chunk_ids if i in position_of]) for p in pairs]
    known = _spread([(question, positions) for question, positions in known if positions])
    if not missed_fraction or not known:
        return Thresholds()
    partners = shuffled_partners([str(positions) for _, positions in known])
    vectors_PD = embedder.embed_queries([question for question, _ in known])
    cosines: tuple[list[float], list[float]] = ([], [])
    shares: tuple[list[float], list[float]] = ([], [])
    for (question, own), partner, vector_D in zip(known, partners, vectors_PD, strict=True):
        words = lexical.score(question)
        for kind, positions in enumerate((own, [] if partner is None else known[partner][1])):
            if positions:
                cosines[kind].append(float((vectors_ND[positions] @ vector_D).max()))
                shares[kind].append(max(words.share(position) for position in positions))
    return Thresholds(
        dense=find_threshold(*cosines, missed_fraction=missed_fraction),
        lexical=find_threshold(*shares, missed_fraction=missed_fraction),
    )


def find_threshold(
    known: Sequence[float], shuffled: Sequence[float], *, missed_fraction: float
) -> Threshold | None:
    """See the drawing at the top of this module. None without pairs: nothing is turned away."""
    if not known or not shuffled:
        return None
    value = min(float(np.median(shuffled)), float(np.quantile(known, missed_fraction)))
    return Threshold(
        value,
        known_kept=float(np.mean(np.asarray(known) >= value)),
        shuffled_kept=float(np.mean(np.asarray(shuffled) >= value)),
        num_pairs=len(known),
    )


def shuffled_partners(keys: Sequence[str], *, seed: int = 0) -> list[int | None]:
    """For each pair another one with another key, by chance; None where all keys are one."""
    order = np.random.default_rng(seed).permutation(len(keys)).tolist()
    partners: list[int | None] = [None] * len(keys)
    for place, number in enumerate(order):
        others = order[place + 1 :] + order[:place]
        partners[number] = next((o for o in others if keys[o] != keys[number]), None)
    return partners


def _spread(items: list[T], most: int = MAX_PAIRS) -> list[T]:
    """At most `most` of these, evenly spread over them."""
    if len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]
