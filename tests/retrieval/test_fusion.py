"""Reciprocal-rank fusion by hand, and that only ranks count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.retrieval.fusion import fuse


def test_fusion_by_hand():
    fused = fuse([[7, 3, 9], [3, 8, 7]], weights=[1, 1], k=60)
    assert [position for position, _ in fused] == [3, 7, 8, 9]
    assert [score for _, score in fused] == pytest.approx(
        [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63]
    )


def test_weights_decide_and_ties_go_by_position():
    assert [p for p, _ in fuse([[5], [4]], weights=[1, 2])] == [4, 5]
    assert [p for p, _ in fuse([[5], [4]], weights=[1, 1])] == [4, 5]
    assert fuse([[], []], weights=[1, 1]) == []


@given(st.permutations(range(6)), st.sampled_from([0.0, 10.0, 60.0]))
def test_one_ranking_and_agreement_stay_as_they_are(ranking, k):
    alone = [position for position, _ in fuse([ranking], weights=[0.3], k=k)]
    agreed = [position for position, _ in fuse([ranking] * 3, weights=[1, 2, 0.5], k=k)]
    assert alone == agreed == list(ranking)
