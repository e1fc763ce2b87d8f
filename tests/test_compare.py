"""A comparison end to end on the tiny model: whole, killed, gone on with, repeated, refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax import ComparisonConfig, run_comparison
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.entry import load_card
from coderllm_jax.errors import ConfigError, RunError
from tests.compared import compare, small_config, train_run, write_world
from tests.evaluation.needs import needs_sandbox
from tests.fakes import Reply, ScriptedEndpoint

ROOT = Path(__file__).resolve().parents[1]
ARMS = ["trained", "rag", "base", "trained_rag"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    train_run(folder)
    return folder


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One comparison of four arms, for many to look at."""
    config = small_config(world, tmp_path_factory.mktemp("whole"))
    config.clu = True
    return compare(config)


def kept(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "answers.jsonl").read_text().splitlines()
    return [json.loads(line)["asked"] for line in lines]


def test_everything_is_written(whole: Any) -> None:
    content = json.loads((whole.folder / "comparison.json").read_text())
    assert content == json.loads(json.dumps(whole.results))
    assert content["status"] == "finished"
    assert [arm["name"] for arm in content["arms"]] == ARMS
    assert [(each["name"], each["num_questions"]) for each in content["sets"]] == [
        ("seen", 8),
        ("unseen", 3),
    ]
    assert whole.report.read_text().startswith("<!doctype html>")
    assert list((whole.folder / "metrics").glob("events*"))
    assert "trained 0." in repr(whole)
    assert [each["use_case"] for each in whole.recommendations][:2] == [
        "best_answers",
        "offline_batch",
    ]


def test_every_arm_answers_every_question_and_every_figure_names_its_items(whole: Any) -> None:
    content = whole.results
    ids = {question["id"] for question in content["questions"]}
    for question in content["questions"]:
        assert set(question["answers"]) == set(ARMS)
    for path, figure in whole.figures.items():
        assert set(figure["items"]) <= ids, path
        assert set(figure["arms"]) <= set(ARMS)
        for estimate in figure["arms"].values():
            assert set(estimate) == {"value", "low", "high", "num_items"}
    scores = whole.figures["accuracy/seen/fact_f1"]
    by_hand = [
        question["answers"]["rag"]["scores"]["fact_f1"]
        for question in content["questions"]
        if question["set"] == "seen"
    ]
    assert scores["arms"]["rag"]["value"] == pytest.approx(sum(by_hand) / 8)


def test_all_dimensions_are_there(whole: Any) -> None:
    assert {
        dimension["name"] for dimension in whole.results["dimensions"] if dimension["figures"]
    } == {
        "accuracy",
        "quality",
        "performance",
        "consistency",
        "cost",
    }
    assert whole.figures["consistency/seen/identical"]["arms"]["base"]["value"] == 1.0
    cost = whole.results["cost"]
    assert cost["arms"]["trained"]["fixed"]["training"] > 0
    assert cost["arms"]["base"]["fixed"] == {}
    assert cost["price_per_chip_hour"] is None


def test_arms_that_look_up_say_what_they_found_and_where_it_may_be_looked_up(whole: Any) -> None:
    for question in whole.results["questions"]:
        found = {source["id"] for source in question["answers"]["rag"]["sources"]}
        known = {f"m.f{n}#0" for n in range(18)}
        assert found
        if question["set"] == "seen":
            assert found <= known  # what is newer is no part of what both had
        assert f"{question['symbol']}#0" in found
        assert question["answers"]["trained"]["sources"] == []
        assert question["answers"]["rag"]["times"]["retrieval_s"] > 0


def test_all_were_asked_alike_and_in_turns(whole: Any) -> None:
    together = [row for row in kept(whole.folder) if row["phase"] == "together"]
    asked = {
        arm: [(row["round"], row["id"]) for row in together if row["arm"] == arm] for arm in ARMS
    }
    assert all(sorted(each) == sorted(asked["base"]) for each in asked.values())
    assert {row["round"] for row in together} == {1, 2, 3}
    first = {next(row["arm"] for row in together if row["round"] == n) for n in (1, 2, 3)}
    assert len(first) > 1


def test_each_arms_prompt_was_chosen_on_other_questions(whole: Any) -> None:
    asked = {question["id"] for question in whole.results["questions"]}
    validation = {
        row["id"].removeprefix("validation/")
        for row in kept(whole.folder)
        if row["phase"] == "validation"
    }
    assert len(validation) == 2
    assert validation.isdisjoint(asked)
    for arm in whole.results["arms"]:
        candidates = arm["prompt"]["candidates"]
        assert len(candidates) >= 2
        assert sum(each["is_chosen"] for each in candidates) == 1


def test_the_next_card_is_a_card(whole: Any) -> None:
    iteration = whole.results["next_iteration"]
    assert iteration["card"] == "next.py"
    asked = {question["id"] for question in whole.results["questions"]}
    assert all(change["items"] and set(change["items"]) <= asked for change in iteration["changes"])
    config = TrainingConfig.from_config_dict(load_card(str(whole.folder / "next.py")))
    assert config.model_name == "tiny"
    assert config.workdir.endswith("run_next")
    changed = {change["option"]: change["after"] for change in iteration["changes"]}
    for option, after in changed.items():
        value = config.get(option)
        assert (list(value) if isinstance(value, tuple) else value) == after


def test_a_second_time_asks_nothing_and_finds_the_same(whole: Any, world: Path) -> None:
    lines = (whole.folder / "answers.jsonl").read_text()
    again = compare(small_config(world, whole.folder))
    assert again.results["results_sha256"] == whole.results["results_sha256"]
    assert again.results["manifest"]["num_asked"] == 0
    assert (whole.folder / "answers.jsonl").read_text() == lines
    assert again.results["latency"] == whole.results["latency"]


def test_another_answer_is_another_hash_and_another_time_is_not(
    whole: Any, world: Path, tmp_path: Path
) -> None:
    rows = (whole.folder / "answers.jsonl").read_text().splitlines()
    place = next(n for n, row in enumerate(rows) if json.loads(row)["asked"]["phase"] == "together")

    def changed(name: str, value: Any) -> str:
        row = json.loads(rows[place])
        row["asked"]["answer"][name] = value
        lines = [*rows[:place], json.dumps(row), *rows[place + 1 :]]
        (tmp_path / name).mkdir()
        (tmp_path / name / "answers.jsonl").write_text("\n".join(lines) + "\n")
        shutil.copy(whole.folder / "rounds.jsonl", tmp_path / name)
        return compare(small_config(world, tmp_path / name)).results["results_sha256"]

    assert changed("text", "Its value is 3.") != whole.results["results_sha256"]
    assert changed("first_token_s", 99.0) == whole.results["results_sha256"]


@pytest.mark.long
def test_a_killed_comparison_ends_with_the_same_hash(
    whole: Any, world: Path, tmp_path: Path
) -> None:
    """In processes of their own; SIGKILL comes in the midst of a round."""
    config = small_config(world, tmp_path / "killed")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(ComparisonConfig.from_config_dict(config).to_dict()))

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.compared", str(file), *more],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    killed = run("74")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(kept(tmp_path / "killed")) == 74
    assert not (tmp_path / "killed" / "comparison.json").exists()
    done = compare(config)
    assert done.results["results_sha256"] == whole.results["results_sha256"]
    missing = len(kept(whole.folder)) - 74
    turn = config.generation.num_slots
    assert missing <= done.results["manifest"]["num_asked"] <= missing + turn  # the cut one, again


def test_the_users_own_questions(world: Path, tmp_path: Path) -> None:
    """The snippet that is promised; what cannot be scored is said, the rest is compared."""
    config = small_config(world, tmp_path, arms=("trained", "rag", "base"))
    config.validation.items = 0
    config.test_queries = ["How to implement LoRA?", "Explain Gemma architecture"]
    result = compare(config)
    (only,) = result.results["sets"]
    assert (only["name"], only["is_scored"]) == ("asked", False)
    assert [each["question"] for each in result.results["questions"]] == list(config.test_queries)
    assert "no reference answer" in result.results["unscored"][0]
    names = set(result.figures)
    assert not any(name.startswith("accuracy/") for name in names)
    assert {"quality/asked/num_words", "quality/asked/clear", "quality/asked/cites"} <= names
    assert {"consistency/asked/agreement", "performance/tokens_per_s"} <= names
    assert "cost/chip_seconds_per_right" not in names
    best = result.recommendations[0]
    assert (best["arm"], best["strength"]) == ("", "none")
    assert not (tmp_path / "next.py").exists()


def test_two_arms_without_retrieval_need_no_chunks(world: Path, tmp_path: Path) -> None:
    config = small_config(world, tmp_path, arms=("trained", "base"), chunks_path="/nonexistent")
    config.validation.items = config.speed.alone_items = config.consistency.items = 0
    result = run_comparison(config)
    assert "quality/seen/cites" not in result.figures
    assert result.results["latency"]["alone"]["base"]["total_s"] == []


def test_an_endpoint_and_a_judge_are_servers(world: Path, tmp_path: Path) -> None:
    """The endpoint knows one answer; the judge takes whoever comes first, which decides nothing."""
    answer = Reply(chunks=((0.0, "Its value is `3.5`, always.", 9),), num_prompt_tokens=20)
    with (
        ScriptedEndpoint(answer) as server,
        ScriptedEndpoint(Reply(chunks=((0, "A", 1),))) as judge,
    ):
        config = small_config(world, tmp_path, arms=("base", "endpoint"))
        config.validation.items = config.consistency.items = 0
        config.endpoint.update(url=server.url, model="theirs")
        config.judge.update(url=judge.url, model="judge", max_items=2)
        config.prices.update(tokens_in_million=1.0, tokens_out_million=10.0, source="a test")
        result = compare(config)
    arms = {arm["name"]: arm for arm in result.results["arms"]}
    assert arms["endpoint"]["model"] == "theirs"
    assert arms["endpoint"]["prompt"]["chosen"] == "the server's own"
    assert result.figures["quality/seen/clear"]["arms"]["endpoint"]["value"] == 1.0
    cost = result.results["cost"]["arms"]["endpoint"]
    assert cost["chip_seconds_per_1000"]["value"] is None
    assert cost["price_per_1000"]["value"] == pytest.approx((20 + 9 * 10) / 1e6 * 1000)
    assert "quality/seen/judge_preferred" not in result.figures
    assert any("the judge was asked about" in note for note in result.results["notes"])
    assert len(server.requests) == 6 + 11  # alone, together; nothing to warm up, nothing to choose


@needs_sandbox
def test_human_eval_where_it_is_asked_for(world: Path, tmp_path: Path) -> None:
    config = small_config(world, tmp_path, arms=("base", "rag"), human_eval=2, unseen_items=0)
    config.validation.items = config.consistency.items = config.speed.alone_items = 0
    result = compare(config)
    figure = result.figures["accuracy/human_eval"]
    assert figure["arms"].keys() == {"base"}
    assert figure["arms"]["base"]["num_items"] == 2
    assert any("HumanEval" in text for text in result.results["unscored"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"run": "runs/none"}, RunError, "train first"),
        ({"run": "tiny"}, ConfigError, "run is 'tiny', which is a model by name"),
        ({"chunks_path": "/nonexistent"}, ConfigError, "chunks_path is .*prepare"),
        ({"items_path": "/nonexistent"}, ConfigError, "items_path is .*prepare"),
        ({"arms": ("base",)}, ConfigError, "expected at least two"),
        ({"arms": ("base", "endpoint")}, ConfigError, "endpoint.url is empty"),
        ({"test_queries": ["a", "  "]}, ConfigError, "empty question .number 2"),
    ],
)
def test_mistakes_end_in_one_line(
    world: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    config = copy.deepcopy(small_config(world, tmp_path, **changes))
    with pytest.raises(error, match=words) as caught:
        compare(config)
    assert "\n" not in str(caught.value)
