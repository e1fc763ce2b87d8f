"""The code suite: what is asked, what is taken out of an answer, and what counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from coderllm_jax.config.evaluation import CodeSection, EvaluationConfig
from coderllm_jax.errors import ConfigError, DataError
from coderllm_jax.evaluation import code_generation
from coderllm_jax.evaluation.asking import Asker
from coderllm_jax.evaluation.code_generation import (
    judge_file,
    judge_kept,
    read_samples,
    run_code_generation,
    summarize_code,
)
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.judge import Verdict
from coderllm_jax.evaluation.tasks import CodeTask, load_human_eval
from coderllm_jax.records import EvalItem
from tests.evaluation.needs import needs_sandbox
from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply

TASKS = load_human_eval()
ADD = EvalItem(
    "item:add",
    "Write add(a, b).",
    "```python\ndef add(a, b):\n    return a + b\n```",
    "unseen",
    tests="assert add(1, 2) == 3\nassert add(0, 0) == 0",
)


def context(tmp_path: Path, reply, *, identity=None, items=(ADD,), **code) -> Context:
    answerer = FakeAnswerer(
        FakeClock(), lambda body: Reply(chunks=(Chunk(0.1, reply(body["prompt"])),)), num_places=16
    )
    answerer.identity = identity or {"model": {"is_instructed": False}}
    section = CodeSection(**{"max_problems": 4, "sets": ("human_eval", "items"), **code})
    config = dataclasses.replace(EvaluationConfig(), code=section)
    return Context(
        config,
        answerer,
        Asker(answerer, tmp_path / "answers.jsonl"),
        items,
        tmp_path,
        lambda text: None,
    )


def right(prompt: str) -> str:
    if prompt == ADD.question:
        return f"Sure!\n{ADD.answer}\nIt adds."
    by_beginning = {task.prompt.rstrip(): task.reference for task in TASKS.values()}
    if prompt in by_beginning:
        return "\n" + by_beginning[prompt]
    inside = prompt.partition("```python\n")[2].removesuffix("```")
    task = next(task for task in TASKS.values() if task.prompt == inside)
    return f"```python\n{task.prompt}{task.reference}```"


@needs_sandbox
@pytest.mark.parametrize("prompt", ["completion", "question"])
def test_right_answers_pass_however_they_were_asked_for(tmp_path, prompt):
    made = context(tmp_path, right, prompt=prompt)
    result = run_code_generation(made)
    assert result.figures["human_eval/pass@1"].value == 1.0
    assert result.figures["items/pass@1"].value == 1.0
    assert result.figures["human_eval/pass@1"].num_items == 4
    asked = {query.id: query for query in made.answerer.queries}
    assert bool(asked["code/HumanEval/0/0"].continues) is (prompt == "completion")
    assert asked["code/item:add/0"].turns[-1].content == ADD.question
    assert {row["verdict"] for row in result.samples} == {"passed"}
    assert result.is_whole


@needs_sandbox
def test_wrong_answers_are_told_apart_by_cause(tmp_path):
    replies = {
        "0": "\n    return None\n",
        "1": "\n    return (\n",
        "2": "\n    raise KeyError(number)\n",
        "3": "\n    while True: pass\n",
    }
    beginnings = {TASKS[f"HumanEval/{n}"].prompt.rstrip(): text for n, text in replies.items()}
    result = run_code_generation(
        context(tmp_path, lambda prompt: beginnings[prompt], sets=("human_eval",), timeout_s=1)
    )
    causes = {row["task_id"]: (row["verdict"], row["cause"]) for row in result.samples}
    assert causes == {
        "HumanEval/0": ("failed", "wrong answer"),
        "HumanEval/1": ("error", "syntax"),
        "HumanEval/2": ("error", "exception"),
        "HumanEval/3": ("timeout", "timeout"),
    }
    assert result.figures["human_eval/pass@1"].value == 0.0
    assert result.details["sets"]["human_eval"]["verdicts"] == {
        "error": 2,
        "failed": 1,
        "timeout": 1,
    }


@pytest.mark.parametrize(
    ("identity", "continues"),
    [
        ({"model": {"is_instructed": False}}, True),
        ({"model": {"is_instructed": True}}, False),
        ({"url": "http://somewhere"}, False),
    ],
)
def test_who_knows_turns_is_asked_in_one(tmp_path, monkeypatch, identity, continues):
    monkeypatch.setattr(
        code_generation,
        "judge_samples",
        lambda tasks, samples, **_: [Verdict(s["task_id"], "failed") for s in samples],
    )
    made = context(tmp_path, lambda prompt: "", identity=identity, sets=("human_eval",))
    run_code_generation(made)
    assert all(bool(query.continues) is continues for query in made.answerer.queries)


def test_what_was_judged_is_not_judged_again_unless_something_changed(tmp_path, monkeypatch):
    judged = []

    def judge(tasks, samples, **options):
        judged.extend(samples)
        return [Verdict(sample["task_id"], "failed", "wrong answer") for sample in samples]

    monkeypatch.setattr(code_generation, "judge_samples", judge)
    tasks = {"HumanEval/0": TASKS["HumanEval/0"]}
    sample = {"task_id": "HumanEval/0", "completion": "    pass\n"}
    path = tmp_path / "verdicts.jsonl"
    first = judge_kept(tasks, [sample, sample], CodeSection(), path)
    assert judge_kept(tasks, [sample], CodeSection(), path) == first[:1]
    assert len(judged) == 1
    judge_kept(tasks, [sample | {"completion": "    return\n"}], CodeSection(), path)
    judge_kept(tasks, [sample], CodeSection(timeout_s=9), path)
    other = dataclasses.replace(tasks["HumanEval/0"], tests="def check(c): pass")
    judge_kept({"HumanEval/0": other}, [sample], CodeSection(), path)
    assert len(judged) == 4


def test_a_refusal_is_said_never_counted_and_never_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        code_generation,
        "judge_samples",
        lambda tasks, samples, **_: [
            Verdict(s["task_id"], "refused", "refused", "no bwrap here") for s in samples
        ],
    )
    result = run_code_generation(context(tmp_path, right))
    assert result.figures["human_eval/pass@1"].value is None
    assert any("no bwrap here" in note for note in result.notes)
    assert not result.is_whole
    assert not (tmp_path / "verdicts.jsonl").read_text()


def test_pass_at_k_needs_k_samples_and_problems_are_the_clusters():
    def row(problem, verdict):
        return {"set": "s", "task_id": problem, "verdict": verdict, "cause": "", "reason": ""}

    rows = [row("a", "passed"), row("a", "failed"), row("b", "failed"), row("b", "failed")]
    section = CodeSection(num_samples=2, temperature=1.0, k=(1, 2, 5))
    figures = summarize_code(rows, section, seed=0, details={}).figures
    assert figures["s/pass@1"].value == 0.25
    assert figures["s/pass@2"].value == 0.5
    assert figures["s/pass@5"].value is None
    assert figures["s/pass@1"].num_items == 2


def test_several_samples_of_one_problem_have_their_own_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(
        code_generation,
        "judge_samples",
        lambda tasks, samples, **_: [Verdict(s["task_id"], "failed") for s in samples],
    )
    made = context(tmp_path, right, num_samples=3, temperature=0.8, max_problems=1)
    run_code_generation(made)
    seeds = [q.sampling.seed for q in made.answerer.queries if "HumanEval/0" in q.id]
    assert sorted(seeds) == [0, 1, 2]
    with pytest.raises(ConfigError, match="all samples would be equal"):
        CodeSection(num_samples=3).check()


@needs_sandbox
def test_answers_made_elsewhere_are_judged(tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": "HumanEval/0", "completion": TASKS["HumanEval/0"].reference},
        {"task_id": "HumanEval/0", "completion": "    pass\n"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge_file(str(path), CodeSection(), tmp_path, seed=0)
    assert [row["verdict"] for row in result.samples] == ["passed", "failed"]
    assert result.figures["human_eval/pass@1"].value == 0.5
    assert len({row["id"] for row in result.samples}) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"task_id": "HumanEval/900", "completion": ""}', "there is no task 'HumanEval/900'"),
        ('{"task_id": "HumanEval/0"}', "found the keys \\['task_id'\\]"),
        ('{"task_id": 0, "completion": ""}', "both strings"),
        ("[]", "an object"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, row, message):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"task_id": "HumanEval/1", "completion": ""}\n' + row + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_samples(str(path), TASKS)
    assert "samples.jsonl:2" in str(caught.value)


def test_a_task_s_key_is_not_its_name_alone(tmp_path):
    one = CodeTask("t", "", "assert x == 1")
    assert code_generation._key(one, {"completion": "x"}, 3) != code_generation._key(
        dataclasses.replace(one, tests="assert x == 2"), {"completion": "x"}, 3
    )
