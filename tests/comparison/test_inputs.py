"""What a comparison reads: who may look up what, whose rows are shown, what training took."""

from __future__ import annotations

import dataclasses
import json

import pytest

from coderllm_jax.comparison.inputs import read_inputs
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.errors import ConfigError
from tests.compared import write_world


@pytest.fixture
def world(tmp_path):
    """The world, and a run that says it was trained on its rows."""
    write_world(tmp_path)
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text('{"kind": "lora"}')
    config = {"model_name": "tiny", "data": {"path": str(tmp_path / "rows.jsonl")}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "manifest.json").write_text('{"devices": {"platform": "gpu", "count": 4}}')
    (run / "report" / "summary.json").write_text('{"wall_s": 100.0}')
    times = {f"m.f{n}": 2 for n in range(18)} | {"m.f17": 1}
    (run / "training_rows.json").write_text(json.dumps({"times_seen_by_symbol": times}))
    return tmp_path


def config(world, **changes):
    values = {
        "run": str(world / "run"),
        "items_path": str(world / "items.jsonl"),
        "chunks_path": str(world / "chunks"),
        **changes,
    }
    return dataclasses.replace(ComparisonConfig(), **values)


def test_what_is_known_and_what_is_newer(world):
    found = read_inputs(config(world))
    assert {chunk.id for chunk in found.chunks["known"]} == {f"m.f{n}#0" for n in range(18)}
    assert len(found.chunks["everything"]) == 24
    assert found.symbol_of["m.f20#0"] == "m.f20"
    assert found.chosen.left_out == {"trained on, but once only": 1}
    assert len(found.chosen.of_set("unseen")) == 6


def test_an_index_that_no_question_needs_is_not_built(world):
    assert set(read_inputs(config(world, unseen_items=0)).chunks) == {"known"}
    own = read_inputs(config(world, test_queries=("What?",)))
    assert set(own.chunks) == {"everything", "known"}  # prompts are chosen on what is known
    assert read_inputs(config(world, arms=("trained", "base"), chunks_path="")).chunks == {}


def test_without_trained_chunks_everything_is_known(world):
    (world / "chunks" / "trained.jsonl").rename(world / "chunks" / "all.jsonl")
    found = read_inputs(config(world))
    assert len(found.chunks["known"]) == 24


def test_examples_are_the_runs_own_rows(world):
    found = read_inputs(config(world))
    assert len(found.examples) == 18
    (question, answer), *_ = found.shots
    assert question.startswith("What is the value of m.f")
    assert answer.startswith("Its value is")


def test_training_is_what_the_runs_chips_took(world):
    found = read_inputs(config(world))
    assert found.fixed == {"trained": {"training": 400.0}, "trained_rag": {"training": 400.0}}
    (world / "run" / "report" / "summary.json").unlink()
    assert read_inputs(config(world)).fixed == {}


def test_own_questions_need_no_items(world):
    assert read_inputs(config(world, test_queries=("What?",))).chosen.validation != ()
    with pytest.raises(ConfigError, match="items_path"):
        read_inputs(config(world, test_queries=("What?",), items_path=str(world / "gone")))


def test_nothing_to_compare_on_is_said(world):
    rows = [json.loads(line) for line in (world / "items.jsonl").read_text().splitlines()]
    (world / "items.jsonl").write_text(
        "".join(json.dumps({**row, "symbol": "another.name"}) + "\n" for row in rows)
    )
    with pytest.raises(ConfigError, match="none of the 24 evaluation items"):
        read_inputs(config(world))
