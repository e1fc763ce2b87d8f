"""What a judge, HumanEval and a deployment add."""

from __future__ import annotations

import shlex

import pytest

from coderllm_jax.comparison.deployment import deployments
from coderllm_jax.comparison.human_eval import ask_human_eval
from coderllm_jax.comparison.judging import judge_arms
from coderllm_jax.comparison.rounds import Book
from coderllm_jax.comparison.scoring import score
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.config.serving import ServingConfig
from coderllm_jax.entry import resolve_config
from coderllm_jax.evaluation.tasks import load_human_eval
from coderllm_jax.records import Answer
from tests.comparison.made import TableAnswerer, answer, question
from tests.comparison.test_recommendations import findings
from tests.evaluation.needs import needs_sandbox


def scored(texts):
    return [
        score(question(n), answer(text), looks_up=False, right_from=0.8, symbol_of={})
        for n, text in enumerate(texts)
    ]


def judge(prefer, *, by_place=""):
    """Prefers answers that hold `prefer`; or always the first or second place."""
    asked = []

    def ask(queries):
        asked.extend(queries)
        replies = []
        for query in queries:
            first = query.question.split("[Answer A]")[1].split("[End of answer A]")[0]
            second = query.question.split("[Answer B]")[1].split("[End of answer B]")[0]
            word = by_place or ("A" if prefer in first else "B" if prefer in second else "TIE")
            replies.append(Answer(query.id, word, "stop"))
        return replies

    ask.asked = asked
    return ask


def test_a_judge_prefers_in_both_orders_or_not_at_all():
    arms = {"trained": scored(["good", "good", "x"]), "base": scored(["x", "x", "good"])}
    ask = judge("good")
    found = judge_arms(arms, ask, set_name="seen", max_items=10)
    (figure,) = found.figures
    assert figure.arms["trained"].value == pytest.approx(2 / 3)
    assert figure.arms["base"].value == pytest.approx(1 / 3)
    assert len(ask.asked) == 6
    assert "3 pairs in both orders" in found.notes[0]


def test_a_judge_that_looks_at_the_place_decides_nothing():
    arms = {"trained": scored(["good"]), "base": scored(["x"])}
    found = judge_arms(arms, judge("", by_place="A"), set_name="seen", max_items=10)
    assert found.figures == []
    assert "1 clear verdicts, 0 of them the same" in found.notes[0]


def test_a_judge_is_asked_about_so_many_and_about_answers_alone():
    arms = {"a": scored(["good", "", "good"]), "b": scored(["x", "x", "x"])}
    ask = judge("good")
    judge_arms(arms, ask, set_name="seen", max_items=1)
    assert len(ask.asked) == 2
    ask = judge("good")
    judge_arms(arms, ask, set_name="seen", max_items=10)
    assert len(ask.asked) == 4  # what was not answered is no pair


@needs_sandbox
def test_human_eval_is_asked_and_judged_problem_by_problem(tmp_path):
    tasks = list(load_human_eval().values())[:2]

    def solve(text):
        return next(task.reference for task in tasks if task.prompt.startswith(text))

    right = TableAnswerer(solve, identity={"model": {"is_instructed": False}, "n": 1})
    wrong = TableAnswerer(
        lambda text: "    return None\n", identity={"model": {"is_instructed": False}, "n": 2}
    )
    passed = ask_human_eval(
        Book(tmp_path),
        {"trained": right, "base": wrong},
        tmp_path,
        num_problems=2,
        note=lambda text: None,
    )
    assert {arm: list(each.values()) for arm, each in passed.by_arm.items()} == {
        "trained": [1.0, 1.0],
        "base": [0.0, 0.0],
    }
    (figure,) = passed.figures()
    assert figure.path == "accuracy/human_eval"
    assert figure.arms["trained"].num_items == 2
    (contest,) = passed.contests(seed=0)
    assert contest.compared.num_better == 2


def test_every_arm_is_told_how_to_be_run():
    found = findings({"trained": 0.4, "rag": 0.8, "base": 0.3, "trained_rag": 0.8})
    config = ComparisonConfig(run="runs/my run", base_model="tiny")
    devices = {"platform": "cpu", "kind": "cpu", "cpu_cores": 2}
    told = {each["arm"]: each for each in deployments(found, config, devices)}
    assert list(told) == ["trained", "rag", "base", "trained_rag"]
    serve = "python -m coderllm_jax.serve --config.arms="
    assert told["trained"]["command"] == f"{serve}trained '--config.run=runs/my run'"
    assert told["base"]["command"] == f"{serve}base --config.base_model=tiny"
    assert told["trained_rag"]["command"] == (
        f"{serve}trained-rag '--config.run=runs/my run' --config.retrieval.index_dir=runs/index"
    )
    for each in told.values():  # as a person would run them
        words = shlex.split(each["command"])[3:]
        assert resolve_config(["serve", *words], ServingConfig, "").arms
    assert "runs/index" in told["rag"]["artifact"]
    assert "runs/index" not in told["base"]["artifact"]
    assert "1.00 GB" in told["base"]["hardware"]
    assert "2 cores" in told["base"]["hardware"]
