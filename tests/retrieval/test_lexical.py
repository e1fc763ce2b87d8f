"""BM25's scores are the formula's, the order is one in every process, and a saved index is it."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.retrieval.lexical import K1, B, LexicalIndex
from coderllm_jax.retrieval.words import split_words

pytest.importorskip("bm25s")
TEXTS = [
    "optax.scale_by_adam rescales updates; adam, adam",
    "optax.scale_by_lion rescales updates",
    "State for the Adam algorithm",
    "…",
]


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    return LexicalIndex.build(TEXTS)


def expected_score(query: str, position: int) -> float:
    """Lucene's BM25, spelled out."""
    documents = [split_words(text).all for text in TEXTS]
    average = sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in dict.fromkeys(split_words(query).all):
        holding = sum(word in document for document in documents)
        idf = math.log(1 + (len(TEXTS) - holding + 0.5) / (holding + 0.5))
        count = documents[position].count(word)
        length = len(documents[position]) / average
        total += idf * count / (count + K1 * (1 - B + B * length))
    return total


@pytest.mark.parametrize("query", ["adam", "adam updates adam", "rescales by lion", "unknown adam"])
def test_scores_are_bm25s(index, query):
    scores = index.score(query)
    expected = [expected_score(query, position) for position in range(len(TEXTS))]
    np.testing.assert_allclose(scores.all_N, expected, rtol=1e-5)
    assert all(score < scores.ceiling for score in scores.all_N)


def test_a_spoken_name_finds_the_name(index):
    assert index.score("scale by adam").all_N.argmax() == 0
    assert index.score("scale by lion").all_N.argmax() == 1


def test_names_score_apart(index):
    scores = index.score("what does optax.scale_by_lion do to updates?")
    assert scores.names_N.nonzero()[0].tolist() == [1]
    assert scores.all_N[0] > 0
    assert not index.score("updates of lion").names_N.any()


def test_unknown_words_weigh_most_in_the_ceiling(index):
    assert index.score("nonsense").ceiling > index.score("lion").ceiling > 0
    assert index.score("nonsense lion").share(1) < index.score("lion").share(1)
    nothing = index.score("the … ?")
    assert (nothing.ceiling, nothing.share(0), nothing.all_N.any()) == (0, 0, False)


def test_saved_and_loaded_scores_are_equal(index, tmp_path):
    index.save(tmp_path)
    loaded = LexicalIndex.load(tmp_path)
    for query in ("adam", "optax.scale_by_lion", "", "unknown"):
        for before, after in zip(index.score(query), loaded.score(query), strict=True):
            np.testing.assert_array_equal(before, after)


def test_files_are_the_same_whatever_the_hash_seed(index, tmp_path):
    index.save(tmp_path / "here")
    program = (
        "import sys; from pathlib import Path; "
        "from coderllm_jax.retrieval.lexical import LexicalIndex; "
        f"LexicalIndex.build({TEXTS!r}).save(Path(sys.argv[1])); "
        "assert 'jax' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "there")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    files = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert files
    for name in files:
        assert sha256_of(tmp_path / "here" / name) == sha256_of(tmp_path / "there" / name), name


def test_texts_without_words_can_be_indexed():
    assert not LexicalIndex.build(["…", ""]).score("word").all_N.any()
