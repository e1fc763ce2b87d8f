"""The question suite: every item is scored against its own reference, splits apart."""

from __future__ import annotations

import dataclasses
import math

import pytest

from coderllm_jax.config.evaluation import AnswersSection, EvaluationConfig
from coderllm_jax.evaluation import examples as examples_module
from coderllm_jax.evaluation.asking import Asker
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.examples import Example, run_examples
from coderllm_jax.evaluation.qa_accuracy import run_qa_accuracy, summarize_answers
from coderllm_jax.generation.scoring import Score
from coderllm_jax.records import EvalItem
from tests.evaluation.needs import needs_sandbox
from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply

SIGNATURE = EvalItem(
    "s:1", "Parameters of lib.f?", "`lib.f(alpha, beta=0.5)`", "seen", kind="signature",
    symbol="lib.f", facts=("alpha", "beta", "0.5"),
)  # fmt: skip
EXAMPLE = EvalItem(
    "u:1", "Use math.sqrt.", "```python\nimport math\nmath.sqrt(4)\n```", "unseen", kind="example",
    symbol="math.sqrt", facts=("sqrt",),
)  # fmt: skip


class Weighted(FakeAnswerer):
    """Says of every reference that its tokens cost log(2) each."""

    def score_reference(self, query, reference):
        return Score(len(reference) * math.log(2), len(reference))


def run(tmp_path, replies, *, items=(SIGNATURE, EXAMPLE), kind=Weighted):
    answerer = kind(
        FakeClock(),
        lambda body: Reply(chunks=(Chunk(0.1, replies[body["prompt"]]),)),
        num_places=4,
    )
    config = dataclasses.replace(EvaluationConfig(), answers=AnswersSection(max_new_tokens=7))
    ask = Asker(answerer, tmp_path / "answers.jsonl")
    context = Context(config, answerer, ask, items, tmp_path, lambda text: None)
    return run_qa_accuracy(context), answerer


def references():
    return {item.question: item.answer for item in (SIGNATURE, EXAMPLE)}


@needs_sandbox
def test_the_references_themselves_are_perfect(tmp_path):
    result, answerer = run(tmp_path, references())
    for name in ("fact_f1", "fact_precision", "fact_recall", "rouge_l"):
        assert result.figures[f"seen/{name}"].value == 1.0
        assert result.figures[f"unseen/{name}"].value == 1.0
    assert result.figures["seen/bleu"].value == pytest.approx(100)
    assert result.figures["unseen/parses"].value == 1.0
    assert result.figures["unseen/runs"].value == 1.0
    assert "seen/runs" not in result.figures  # nothing there is to be run
    assert result.figures["seen/perplexity"].value == pytest.approx(2)
    assert all(query.max_new_tokens == 7 for query in answerer.queries)
    assert result.is_whole


@needs_sandbox
def test_nothing_is_worth_nothing(tmp_path):
    result, _ = run(tmp_path, dict.fromkeys(references(), ""))
    assert {figure.value for name, figure in result.figures.items() if "perpl" not in name} == {0.0}


def test_an_answer_to_another_question_is_scored_by_its_own(tmp_path):
    swapped = {SIGNATURE.question: "`lib.f(alpha)`", EXAMPLE.question: "use sqrt"}
    result, _ = run(tmp_path, swapped)
    recall = {row["item"]: row["scores"]["fact_recall"] for row in result.samples}
    assert recall["s:1"] == pytest.approx(1 / 3)
    assert recall["u:1"] == 0.0  # the question has said that


def test_without_weights_there_is_no_perplexity(tmp_path):
    result, _ = run(tmp_path, references(), kind=FakeAnswerer)
    assert not any("perplexity" in name for name in result.figures)


def test_unanswered_questions_are_said_and_count_as_wrong(tmp_path):
    answerer = FakeAnswerer(FakeClock(), lambda body: Reply(status=500))
    ask = Asker(answerer, tmp_path / "answers.jsonl")
    context = Context(EvaluationConfig(), answerer, ask, (SIGNATURE,), tmp_path, lambda text: None)
    result = run_qa_accuracy(context)
    assert result.figures["seen/fact_f1"].value == 0.0
    assert "1 questions were not answered" in result.notes[0]
    assert not result.is_whole


def test_perplexity_is_over_tokens_and_not_over_items():
    def row(nats, tokens):
        return {
            "split": "seen", "kind": "k", "answer": "a", "reference_answer": "a", "finish": "stop",
            "reference": {"nats": nats, "tokens": tokens},
            "scores": {"negative_log_likelihood": nats / tokens},
        }  # fmt: skip

    figure = summarize_answers([row(1.0, 1), row(18.0, 9)], seed=0).figures["seen/perplexity"]
    assert figure.value == pytest.approx(math.exp(19 / 10))
    assert figure.low <= figure.value <= figure.high


def test_without_items_that_is_said(tmp_path):
    result, _ = run(tmp_path, {}, items=())
    assert (result.figures, len(result.notes)) == ({}, 1)


# ------------------------------------------------------------------------------- examples


@needs_sandbox
def test_only_examples_whose_reference_runs_say_something(tmp_path):
    runs = run_examples(
        {
            "good": Example("```\nx = 1\n```", "```\nx = 2\n```"),
            "bad": Example("```\nx = 1\n```", "```\nx = y\n```"),
            "lacks": Example("```\nunknown()\n```", "```\nx = 2\n```"),
            "empty": Example("```\nx = 1\n```", "```\n```"),
            "elsewhere": Example("```\nx = 1\n```", "```\ny = 2\n```", must_name="sqrt"),
        },
        tmp_path / "examples.jsonl",
        note=lambda text: None,
    )
    assert {name: outcome.answer_runs for name, outcome in runs.outcomes.items()} == {
        "good": True, "bad": False, "empty": False, "elsewhere": False,
    }  # fmt: skip
    assert "name 'y' is not defined" in runs.outcomes["bad"].reason
    assert runs.notes == ("1 examples are left out: their reference does not run by itself",)


@needs_sandbox
def test_programs_run_once(tmp_path, monkeypatch):
    asked = {"a": Example("```\nx = 1\n```", "```\nx = 1\n```")}
    path = tmp_path / "examples.jsonl"
    first = run_examples(asked, path, note=lambda text: None)
    monkeypatch.setattr(examples_module, "run_program", None)
    assert run_examples(asked, path, note=lambda text: None) == first


def test_where_nothing_may_be_executed_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(examples_module, "why_refused", lambda: "no sandbox")
    runs = run_examples({"a": Example("x", "y")}, tmp_path / "e.jsonl", note=lambda text: None)
    assert (runs.outcomes, runs.is_whole) == ({}, False)
    assert "no sandbox" in runs.notes[0]
