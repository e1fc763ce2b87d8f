"""Exact duplicates, near duplicates and leaked word runs.

    normalised    "What does `adam` do?" = "what does adam do"        exact_duplicates
    MinHash+LSH   5-word shingles, then their true Jaccard            near_duplicates
    13-grams      the same 13 words in a row anywhere in two texts    ngrams

All three are functions of the texts and their order alone: of duplicates the first one stays.

Near duplicates: 64 MinHash values in 16 bands of 4 propose pairs (a pair with Jaccard 0.8 is
missed once in 4,000; Broder 1997, Leskovec et al. ch. 3); a proposed pair counts only if its true
Jaccard index reaches the threshold, so nothing is dropped on the hash's word.

13-grams are those of GPT-3's decontamination (Brown et al. 2020, appendix C): lower-case words,
punctuation ignored. A text of 8 to 12 words is one run as a whole, and a shorter one has none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

NGRAM_WORDS = 13

_SHINGLE_WORDS = 5
_BANDS, _ROWS_PER_BAND = 16, 4
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
    buckets: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
    repeated: set[int] = set()
    for position, keys in enumerate(_band_keys(shingles)):
        candidates: set[int] = set()
        for bucket, key in zip(buckets, keys, strict=True):
            candidates.update(bucket.get(key, ()))
        if any(_jaccard(shingles[position], shingles[other]) >= threshold for other in candidates):
            repeated.add(position)
            continue
        for bucket, key in zip(buckets, keys, strict=True):
            bucket.setdefault(key, []).append(position)
    return repeated


def _shingles(text: str) -> frozenset[int]:
    """Hashes of the text's runs of five words; of the whole text where it is shorter."""
    found = words(text)
    last = max(len(found) - _SHINGLE_WORDS, 0)
    # crc32 is the same in every process, unlike hash(), and true Jaccard decides in the end.
    return frozenset(
        zlib.crc32(" ".join(found[i : i + _SHINGLE_WORDS]).encode()) for i in range(last + 1)
    )


def _band_keys(shingles: Sequence[frozenset[int]]) -> list[list[int]]:
    """Of each text, one number a band: texts that agree in one are candidates.

    A band is 4 of the 64 least hash values; equal bands have equal keys, and unequal ones that
    share a key by chance cost a comparison and nothing else.
    """
    count = _BANDS * _ROWS_PER_BAND
    random = np.random.default_rng(0)
    scale = random.integers(0, 2**63, size=count, dtype=np.uint64) * 2 + 1
    shift = random.integers(0, 2**63, size=count, dtype=np.uint64)
    fold = random.integers(1, 2**63, size=_ROWS_PER_BAND, dtype=np.uint64)
    signatures = np.empty((len(shingles), count), np.uint64)
    for row, values in enumerate(shingles):
        value_S = np.fromiter(values, np.uint64, len(values))
        # Multiply-add-shift (Dietzfelbinger 1996): the product is meant to overflow, its high
        # half is the hash. Without the overflow the order would be that of the values.
        hashed_SH = (value_S[:, None] * scale + shift) >> np.uint64(32)
        signatures[row] = hashed_SH.min(axis=0)
    bands = signatures.reshape(len(shingles), _BANDS, _ROWS_PER_BAND)
    return (bands * fold).sum(axis=2, dtype=np.uint64).tolist()


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def ngrams(text: str) -> list[str]:
    """Every run of 13 words; the whole text where it is shorter but not trivial (8 or more)."""
    found = words(text)
    if 8 <= len(found) < NGRAM_WORDS:
        return [" ".join(found)]
    return [" ".join(found[i : i + NGRAM_WORDS]) for i in range(len(found) - NGRAM_WORDS + 1)]
