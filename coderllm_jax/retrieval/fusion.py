"""Several rankings of the same passages become one.

    dense      7 3 9        1/61 1/62 1/63
    lexical    3 8 7        1/61 1/62 1/63
    fused      3 7 8 9      3: 1/62 + 1/61   7: 1/61 + 1/63   8: 1/62   9: 1/63

Reciprocal-rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): each ranking gives a passage
weight / (k + rank), ranks from 1, k = 60 there; what a ranking does not name gets nothing from it.
Only ranks count, so that an inner product and a BM25 score need no common scale.
"""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60.0


def fuse(
    rankings: Sequence[Sequence[int]], *, weights: Sequence[float], k: float = RRF_K
) -> list[tuple[int, float]]:
    """(position, score), best first; equal scores by position, so that the order is always one."""
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, position in enumerate(ranking, start=1):
            scores[position] = scores.get(position, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
