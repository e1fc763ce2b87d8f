"""Exact search is brute force with ties by position; ScaNN finds nearly all of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.retrieval import vectors
from coderllm_jax.retrieval.vectors import (
    ExactIndex,
    ScannIndex,
    ScannSettings,
    scann_problem,
    top_positions,
)

needs_scann = pytest.mark.skipif(bool(scann_problem()), reason=scann_problem())


def unit_vectors(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def brute_force(scores_N: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(scores_N)), key=lambda position: (-scores_N[position], position))[:k]


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=400),
    st.integers(1, 12),
)
def test_top_positions_are_a_stable_sort(scores, k):
    scores_N = np.array(scores, np.float32)
    assert top_positions(scores_N, k).tolist() == brute_force(scores_N, k)


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
def test_blocks_change_nothing(count, k, num_queries, seed):
    chance = np.random.default_rng(seed)
    # Small integers: products are exact, so ties are ties in blocks of any shape.
    vectors_ND = chance.integers(-2, 3, size=(count, 3)).astype(np.float32)
    queries_QD = chance.integers(-2, 3, size=(num_queries, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "_ROWS_PER_BLOCK", 8)
        patch.setattr(vectors, "_QUERIES_PER_BLOCK", 2)
        patch.setattr(vectors, "_GROUP", 2)
        found = ExactIndex(vectors_ND).search(queries_QD, k)
    for query_D, positions, scores in zip(queries_QD, *found, strict=True):
        scores_N = vectors_ND @ query_D
        assert positions.tolist() == brute_force(scores_N, k)
        assert scores.tolist() == scores_N[positions].tolist()


def test_settings_grow_with_the_vectors():
    small, large = ScannSettings.for_size(20_000), ScannSettings.for_size(1_000_000)
    assert (small.num_leaves, small.leaves_to_search) == (141, 10)
    assert (large.num_leaves, large.leaves_to_search) == (1000, 50)
    assert ScannSettings.for_size(3).leaves_to_search == 2


def test_scann_is_linux_only(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in scann_problem()


VECTORS = unit_vectors(3000, 16)


@pytest.fixture(scope="module")
def index() -> ScannIndex:
    return ScannIndex.build(
        VECTORS, ScannSettings(num_leaves=40, leaves_to_search=20, training_size=3000)
    )


@needs_scann
def test_it_finds_nearly_what_exact_search_finds(index):
    queries_QD = unit_vectors(60, 16, seed=1)
    exact = ExactIndex(VECTORS).search(queries_QD, 10)
    found = index.search(queries_QD, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact[0], found[0], strict=True)])
    assert recall > 0.9
    np.testing.assert_allclose(
        found.scores_QK,
        np.take_along_axis(queries_QD @ VECTORS.T, found.positions_QK, axis=1),
        atol=1e-5,
    )


@needs_scann
def test_one_query_finds_what_it_finds_among_others(index):
    queries_QD = unit_vectors(5, 16, seed=2)
    together = index.search(queries_QD, 10).positions_QK
    alone = [index.search(query_D[None], 10).positions_QK[0] for query_D in queries_QD]
    np.testing.assert_array_equal(together, alone)


@needs_scann
def test_saved_without_its_vectors_it_is_the_same(index, tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    index.save(tmp_path / "scann", vectors=tmp_path / "vectors.npy")
    saved_bytes = sum(path.stat().st_size for path in (tmp_path / "scann").iterdir())
    assert saved_bytes < VECTORS.nbytes
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    loaded = ScannIndex.load(moved / "scann")
    queries_QD = unit_vectors(5, 16, seed=3)
    for before, after in zip(
        index.search(queries_QD, 10), loaded.search(queries_QD, 10), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@needs_scann
def test_too_few_found_are_said_to_be_none():
    narrow = ScannSettings(num_leaves=40, leaves_to_search=1, training_size=3000)
    index = ScannIndex.build(VECTORS, narrow)
    together = index.search(unit_vectors(3, 16, seed=4), 500)
    missing = together.positions_QK < 0
    assert missing.any()
    assert (together.scores_QK[missing] == -np.inf).all()
    assert (together.scores_QK[~missing] > -1.01).all()
    alone = index.search(unit_vectors(1, 16, seed=4), 500).positions_QK[0]
    assert len(alone[alone >= 0]) < 500


@needs_scann
def test_it_does_not_bring_tensorflow_along():
    program = (
        "import sys; from coderllm_jax.retrieval.vectors import _scann; _scann(); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
