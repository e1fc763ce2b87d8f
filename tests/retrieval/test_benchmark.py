"""The benchmark's figures are what a hand counts, and a missed target is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import retrieval
from benchmarks.retrieval import (
    Asked,
    Quality,
    asked_of_items,
    asked_of_paraphrases,
    judge,
    make_vectors,
    missed_targets,
    quality_table,
    recall_of,
    scale_table,
)
from benchmarks.retrieval_questions import OFF_TOPIC, PARAPHRASES
from coderllm_jax.records import Chunk, EvalItem
from coderllm_jax.retrieval.vectors import scann_problem


def test_quality_by_hand():
    rankings = [["a", "b"], ["b", "a", "c"], ["c", "d", "e", "f", "g", "a"], ["a"]]
    relevant = [{"a": 1.0}, {"a": 1.0, "z": 1.0}, {"a": 1.0}, {}]
    found = judge(rankings, relevant)
    assert (found.recall_1, found.recall_5, found.num_questions) == pytest.approx((1 / 3, 2 / 3, 3))
    assert found.mrr == pytest.approx((1 + 1 / 2 + 1 / 6) / 3)
    assert found.context_precision == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_the_right_passage_is_of_the_symbol_and_its_source():
    chunks = [
        Chunk("1", "t", "lib 1", "f"),
        Chunk("2", "t", "lib 2", "f"),
        Chunk("3", "t", "lib 1", "g"),
    ]
    assert Asked("q", ("f",), True, "lib 1").gains(chunks) == {"1": 1.0}
    assert set(Asked("q", ("f", "g"), True).gains(chunks)) == {"1", "2", "3"}


def test_halves_are_about_even_and_questions_are_all_different():
    items = [EvalItem(f"seen:lib.f{n}", "q", "a", "seen") for n in range(200)]
    for asked in (asked_of_items(items), asked_of_paraphrases()):
        assert 0.4 < sum(each.is_validation for each in asked) / len(asked) < 0.6
    questions = [*(question for question, _ in PARAPHRASES), *OFF_TOPIC]
    assert len(set(questions)) == len(questions)


def test_vectors_are_clustered_as_said():
    vectors_ND, queries_QD = make_vectors(5000, 384, num_queries=50, seed=0)
    assert vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-5)
    cosines_QN = np.sort(queries_QD @ vectors_ND.T, axis=1)
    assert 0.55 < np.median(cosines_QN[:, -5]) < 0.7  # of the same cluster
    again, _ = make_vectors(5000, 384, num_queries=50, seed=0)
    np.testing.assert_array_equal(vectors_ND, again)


def test_recall_is_the_part_that_was_found():
    expected = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall_of(np.array([[4, 3, 9, -1], [5, 6, 7, 8]]), expected) == 0.75


QUALITY = Quality(0.9, 0.95, 0.9, 0.9, 0.9, 100)._asdict()
FOUND = {
    "quality": {
        "quality": {
            f"items, {half}": dict.fromkeys(("dense", "lexical", "hybrid"), QUALITY)
            for half in ("other half", "all")
        },
        "answered": {"items": 1.0, "paraphrases": 0.8, "off_topic": 0.0},
        "search_s": {"embed": 0.02, "search": 0.001},
        "threshold": {"value": 0.35},
        "num_chunks": 305,
        "build_s": 20.0,
        "open_s": 1.0,
    },
    "scale": {
        "recall_10": 0.97,
        "queries_per_s": {
            "exact": {"single": 10.0, "batched": 100.0},
            "scann": {"single": 900.0, "batched": 5000.0},
        },
        "speedup": {"single": 90.0, "batched": 50.0},
        "vectors": 1_000_000,
        "dimensions": 384,
        "batch": 512,
        "build_s": 100.0,
        "cosine_first": 0.7,
        "cosine_tenth": 0.6,
        "peak_memory_bytes": 2**32,
    },
}


def test_reached_targets_are_no_news():
    assert missed_targets(FOUND) == []
    assert missed_targets({}) == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("quality", "quality", "items, all", "hybrid", "recall_5"), 0.8, "all is 0.800"),
        (("scale", "recall_10"), 0.94, "recall@10 is 0.940; expected at least 0.95"),
        (("scale", "speedup", "single"), float("nan"), "single is nan"),
    ],
)
def test_a_missed_target_is_told(path, value, line):
    found = json.loads(json.dumps(FOUND))  # a deep copy keeps what is one dict twice
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (told,) = missed_targets(found)
    assert line in told


def test_tables_show_the_figures():
    assert "0.950" in quality_table(FOUND["quality"])
    assert "80.0% of the paraphrases" in quality_table(FOUND["quality"])
    table = scale_table(FOUND["scale"])
    assert "1,000,000 clustered synthetic vectors" in table
    assert "90.0" in table
    page = retrieval.page(table, dict(retrieval._conditions(), wall_s=60.0))
    assert table in page


@pytest.mark.skipif(bool(scann_problem()), reason=scann_problem())
def test_a_small_scale_is_measured(monkeypatch):
    monkeypatch.setattr(retrieval, "_ROUNDS", 1)
    figures = retrieval.measure_scale(2000, 64, batch=16, seed=0)
    assert figures["recall_10"] > 0.8
    assert set(figures["speedup"]) == {"single", "batched"}
    assert "2,000 clustered" in scale_table(figures)
