"""What can be served follows from what lies there; arms that share weights share a lane."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.config.serving import ServingConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Chunk, Query, Sampling, Turn
from coderllm_jax.retrieval.answering import PassageSettings, RetrievalAnswerer
from coderllm_jax.retrieval.building import build_index
from coderllm_jax.retrieval.relevance import Threshold, Thresholds
from coderllm_jax.retrieval.search import Searcher, SearchSettings
from coderllm_jax.retrieval.store import open_index
from coderllm_jax.serving.arms import plan_arms, version_of
from tests.retrieval.hash_embedder import HashEmbedder
from tests.serving.running import lane_of, local, reference, running

CHUNKS = [
    Chunk("clip", "lib.clip(x)\nClips updates to an interval.", "lib 1", "lib.clip"),
    Chunk("tree", "lib.tree(x)\nMaps a function over leaves.", "lib 1", "lib.tree"),
]


def config(tmp_path: Path, **options: Any) -> ServingConfig:
    options = {
        "run": str(tmp_path / "run"),
        "base_model": "tiny",
        "chunks_path": str(tmp_path / "chunks"),
    } | options
    return dataclasses.replace(ServingConfig(), **options)


def write_adapter(folder: Path) -> None:
    folder.mkdir()
    told = {"kind": "lora", "model": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(told))


def test_only_the_base_is_there(tmp_path: Path) -> None:
    plan = plan_arms(config(tmp_path, run="runs/none"))
    assert plan.arms == ("base",)
    assert plan.weights == {"base": "tiny"}
    assert set(plan.missing) == {"trained", "rag", "trained-rag"}
    assert "train first" in plan.missing["trained"]
    assert "prepare" in plan.missing["rag"]


def test_everything_is_there(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run")
    (tmp_path / "chunks").mkdir()
    plan = plan_arms(config(tmp_path))
    assert plan.arms == ("base", "trained", "rag", "trained-rag")
    assert plan.weights == {"trained": str(tmp_path / "run"), "base": "tiny"}
    assert plan.missing == {}
    # The base is what the adapter was trained on, where nobody says otherwise.
    assert plan_arms(config(tmp_path, base_model="")).weights["base"] == "tiny"


def test_weights_that_no_arm_needs_are_not_loaded(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run")
    plan = plan_arms(config(tmp_path, arms=("trained",)))
    assert plan.weights == {"trained": str(tmp_path / "run")}
    assert not plan.looks_up


@pytest.mark.parametrize("arm", ["trained", "rag", "trained-rag"])
def test_an_arm_that_was_named_and_lacks_a_part(tmp_path: Path, arm: str) -> None:
    with pytest.raises(ConfigError, match=f"{arm} cannot be served: .*leave it out of arms"):
        plan_arms(config(tmp_path, run="runs/none", arms=("base", arm)))


def test_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to serve"):
        plan_arms(config(tmp_path, run="runs/none", base_model=str(tmp_path / "no/model")))


def test_versions_change_with_what_can_change_an_answer() -> None:
    version = version_of({"model": {"sha256": "a"}, "prompt": "chat"})
    assert len(version) == 12
    assert version == version_of({"prompt": "chat", "model": {"sha256": "a"}})
    assert version != version_of({"model": {"sha256": "b"}, "prompt": "chat"})


def test_two_arms_on_one_lane_at_the_same_time(tmp_path: Path) -> None:
    """Plain and looking up, interleaved on one engine: each gets its own prompt and sources."""
    build_index(tmp_path / "index", CHUNKS, HashEmbedder(dimensions=4096))
    index = open_index(tmp_path / "index")
    thresholds = Thresholds(dense=Threshold(0.1, 1.0, 0.5, 9))
    manifest = dataclasses.replace(index.manifest, thresholds=thresholds)
    embedder = HashEmbedder(dimensions=4096)
    searcher = Searcher(dataclasses.replace(index, manifest=manifest), embedder, SearchSettings())

    def looking_up(inner: Any) -> RetrievalAnswerer:
        return RetrievalAnswerer(
            inner,
            searcher,
            count_tokens=lambda text: len(text.split()),
            settings=PassageSettings(cite=False),
        )

    inner = local()
    question = "What clips updates?"
    expected = {}
    for arm, answerer in (("base", reference()), ("rag", looking_up(reference()))):
        query = Query(
            "q",
            turns=(Turn("user", question),),
            max_new_tokens=6,
            sampling=Sampling(temperature=1.0, seed=4),
        )
        expected[arm] = answer_all(answerer, [query])[0]
    assert expected["base"].text != expected["rag"].text
    lane = lane_of(inner, {"base": inner, "rag": looking_up(inner)})
    with running(lane, folder=tmp_path) as up:
        client = up.client()
        streams = {}
        for number in range(6):
            arm = ("base", "rag")[number % 2]
            streams[number, arm] = client.chat.completions.create(
                model=arm,
                messages=[{"role": "user", "content": question}],
                max_tokens=6,
                temperature=1,
                seed=4,
                stream=True,
            )
        for (_, arm), stream in streams.items():
            chunks = list(stream)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert text == expected[arm].text
            sources = getattr(chunks[-1], "sources", None)
            assert [s["id"] for s in sources or []] == (["clip"] if arm == "rag" else [])
        nothing = client.chat.completions.create(
            model="rag", messages=[{"role": "user", "content": "zebra quagga"}], max_tokens=6
        )
        assert nothing.choices[0].message.content == "Nothing relevant was found."
        whole = client.chat.completions.create(
            model="rag", messages=[{"role": "user", "content": question}], max_tokens=6
        )
        (source,) = whole.sources
        assert set(source) == {"index", "id", "score", "source"}
        continued = client.completions.create(model="rag", prompt=question, max_tokens=6)
    rows = [json.loads(line) for line in up.log.read_text().splitlines()]
    (row,) = [row for row in rows if row["id"] == nothing.id]
    assert row["refused"]
    assert row["retrieval_s"] > 0
    # In a text that goes on nothing is looked up, nor is it by the plain arm.
    looked_up_nothing = [row for row in rows if row["id"] == continued.id or row["arm"] == "base"]
    assert [row["retrieval_s"] for row in looked_up_nothing] == [None] * 4
    (row,) = [row for row in rows if row["id"] == whole.id]
    assert (row["num_sources"], row["top_score"]) == (1, pytest.approx(source["score"], abs=1e-5))
    assert row["retrieval_s"] > 0
