"""Word search: BM25 (bm25s, Lucene's variant) over the words of `retrieval.words`.

    query     "What does b1 do in optax.scale_by_adam?"
    scores    12.3  0.0  4.1 ...           one a passage, over all of the query's words
    names      5.9  0.0  0.0 ...           the same over the names among them alone
    ceiling   19.8                         what no passage can reach: every word, without end

A score says nothing by itself, because it grows with the query; its share of the ceiling is between
0 and 1 for every query, and words that no passage has weigh most in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.retrieval.lean_imports import without
from coderllm_jax.retrieval.words import split_words

K1, B = 1.5, 0.4


class LexicalScores(NamedTuple):
    """One query's BM25 scores: float32 [N] over all words and over names, and their ceiling."""

    all_N: npt.NDArray[np.float32]
    names_N: npt.NDArray[np.float32]
    ceiling: float

    def share(self, position: int) -> float:
        """The part of what could be reached that the passage at `position` reaches."""
        return float(self.all_N[position]) / self.ceiling if self.ceiling else 0.0


class LexicalIndex:
    """BM25 over a list of texts, by position."""

    def __init__(self, bm25: Any) -> None:
        self._bm25 = bm25
        self._num_texts = int(bm25.scores["num_docs"])
        frequency_V = np.diff(bm25.scores["indptr"])
        self._idf_V = np.log1p((self._num_texts - frequency_V + 0.5) / (frequency_V + 0.5))
        self._idf_of_unknown = float(np.log1p((self._num_texts + 0.5) / 0.5))

    @classmethod
    def build(cls, texts: Sequence[str], *, k1: float = K1, b: float = B) -> LexicalIndex:
        """k1: how soon repeating a word stops counting; b: how much long texts are held back."""
        # Numbered here, by first appearance: the library goes through a set, whose order is
        # another one in every process. "" is the word that it would add itself.
        vocabulary = {"": 0}
        rows = [
            [vocabulary.setdefault(word, len(vocabulary)) for word in split_words(text).all]
            for text in texts
        ]
        if not any(rows):  # their average length would be 0, by which the library divides
            rows = [[vocabulary[""]]] * len(rows)
        bm25 = _bm25s().BM25(k1=k1, b=b, method="lucene")
        bm25.index((rows, vocabulary), show_progress=False)
        return cls(bm25)

    @classmethod
    def load(cls, folder: Path) -> LexicalIndex:
        """What `save` wrote."""
        return cls(_bm25s().BM25.load(folder, show_progress=False))

    def save(self, folder: Path) -> None:
        """As plain arrays and JSON; nothing in it is ever unpickled."""
        self._bm25.save(folder, show_progress=False)

    def score(self, query: str) -> LexicalScores:
        """Scores of every text; a word counts once, however often the query says it."""
        words = split_words(query)
        distinct = dict.fromkeys(words.all)
        return LexicalScores(
            self._scores(distinct),
            self._scores(dict.fromkeys(words.names)),
            sum(self._idf(word) for word in distinct),
        )

    def _scores(self, words: dict[str, None]) -> npt.NDArray[np.float32]:
        known = [word for word in words if word in self._bm25.vocab_dict]
        if not known:
            return np.zeros(self._num_texts, np.float32)
        return self._bm25.get_scores(known)

    def _idf(self, word: str) -> float:
        column = self._bm25.vocab_dict.get(word)
        return self._idf_of_unknown if column is None else float(self._idf_V[column])


def _bm25s() -> Any:
    with without("jax", "numba"):
        import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
