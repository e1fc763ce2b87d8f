"""What one answer is worth, by hand."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.questions import ASKED, Question
from coderllm_jax.comparison.scoring import (
    fences_are_closed,
    has_code,
    repeated_share,
    run_programs,
    score,
)
from tests.comparison.made import answer, question, source
from tests.evaluation.needs import needs_sandbox

OWN = Question("query:1", ASKED, "How to implement LoRA?")


def scored(asked, text, *, looks_up=False, **changes):
    given = answer(text, **changes)
    symbol_of = {"m.f1#0": "m.f1", "m.f2#0": "m.f2"}
    return score(asked, given, looks_up=looks_up, right_from=0.8, symbol_of=symbol_of)


def test_a_right_answer():
    found = scored(question(1), "It is `1.5`.")
    assert found.scores["fact_f1"] == found.scores["right"] == 1.0
    assert found.scores["chrf"] == 100.0
    assert found.checks["right"] is True
    assert found.facts["found"] == ["1.5"]
    assert found.scores["clear"] == 1.0
    assert found.scores["num_words"] == 3


def test_a_wrong_answer_is_wrong_and_may_be_clear():
    found = scored(question(1), "It is `7.5`.")
    assert found.scores["fact_f1"] == found.scores["right"] == 0.0
    assert found.facts == {"found": [], "missed": ["1.5"], "wrong": ["7.5"], "num_new_words": 0}
    assert found.scores["clear"] == 1.0


@pytest.mark.parametrize(("right_from", "right"), [(0.6, True), (0.7, False)])
def test_what_is_right_is_the_users_to_say(right_from, right):
    given = answer("It is `1.5`, or `2.5`.")  # one found, one wrong: F1 2/3
    found = score(question(1), given, looks_up=False, right_from=right_from, symbol_of={})
    assert found.scores["fact_f1"] == pytest.approx(2 / 3)
    assert found.checks["right"] is right


@pytest.mark.parametrize(
    ("text", "finish"),
    [
        ("It is 1.5 because", "length"),
        ("a b c d a b c d a b c d a b c d", "stop"),
        ("Use this:\n```python\nx = 1\n", "stop"),
        ("", "stop"),
        ("", "error"),
    ],
)
def test_unclear_answers(text, finish):
    assert scored(question(1), text, finish=finish).scores["clear"] == 0.0


def test_an_own_question_has_no_score_that_needs_a_reference():
    found = scored(OWN, "Train two small matrices.\n```python\nx = a @ b\n```", looks_up=True)
    of_sources = {"cites", "groundedness", "citation_recall"}
    assert set(found.scores) == {"num_words", "clear", "parses", *of_sources}
    assert found.checks["right"] is None
    assert found.facts is None


def test_code_parses_or_not_where_there_is_some():
    assert scored(OWN, "```python\nx = 1\n```").scores["parses"] == 1.0
    assert scored(OWN, "```python\nx = = 1\n```").scores["parses"] == 0.0
    assert "parses" not in scored(OWN, "No code at all.").scores


def test_a_question_that_wants_code_counts_answers_without():
    wants = question(1, kind="example", answer="```python\nm.f1()\n```")
    assert scored(wants, "I would call it.").scores["parses"] == 0.0


def test_sources_are_judged_of_arms_that_look_up_alone():
    sources = (source("m.f2#0", "f2 is 2.5"), source("m.f1#0", "f1 is 1.5"))
    found = scored(question(1), "It is 1.5 [2].", looks_up=True, sources=sources)
    assert found.cited == (2,)
    assert found.scores["cites"] == 1.0
    assert found.scores["found"] == 1.0
    assert found.scores["citation_precision"] == 1.0
    assert found.checks["found"] is True
    other = scored(question(1), "It is 1.5.", looks_up=True, sources=sources[:1])
    assert (other.scores["cites"], other.scores["found"]) == (0.0, 0.0)
    assert "citation_precision" not in other.scores  # it cites nothing
    assert not {"cites", "found"} & set(scored(question(1), "It is 1.5 [2].").scores)


def test_repeated_runs_of_words():
    assert repeated_share("one two three four five") == 0.0
    assert repeated_share("a b c d a b c d") == pytest.approx(
        1 / 5
    )  # runs: abcd bcda cdab dabc abcd
    assert repeated_share("short") == 0.0


def test_fences():
    assert fences_are_closed("no fence")
    assert fences_are_closed("```\nx\n```\nand\n~~~\ny\n~~~")
    assert not fences_are_closed("```\nx\n```\n```")
    assert has_code("x = f(1)")
    assert not has_code("It is a word.")


@needs_sandbox
def test_programs_are_run_where_one_was_asked_for(tmp_path):
    wants = question(1, kind="example", answer="```python\nf1 = 1\nprint(f1)\n```")
    texts = {"a": "```python\nf1 = 2\n```", "b": "```python\nf1 = nothing\n```", "c": "No."}
    given = {arm: [scored(wants, text), scored(question(2), text)] for arm, text in texts.items()}
    ran = run_programs(given, tmp_path, note=lambda text: None)
    runs = {arm: of_arm[0].checks["runs"] for arm, of_arm in ran.scored.items()}
    assert runs == {"a": True, "b": False, "c": False}
    assert "NameError" in ran.scored["b"][0].run_reason
    assert all("runs" not in of_arm[1].scores for of_arm in ran.scored.values())
