"""Who answers, over which weights, with what before the question."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from coderllm_jax.comparison import arms as arms_module
from coderllm_jax.comparison.arms import Arms, base_model, warm_up
from coderllm_jax.comparison.prompts import Plan
from coderllm_jax.comparison.rounds import Book
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Chunk, Query
from tests.comparison.made import TableAnswerer
from tests.retrieval.hash_embedder import HashEmbedder

KNOWN = [
    Chunk(f"f{n}#0", f"m.f{n}\nIts value is {n}.5.", "m 1", symbol=f"m.f{n}") for n in range(6)
]
NEWER = [Chunk("g#0", "m.g\nIts value is 9.5.", "m 1", symbol="m.g")]
SHOTS = (("What is m.f1?", "Its value is 1.5."), ("What is m.f2?", "Its value is 2.5."))


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """rag and base over the tiny model."""
    folder = tmp_path_factory.mktemp("arms")
    values = ComparisonConfig.create_default()
    values.update(arms=("rag", "base"), base_model="tiny", run="")
    values.generation.num_slots = 2
    values.generation.max_length = 512
    values.retrieval.index_dir = str(folder / "index")
    values.retrieval.passage_tokens = 160
    values.model.cache_dir = str(folder / "cache")
    opened = Arms(
        ComparisonConfig.from_config_dict(values),
        chunks={"known": KNOWN, "everything": [*KNOWN, *NEWER]},
        examples=(),
        shots=SHOTS,
        embedder=HashEmbedder(),
    )
    yield opened
    opened.close()


def plan(**changes):
    return Plan(**{"kind": "few_shot", "shots": 2, "passages": 2, **changes})


def test_arms_of_the_same_weights_share_an_engine(arms):
    rag, base = arms.arms
    assert (rag.weights, base.weights, rag.looks_up, base.looks_up) == ("base", "base", True, False)
    with_passages = arms.answerer(rag, plan(), "known")
    plain = arms.answerer(base, plan(passages=0), "known")
    assert with_passages.inner.engine is plain.engine
    assert (with_passages.name, plain.name) == ("rag", "base")


def test_memory_is_counted_of_what_each_arm_needs(arms):
    rag, base = arms.arms
    engine = arms.answerer(base, plan(passages=0), "known").engine
    assert base.memory["weights"] >= sum(leaf.nbytes for leaf in jax.tree.leaves(engine.weights))
    assert base.memory["weights"] < 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(engine.weights))
    assert base.memory["cache"] > 0
    assert set(base.memory) == {"weights", "cache"}
    assert set(rag.memory) == {"weights", "cache", "index", "embedder"}
    assert rag.memory["index"] > 0


def test_each_plan_and_corpus_is_another_identity(arms):
    rag, base = arms.arms
    plans = [
        arms.answerer(rag, plan(), "known"),
        arms.answerer(rag, plan(), "everything"),
        arms.answerer(rag, plan(passages=1), "known"),
        arms.answerer(rag, plan(cites=True), "known"),
        arms.answerer(rag, plan(shows_passages=True), "known"),
        arms.answerer(base, plan(passages=0), "known"),
        arms.answerer(base, plan(passages=0, shots=1), "known"),
        arms.answerer(base, Plan("chat"), "known"),
    ]
    identities = {json.dumps(each.identity, sort_keys=True, default=str) for each in plans}
    assert len(identities) == len(plans)


def test_a_corpus_holds_what_it_says(arms):
    rag = arms.arms[0]
    for corpus, ids in (("known", {"f3#0"}), ("everything", {"g#0"})):
        question = "What is m.f3?" if corpus == "known" else "What is m.g?"
        block = arms.answerer(rag, plan(), corpus).look_up(question)
        assert ids <= {hit.chunk.id for hit in block.hits}
    block = arms.answerer(rag, plan(), "known").look_up("What is m.g?")
    assert "g#0" not in {hit.chunk.id for hit in block.hits}
    assert arms.indexes["known"]["chunks"] == 6
    assert arms.indexes["everything"]["chunks"] == 7


def test_examples_have_passages_and_cite_the_one_they_rest_on(arms):
    rag = arms.arms[0]
    style = arms.answerer(rag, plan(shows_passages=True, cites=True), "known").inner.style
    for (question, answer), (asked, said) in zip(style.shots, SHOTS, strict=True):
        assert question.endswith(asked)
        assert "[1]\n" in question
        assert answer.startswith(said)
        number = int(answer.rsplit("[", 1)[1].rstrip("]"))
        cited = question.split(f"[{number}]\n")[1].split("\n[")[0]
        assert said.split()[-1].rstrip(".") in cited
    plain = arms.answerer(rag, plan(shows_passages=True), "known").inner.style
    assert [answer for _, answer in plain.shots] == [answer for _, answer in SHOTS]
    assert arms.answerer(rag, plan(), "known").inner.style.shots == SHOTS


def test_no_arm_finds_anything_of_another_ones_prompt(arms, tmp_path):
    """The engine is idle between turns and keeps no prompt that was answered."""
    rag, base = arms.arms
    query = Query.from_question("q", "What is m.f1?", max_new_tokens=2)
    book = Book(tmp_path)
    for arm, its_plan in ((base, plan(passages=0)), (rag, plan()), (base, plan(passages=0))):
        answerer = arms.answerer(arm, its_plan, "known")
        ((answer,), turn) = book.ask(arm.name, answerer, [query], phase="p")
        assert answer.finish in ("stop", "length")
        assert turn.num_answers == 1
        assert answerer.is_idle
    assert not arms.answerer(base, plan(passages=0), "known").engine._prefixes


def test_after_warming_up_nothing_is_compiled(arms):
    rag = arms.arms[0]
    answerer = arms.answerer(rag, plan(), "known")
    warm_up(answerer, max_length=512)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        answer_all(answerer, [Query.from_question("q", "What is m.f4, please?", max_new_tokens=3)])
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_warming_up_asks_for_every_length_and_one_question():
    table = TableAnswerer(lambda question: "x")
    warm_up(table, max_length=256)
    (asked,) = table.asked
    assert [len(each.split()) for each in asked] == [32, 64, 128, 3]


def config(**changes):
    values = {"arms": ("trained", "base"), **changes}
    return dataclasses.replace(ComparisonConfig(), **values)


def test_the_bases_model_is_the_one_that_was_trained(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model_name": "hf://org/name"}')
    (run / "manifest.json").write_text("{}")
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text('{"kind": "lora", "model": "other"}')
    assert base_model(config(run=str(run))) == "hf://org/name"
    assert base_model(config(run=str(run), base_model="tiny")) == "tiny"
    alone = tmp_path / "adapter"
    alone.mkdir()
    (alone / "adapter_config.json").write_text('{"kind": "lora", "model": "other"}')
    assert base_model(config(run=str(alone))) == "other"
    assert base_model(config(run="", arms=("rag", "base"))) == "gemma3_270m"


def test_a_run_that_does_not_say_its_model_asks_for_it(tmp_path):
    with pytest.raises(ConfigError, match="set base_model"):
        base_model(config(run=str(tmp_path)))


def test_best_support_is_the_passage_that_says_it():
    passages = ("m.f1 is one.", "The value is 2.5 of m.f2.")
    assert arms_module._best_support("Its value is 2.5.", passages) == 2
