"""An evaluation end to end on the tiny model: kept, gone on with, repeated, compared, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from coderllm_jax import EvaluationConfig, evaluate_model
from coderllm_jax.errors import ConfigError, RunError
from coderllm_jax.evaluation.asking import read_kept
from coderllm_jax.evaluation.tasks import load_human_eval
from tests.evaluation.needs import needs_sandbox

ROOT = Path(__file__).resolve().parents[1]
ITEM = {"source": "m", "kind": "what", "license": "MIT", "tests": "", "symbol": ""}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty questions of each split; two ask for a program."""
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    with path.open("w") as file:
        for split in ("seen", "unseen"):
            for i in range(20):
                row = {
                    "id": f"{split}:{i}",
                    "question": f"What is {split}{i}?",
                    "answer": f"It adds {i}.",
                }
                row |= {"facts": [str(i)], "split": split, **ITEM}
                if i == 0:
                    row["tests"] = "assert f(1) == 2"
                file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def config(tmp_path: Path, items: Path, cache: str) -> ConfigDict:
    values = EvaluationConfig.create_default()
    values.model_path = "tiny"
    values.workdir = str(tmp_path)
    values.items_path = str(items)
    values.benchmark_suite = ("code_generation", "qa_accuracy")
    values.model.cache_dir = cache
    values.generation.num_slots = 4
    values.code.sets = ("human_eval", "items")
    values.code.max_problems = 2
    values.code.max_new_tokens = 16
    values.answers.max_items = 8
    values.answers.max_new_tokens = 12
    values.clu = False
    return values


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_figures_samples_manifest_and_page_are_written(config: ConfigDict) -> None:
    config.clu = True
    result = evaluate_model(config)
    content = read(result.folder)
    assert content == json.loads(json.dumps(result.results))
    assert content["status"] == "finished"
    assert set(content["suites"]) == {"code_generation", "qa_accuracy"}
    assert content["suites"]["qa_accuracy"]["figures"]["seen/fact_f1"]["num_items"] == 4
    rows = read_lines(result.folder / "samples.jsonl")
    assert {row["suite"] for row in rows} == {"code_generation", "qa_accuracy"}
    assert len({(row["suite"], row["id"]) for row in rows}) == len(rows)
    manifest = content["manifest"]
    assert manifest["answerer"]["model"]["name"] == "tiny"
    assert manifest["answerer"]["setting"]["num_slots"] == 4
    assert manifest["answerer"]["prompt"]["kind"] == "few_shot"
    assert len(manifest["items"]["sha256"]) == 64
    assert "jax" in manifest["versions"]
    assert result.report.read_text().startswith("<!doctype html>")
    assert list((result.folder / "metrics").glob("events*"))
    assert "fact_f1" in repr(result)


def test_a_second_time_is_taken_over_and_another_option_is_measured(config: ConfigDict) -> None:
    first = evaluate_model(config)
    answers = (first.folder / "answers.jsonl").read_text()
    second = evaluate_model(config)
    assert second.results["results_sha256"] == first.results["results_sha256"]
    assert (first.folder / "answers.jsonl").read_text() == answers
    config.answers.max_new_tokens = 5
    third = evaluate_model(config)
    assert third.results["results_sha256"] != first.results["results_sha256"]
    kept = read_kept(third.folder / "answers.jsonl", "answer")
    assert len(kept) == len(answers.splitlines()) + 8
    config.reuse = False
    evaluate_model(config)
    assert len(read_kept(third.folder / "answers.jsonl", "answer")) == len(kept) - 8


def command(config: ConfigDict, *more: str) -> list[str]:
    """The command line that asks for this configuration."""
    words = [
        f"--config.{name}={value}"
        for name, value in {
            "model_path": config.model_path,
            "workdir": config.workdir,
            "items_path": config.items_path,
            "benchmark_suite": ",".join(config.benchmark_suite),
            "model.cache_dir": config.model.cache_dir,
            "generation.num_slots": config.generation.num_slots,
            "code.sets": ",".join(config.code.sets),
            "code.max_problems": config.code.max_problems,
            "code.max_new_tokens": config.code.max_new_tokens,
            "answers.max_items": config.answers.max_items,
            "answers.max_new_tokens": config.answers.max_new_tokens,
            "clu": config.clu,
        }.items()
    ]
    return [sys.executable, "-m", "coderllm_jax.evaluate", *words, *more]


def environment(**changes: str) -> Mapping[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "", **changes}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 42)])
def test_a_killed_evaluation_ends_with_the_same_hash(
    config: ConfigDict, tmp_path: Path, number: int, code: int
) -> None:
    config.workdir = str(tmp_path / "whole")
    whole = evaluate_model(config)
    config.workdir = str(tmp_path / "killed")
    answers = tmp_path / "killed" / "evaluation" / "answers.jsonl"
    process = subprocess.Popen(
        command(config), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and len(read_kept(answers, "answer")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    if code == 42:
        assert said.splitlines()[-1].endswith("the same command goes on")
    kept = len(read_kept(answers, "answer"))
    assert 2 <= kept < 12
    again = evaluate_model(config)
    assert again.results["results_sha256"] == whole.results["results_sha256"]


@needs_sandbox
def test_a_drop_fails_the_gate_with_3_and_the_same_answers_pass(
    config: ConfigDict, tmp_path: Path
) -> None:
    config.benchmark_suite = ("code_generation", "qa_accuracy", "regression")
    config.answers.max_items = 40
    config.regression.update_baseline = True
    folder = evaluate_model(config).folder
    assert (folder / "baseline.json").is_file()
    config.regression.update_baseline = False
    assert evaluate_model(config).gate == "passed"
    # An earlier evaluation, of a model that had known every answer.
    results = read(folder)
    rows = read_lines(folder / "samples.jsonl")
    for row in rows:
        row["scores"] = dict.fromkeys(row["scores"], 1.0)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "results.json").write_text(json.dumps(results))
    (earlier / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        command(config, f"--config.regression.baseline={earlier}"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "regression gate: failed" in done.stdout) == (3, True), done.stderr


@needs_sandbox
def test_samples_of_elsewhere_are_judged_without_a_model(
    config: ConfigDict, tmp_path: Path
) -> None:
    tasks = load_human_eval()
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"task_id": "HumanEval/3", "completion": tasks["HumanEval/3"].reference}) + "\n"
    )
    config.samples = str(path)
    config.model_path = "runs/none"
    result = evaluate_model(config)
    rows = read_lines(result.folder / "samples.jsonl")
    assert [row["verdict"] for row in rows] == ["passed"]
    assert result.figures["code_generation/human_eval/pass@1"]["value"] == 1.0
    assert result.report.is_file()


def test_mistakes_end_before_anything_is_computed(config: ConfigDict, tmp_path: Path) -> None:
    config.model_path = "runs/none"
    with pytest.raises(RunError, match="train first"):
        evaluate_model(config)
    config.model_path = "tiny"
    config.items_path = str(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="items_path"):
        evaluate_model(config)
    config.benchmark_suite = ()
    with pytest.raises(ConfigError, match="benchmark_suite is empty"):
        evaluate_model(config)
    config.benchmark_suite = ("code",)
    with pytest.raises(ConfigError, match="code_generation"):
        evaluate_model(config)


def test_two_evaluations_of_one_folder_do_not_mix(config: ConfigDict, tmp_path: Path) -> None:
    from coderllm_jax.training.run_folder import RunFolder

    with RunFolder(tmp_path / "evaluation").locked(), pytest.raises(RunError, match="in use"):
        evaluate_model(config)


def test_the_user_s_snippet(config: ConfigDict, cache: str) -> None:
    """As DESIGN.md has it: the defaults, a path, two suites by name."""
    mine = EvaluationConfig.create_default()
    mine.model_path = "tiny"
    mine.benchmark_suite = ["code_generation", "qa_accuracy"]
    for section in ("model", "generation", "code", "answers"):
        mine[section].update(config[section])
    mine.workdir, mine.items_path = config.workdir, config.items_path
    assert evaluate_model(mine).results["status"] == "finished"
