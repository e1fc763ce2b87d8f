"""Exact duplicates, near duplicates and leaked word runs.

    normalised    "What does `adam` do?" = "what does adam do"        exact_duplicates
    MinHash+LSH   5-word shingles, then their true Jaccard            near_duplicates
    13-grams      the same 13 words in a row anywhere in two texts    NgramIndex

All three are functions of the texts and their order alone: of duplicates the first one stays.

Near duplicates: 64 MinHash values in 16 bands of 4 propose pairs (a pair with Jaccard 0.8 is
missed once in 4,000; Broder 1997, Leskovec et al. ch. 3); a proposed pair counts only if its true
Jaccard index reaches the threshold, so nothing is dropped on the hash's word.

13-grams are those of GPT-3's decontamination (Brown et al. 2020, appendix C): lower-case words,
punctuation ignored. A text shorter than 13 words has none; of such texts only equal ones match.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

NGRAM_WORDS = 13

_SHINGLE_WORDS = 5
_BANDS, _ROWS_PER_BAND = 16, 4
_PRIME = np.uint64(2**61 - 1)
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def normalised(text: str) -> str:
    """What two texts share when they differ in case, spacing and punctuation only."""
    return " ".join(words(text))


def exact_duplicates(keys: Iterable[Hashable]) -> set[int]:
    """Positions whose key stood at an earlier position already."""
    seen: set[Hashable] = set()
    repeated = set()
    for position, key in enumerate(keys):
        if key in seen:
            repeated.add(position)
        seen.add(key)
    return repeated


def near_duplicates(texts: Sequence[str], *, threshold: float) -> set[int]:
    """Positions that are within `threshold` Jaccard of an earlier text that itself is kept."""
    shingles = [_shingles(text) for text in texts]
    signatures = _minhash(shingles)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    repeated: set[int] = set()
    for position, signature in enumerate(signatures):
        bands = [
            (band, signature[band * _ROWS_PER_BAND : (band + 1) * _ROWS_PER_BAND].tobytes())
            for band in range(_BANDS)
        ]
        candidates = sorted({other for key in bands for other in buckets.get(key, ())})
        if any(_jaccard(shingles[position], shingles[other]) >= threshold for other in candidates):
            repeated.add(position)
            continue
        for key in bands:
            buckets.setdefault(key, []).append(position)
    return repeated


def _shingles(text: str) -> frozenset[int]:
    """Hashes of the text's runs of five words; of the whole text where it is shorter."""
    found = words(text)
    last = max(len(found) - _SHINGLE_WORDS, 0)
    # crc32 is the same in every process, unlike hash(), and true Jaccard decides in the end.
    return frozenset(
        zlib.crc32(" ".join(found[i : i + _SHINGLE_WORDS]).encode()) for i in range(last + 1)
    )


def _minhash(shingles: Sequence[frozenset[int]]) -> np.ndarray:
    """[texts, 64] uint64: of each text, the least value of each of 64 hash functions."""
    count = _BANDS * _ROWS_PER_BAND
    random = np.random.default_rng(0)
    scale = random.integers(1, 2**28, size=count, dtype=np.uint64)
    shift = random.integers(0, 2**60, size=count, dtype=np.uint64)
    signatures = np.empty((len(shingles), count), np.uint64)
    for row, values in enumerate(shingles):
        value_S = np.fromiter(values, np.uint64, len(values))
        # 32-bit shingles times 28-bit scales stay below 2**60: the sum cannot overflow.
        hashed_SH = (value_S[:, None] * scale + shift) % _PRIME
        signatures[row] = hashed_SH.min(axis=0)
    return signatures


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class NgramIndex:
    """The 13-grams of some texts, to be asked which other texts share one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._ngrams: set[str] = set()
        for text in texts:
            self._ngrams.update(ngrams(text))

    def __contains__(self, text: str) -> bool:
        return any(ngram in self._ngrams for ngram in ngrams(text))


def ngrams(text: str) -> list[str]:
    """Every run of 13 words; the whole text where it is shorter but not trivial (8 or more)."""
    found = words(text)
    if 8 <= len(found) < NGRAM_WORDS:
        return [" ".join(found)]
    return [" ".join(found[i : i + NGRAM_WORDS]) for i in range(len(found) - NGRAM_WORDS + 1)]
