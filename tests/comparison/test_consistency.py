"""The same again, and in other words."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.consistency import judge_consistency, reordered, reword
from coderllm_jax.comparison.questions import ASKED, Question
from tests.comparison.made import answer, question

QUESTIONS = [question(n, question=f"What does m.f{n} do?") for n in range(4)]


def test_paraphrases_are_other_questions_about_the_same():
    found = reword(QUESTIONS, count=2, seed=0)
    assert found == reword(QUESTIONS, count=2, seed=0)
    texts = [each.text for each in found]
    assert len(set(texts)) == len(texts)
    for each in found:
        assert each.text != each.original.text
        assert each.original.item.symbol in each.text
    assert {each.original.id for each in found} == {each.id for each in QUESTIONS}


def test_no_paraphrase_is_asked_for():
    assert reword(QUESTIONS, count=0, seed=0) == []


def test_an_own_question_is_reworded_too():
    own = Question("query:1", ASKED, "Explain Gemma architecture")
    (one, *_) = reword([own], count=1, seed=0)
    assert "Gemma" in one.text


def test_another_order_has_the_same_questions():
    assert reordered(QUESTIONS, seed=0) != QUESTIONS
    assert sorted(reordered(QUESTIONS, seed=0)) == sorted(QUESTIONS)
    assert reordered(QUESTIONS[:1], seed=0) == QUESTIONS[:1]


def judged(first, again, reworded):
    rewordings = reword(QUESTIONS[:2], count=1, seed=0)
    return judge_consistency(
        {"a": {each.id: answer(text) for each, text in zip(QUESTIONS[:2], first, strict=True)}},
        {"a": {each.id: answer(text) for each, text in zip(QUESTIONS[:2], again, strict=True)}},
        rewordings,
        {"a": [answer(text) for text in reworded]},
        set_name="seen",
        seed=0,
    )


def figures(found):
    return {figure.name: figure.arms["a"].value for figure in found.figures}


def test_the_same_words_agree_and_lose_nothing():
    texts = ["It is `0.5`.", "It is `1.5`."]
    assert figures(judged(texts, texts, texts)) == {
        "identical": 1.0,
        "agreement": 1.0,
        "paraphrase_cost": 0.0,
    }


def test_what_changes_is_counted():
    """One of two is another answer; in other words one of two is wrong."""
    right = ["It is `0.5`.", "It is `1.5`."]
    found = figures(judged(right, ["It is `0.5`.", "No."], ["It is `0.5`.", "Nothing"]))
    assert found["identical"] == 0.5
    assert found["agreement"] == pytest.approx(0.5)
    assert found["paraphrase_cost"] == pytest.approx(0.5)


def test_a_gain_is_no_cost():
    found = figures(judged(["No.", "No."], ["No.", "No."], ["It is `0.5`.", "It is `1.5`."]))
    assert found["paraphrase_cost"] == -1.0


def test_nothing_said_agrees_with_nothing_alone():
    found = figures(judged(["", ""], ["", ""], ["", "word"]))
    assert found["agreement"] == 0.5
