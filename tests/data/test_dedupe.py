"""Duplicates: what is found is what a comparison of every pair finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.dedupe import (
    NGRAM_WORDS,
    exact_duplicates,
    near_duplicates,
    ngrams,
    normalised,
    words,
)


def shingles(text):
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(max(len(found) - 5, 0) + 1)}


def brute_force(texts, threshold):
    kept, repeated = [], set()
    for position, text in enumerate(texts):
        own = shingles(text)
        if any(len(own & o) / len(own | o) >= threshold for o in kept):
            repeated.add(position)
        else:
            kept.append(own)
    return repeated


def varied_texts(count, seed):
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        if texts and random.random() < 0.5:
            found = texts[random.integers(len(texts))].split()
            for _ in range(random.integers(0, 4)):
                found[random.integers(len(found))] = f"new{random.integers(1000)}"
            texts.append(" ".join(found))
        else:
            texts.append(" ".join(f"w{n}" for n in random.integers(0, 300, size=60)))
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_every_pair_compared(seed):
    texts = varied_texts(300, seed)
    expected = brute_force(texts, 0.8)
    found = near_duplicates(texts, threshold=0.8)
    assert 20 < len(expected) < 280
    assert found <= expected | found
    assert len(found ^ expected) <= 1  # MinHash misses a pair at 0.8 once in thousands
    assert near_duplicates(texts, threshold=0.8) == found


def test_nothing_is_dropped_on_the_word_of_a_hash():
    texts = [" ".join(f"{a}{n}" for n in range(30)) for a in "abcdefgh"]
    assert near_duplicates(texts, threshold=0.3) == set()


def test_the_first_of_equals_stays():
    assert near_duplicates(["a b c d e f", "A b, c d e f!", "x"], threshold=0.9) == {1}
    assert exact_duplicates(["a", "b", "a", "a"]) == {2, 3}


@given(st.lists(st.text(max_size=40), max_size=12))
def test_a_second_pass_finds_nothing(texts):
    found = near_duplicates(texts, threshold=0.7)
    kept = [text for position, text in enumerate(texts) if position not in found]
    assert near_duplicates(kept, threshold=0.7) == set()


def test_normalised_looks_away_from_case_and_punctuation():
    assert normalised("What does `Adam` do?") == normalised("what does adam  do")
    assert normalised("adam") != normalised("adamw")


@pytest.mark.parametrize(("length", "count"), [(7, 0), (8, 1), (12, 1), (13, 1), (14, 2), (40, 28)])
def test_runs_of_thirteen_words(length, count):
    found = ngrams(" ".join(f"w{n}" for n in range(length)))
    assert len(found) == count
    assert all(len(ngram.split()) == min(length, NGRAM_WORDS) for ngram in found)


@given(st.integers(0, 20), st.integers(0, 20))
def test_texts_that_share_thirteen_words_share_a_run(before, after):
    shared = " ".join(f"s{n}" for n in range(NGRAM_WORDS))
    one = " ".join(["a"] * before + [shared] + ["b"] * after)
    assert set(ngrams(one)) & set(ngrams(f"x y {shared.upper()}, z"))
