"""Word search: BM25 over words that know what an identifier is.

    `optax.scale_by_adam`   →  scale, by, adam, scale_by_adam, optax, optax.scale_by_adam
    ScaleByAdamState        →  scale, by, adam, state, scalebyadamstate
    b1=0.9                  →  b1, 0.9

A dotted name counts as itself, as each of its identifiers and as each word in those: so
"scale by adam" finds `scale_by_adam`, and the full name finds its own passage before its
namesakes'. Words are runs of letters and digits; writing without spaces between words (Chinese,
Japanese) is not segmented.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coderllm_jax.retrieval.lean_imports import without

# Written into an index: words that were split otherwise cannot be looked up.
WORDS_VERSION = 1

_TOKEN = re.compile(r"(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, in order: see the drawing at the top of this module."""
    words = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match["name"] is None:
            words.append(token.lower())
            continue
        identifiers = token.split(".")
        for identifier in identifiers:
            parts = _PART.findall(identifier) if identifier.isascii() else identifier.split("_")
            words += [part.lower() for part in parts]
            if parts != [identifier]:
                words.append(identifier.lower())
        if len(identifiers) > 1:
            words.append(token.lower())
    return words


class LexicalIndex:
    """BM25 (bm25s, Lucene's variant) over a list of texts, by position."""

    def __init__(self, bm25: Any) -> None:
        self._bm25 = bm25
        num_texts = int(bm25.scores["num_docs"])
        frequency = np.diff(bm25.scores["indptr"])
        self._idf = np.log1p((num_texts - frequency + 0.5) / (frequency + 0.5))
        self._idf_unknown = float(np.log1p((num_texts + 0.5) / 0.5))

    @classmethod
    def build(cls, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> LexicalIndex:
        """k1: how soon repeating a word stops counting; b: how much long texts are held back."""
        # Numbered here, by first appearance: the library goes through a set, whose order is
        # another one in every process. "" is the word that it would add itself.
        vocabulary = {"": 0}
        rows = [
            [vocabulary.setdefault(word, len(vocabulary)) for word in split_words(text)]
            for text in texts
        ]
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

    def score(self, query: str) -> npt.NDArray[np.float32]:
        """Every text's BM25 score [N]; a word of the query counts once, however often it stands."""
        known = [word for word in dict.fromkeys(split_words(query)) if word in self._vocabulary]
        if not known:
            return np.zeros(int(self._bm25.scores["num_docs"]), np.float32)
        return self._bm25.get_scores(known)

    def ceiling(self, query: str) -> float:
        """What no text's score can reach: every word of the query, known or not, without end."""
        total = 0.0
        for word in dict.fromkeys(split_words(query)):
            column = self._vocabulary.get(word)
            total += self._idf_unknown if column is None else float(self._idf[column])
        return total

    @property
    def _vocabulary(self) -> dict[str, int]:
        return self._bm25.vocab_dict


def _bm25s() -> Any:
    with without("jax", "numba"):
        import bm25s

    return bm25s
