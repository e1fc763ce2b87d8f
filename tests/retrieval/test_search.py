"""Vectors, words and names find what the others do not; only relevant hits say they are."""

from __future__ import annotations

import pytest

from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk
from coderllm_jax.retrieval.building import build_index
from coderllm_jax.retrieval.relevance import Pair
from coderllm_jax.retrieval.search import Searcher, SearchSettings
from coderllm_jax.retrieval.store import open_index
from tests.retrieval.hash_embedder import HashEmbedder

pytest.importorskip("bm25s")
TEXTS = {
    "adam": "optax.adam(learning_rate)\nThe Adam optimizer with two moments.",
    "adamw": "optax.adamw(learning_rate, weight_decay)\nAdam with decoupled weight decay.",
    "clip": "optax.clip_by_global_norm(max_norm)\nClips updates by their global norm.",
    "state": "optax.ScaleByAdamState(count, mu, nu)\nState for the Adam algorithm.",
    "tree": "optax.tree_utils.tree_add(tree_x, tree_y)\nAdds two pytrees.",
}
CHUNKS = [Chunk(name, text, "optax 1", name) for name, text in TEXTS.items()]
# The shuffled pairs share a word, so that the threshold is above what shares none.
PAIRS = [
    Pair("optax adam optimizer with moments", ("adam",)),
    Pair("optax decoupled weight decay", ("adamw",)),
    Pair("optax clips updates by norm", ("clip",)),
    Pair("optax adds two pytrees", ("tree",)),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    build_index(folder, CHUNKS, HashEmbedder(dimensions=4096), pairs=PAIRS)
    return open_index(folder)


def search(index, question, k=3, **settings):
    searcher = Searcher(index, HashEmbedder(dimensions=4096), SearchSettings(**settings))
    return searcher.search(question, k)


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize(
    ("question", "first"),
    [("clips updates", "clip"), ("weight decay", "adamw"), ("adds pytrees", "tree")],
)
def test_every_mode_finds_the_passage(index, mode, question, first):
    assert search(index, question, mode=mode).hits[0].chunk.id == first


def test_a_name_wins_against_the_words_around_it(index):
    question = "Does the Adam optimizer with two moments and weight decay use ScaleByAdamState?"
    assert search(index, question).hits[0].chunk.id == "state"
    assert search(index, question, name_weight=0.0).hits[0].chunk.id != "state"
    named = {hit.chunk.id for hit in search(index, question, k=5).hits if hit.is_named}
    assert named == {"state"}


def test_scores_fall_and_the_first_of_every_ranking_has_1(index):
    hits = search(index, "optax.clip_by_global_norm clips updates by their global norm", k=5).hits
    assert hits[0].score == pytest.approx(1)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.position for hit in hits}) == len(hits) == 5


def test_a_question_about_nothing_here_finds_nothing_relevant(index):
    found = search(index, "boil eggs slowly")
    assert found.hits
    assert not any(hit.is_relevant for hit in found.hits)
    assert search(index, "weight decay of adam").hits[0].is_relevant


def test_a_named_passage_is_relevant_whatever_its_similarity(index):
    hit = search(index, "boil eggs slowly in tree_add").hits[0]
    assert (hit.chunk.id, hit.is_named, hit.is_relevant) == ("tree", True, True)


def test_without_a_threshold_all_is_relevant(tmp_path):
    build_index(tmp_path, CHUNKS, HashEmbedder(dimensions=4096), pairs=PAIRS, missed_fraction=0.0)
    found = search(open_index(tmp_path), "boil eggs")
    assert found.hits
    assert all(hit.is_relevant for hit in found.hits)


def test_word_search_embeds_nothing(index):
    class Silent(HashEmbedder):
        def embed_queries(self, texts):
            raise AssertionError

    searcher = Searcher(index, Silent(dimensions=4096), SearchSettings(mode="lexical"))
    assert searcher.search("weight decay", 2).hits[0].chunk.id == "adamw"


def test_an_index_of_another_model_is_not_searched(index):
    with pytest.raises(DataError, match="another embedding"):
        Searcher(index, HashEmbedder("other", dimensions=4096))


def test_equal_searches_are_equal(index):
    first, second = (search(index, "adam weight decay", k=5).hits for _ in range(2))
    assert first == second


def test_more_than_there_are_is_all_there_are(index):
    assert len(search(index, "adam", k=99).hits) == len(CHUNKS)
    assert search(index, "???", k=2, mode="lexical").hits == ()
