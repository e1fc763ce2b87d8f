"""The threshold is the shuffled pairs' median, or lower where that would turn known ones away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.retrieval.relevance import find_threshold, shuffled_partners


def test_the_shuffled_median_where_known_pairs_lie_above_it():
    threshold = find_threshold([0.6, 0.7, 0.8], [0.1, 0.2, 0.9], missed_fraction=0.05)
    assert threshold == (0.2, 1.0, pytest.approx(2 / 3), 3)


def test_never_more_known_pairs_are_missed_than_said():
    known = [number / 100 for number in range(100)]
    threshold = find_threshold(known, [0.5] * 10, missed_fraction=0.1)
    assert threshold is not None
    assert threshold.value == pytest.approx(0.099)
    assert threshold.known_kept == 0.9


def test_without_pairs_there_is_none():
    assert find_threshold([], [], missed_fraction=0.05) is None
    assert find_threshold([0.5], [], missed_fraction=0.05) is None


_SCORES = st.lists(st.floats(-1, 1), min_size=1, max_size=50)


@given(_SCORES, _SCORES, st.floats(0.01, 0.5))
def test_bounds_hold_for_any_scores(known, shuffled, missed):
    threshold = find_threshold(known, shuffled, missed_fraction=missed)
    assert threshold is not None
    assert 1 - threshold.known_kept <= missed + 1 / len(known)
    assert threshold.shuffled_kept >= 0.5


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(0, 9))
def test_partners_are_of_another_chunk(keys, seed):
    partners = shuffled_partners(keys, seed=seed)
    assert partners == shuffled_partners(keys, seed=seed)
    for key, partner in zip(keys, partners, strict=True):
        assert (partner is None) == (len(set(keys)) == 1)
        assert partner is None or keys[partner] != key
