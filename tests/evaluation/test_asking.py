"""The cache of answers: nothing is asked twice, nothing is taken for what it is not."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from coderllm_jax.evaluation.asking import AnswerProgress, Asker, from_json, read_kept, to_json
from coderllm_jax.records import Answer, Query, Sampling, Source, TokenLogprob
from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply

QUERIES = [Query.from_question(f"q{number}", f"Question {number}?") for number in range(5)]


def answerer(**changes):
    replies = lambda body: Reply(  # noqa: E731
        chunks=(Chunk(0.1, f"answer to {body['prompt']}"),)
    )
    made = FakeAnswerer(FakeClock(), replies)
    made.identity = {"fake": True, **changes}
    return made


def test_a_second_time_nobody_is_asked(tmp_path):
    first, second = answerer(), answerer()
    answers = Asker(first, tmp_path / "a.jsonl")(QUERIES)
    again = Asker(second, tmp_path / "a.jsonl")
    assert [a.text for a in again(QUERIES)] == [a.text for a in answers]
    assert [a.id for a in again(QUERIES)] == [q.id for q in QUERIES]
    assert second.queries == []


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 9},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(seed=1)},
        {"stop": ("x",)},
        {"continues": "Question 0?", "turns": ()},
        {"logprobs": True},
    ],
)
def test_whatever_can_change_an_answer_is_asked_anew(tmp_path, change):
    Asker(answerer(), tmp_path / "a.jsonl")(QUERIES[:1])
    other = answerer()
    Asker(other, tmp_path / "a.jsonl")([dataclasses.replace(QUERIES[0], **change)])
    assert len(other.queries) == 1


def test_another_answerer_is_asked_anew_and_another_id_is_not(tmp_path):
    Asker(answerer(), tmp_path / "a.jsonl")(QUERIES[:1])
    other, same = answerer(weights="other"), answerer()
    Asker(other, tmp_path / "a.jsonl")(QUERIES[:1])
    renamed = dataclasses.replace(QUERIES[0], id="renamed")
    (answer,) = Asker(same, tmp_path / "a.jsonl")([renamed])
    assert len(other.queries) == 1
    assert (same.queries, answer.id) == ([], "renamed")


def test_a_cut_line_is_asked_again_and_spoils_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    Asker(answerer(), path)(QUERIES)
    path.write_bytes(path.read_bytes()[:-20])
    again = answerer()
    Asker(again, path)(QUERIES)
    assert len(again.queries) == 1
    third = answerer()
    Asker(third, path)(QUERIES)
    assert third.queries == []


def test_what_failed_is_asked_again(tmp_path):
    failing = FakeAnswerer(FakeClock(), lambda body: Reply(status=500))
    assert [a.finish for a in Asker(failing, tmp_path / "a.jsonl")(QUERIES)] == ["error"] * 5
    working = answerer()
    working.identity = failing.identity
    answers = Asker(working, tmp_path / "a.jsonl")(QUERIES)
    assert {a.finish for a in answers} == {"stop"}


def test_answers_survive_in_order_of_arrival(tmp_path):
    """A kill after k answers leaves k lines: each is with the operating system when it is told."""
    path = tmp_path / "a.jsonl"
    lines = []
    Asker(answerer(), path, progress=lambda *_: lines.append(len(path.read_text().splitlines())))(
        QUERIES
    )
    assert lines == [1, 2, 3, 4, 5]


def test_an_answer_as_json_and_back():
    answer = Answer(
        "a",
        "text \u2028 \ud800",
        "stop",
        num_prompt_tokens=3,
        num_new_tokens=4,
        submitted_s=100.0,
        started_s=101.0,
        first_token_s=102.0,
        finished_s=105.0,
        sources=(Source("s", "passage", "where", 0.5),),
        logprobs=(TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.5))),),
    )
    back = from_json(json.loads(json.dumps(to_json(answer))))
    assert (
        dataclasses.replace(
            answer, submitted_s=0.0, started_s=1.0, first_token_s=2.0, finished_s=5.0
        )
        == back
    )
    assert back.time_to_first_token_s == 2.0


def test_lines_of_somebody_else_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('[]\n{"key": "k"}\nnonsense\n{"key": "k", "answer": 1}\n\n')
    assert read_kept(path, "answer") == {"k": 1}
    assert read_kept(tmp_path / "none.jsonl", "answer") == {}


def test_progress_ends_with_a_whole_line():
    stream = io.StringIO()
    progress = AnswerProgress("answers", stream=stream, every_s=0)
    for done in (3, 4, 5):
        progress(done, 5)
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "answers  5/5"
    assert "left" in lines[0]


def test_half_a_surrogate_is_kept(tmp_path):
    odd = FakeAnswerer(FakeClock(), lambda body: Reply(chunks=(Chunk(0.1, "half \ud800"),)))
    Asker(odd, tmp_path / "a.jsonl")(QUERIES[:1])
    (kept,) = Asker(odd, tmp_path / "a.jsonl")(QUERIES[:1])
    assert kept.text == "half \ud800"


def test_what_is_asked_twice_in_one_call_is_asked_once(tmp_path):
    one = answerer()
    twice = [QUERIES[0], dataclasses.replace(QUERIES[0], id="again")]
    first, second = Asker(one, tmp_path / "a.jsonl")(twice)
    assert (first.id, second.id, first.text == second.text) == ("q0", "again", True)
    assert len(one.queries) == 1
