"""A sentence is said where its figures say so, and not otherwise."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coderllm_jax.reporting.evaluation_figures import Figure
from coderllm_jax.reporting.evaluation_reading import read_evaluation, subtract
from tests.reporting.evaluations import a_figure


def said(**suites: dict[str, Any]) -> str:
    return "\n".join(f"{f.sentence} {f.figures}" for f in read_evaluation({"suites": suites}))


def answers(seen: tuple[float, float, float], unseen: tuple[float, float, float]) -> str:
    figures = {
        f"{split}/fact_f1": a_figure(value, low=low, high=high)
        for split, (value, low, high) in (("seen", seen), ("unseen", unseen))
    }
    return said(qa_accuracy={"figures": figures})


def test_seen_and_unseen_are_told_apart_only_where_their_intervals_do() -> None:
    assert "knows more of what it was trained on" in answers((0.8, 0.7, 0.9), (0.3, 0.2, 0.4))
    assert "knows less of what it was trained on" in answers((0.3, 0.2, 0.4), (0.8, 0.7, 0.9))
    assert "no difference" in answers((0.5, 0.35, 0.65), (0.4, 0.25, 0.55))


def test_a_difference_by_hand() -> None:
    one = Figure("a", 0.8, 0.7, 0.84, 50)
    other = Figure("b", 0.5, 0.47, 0.6, 50)
    # Down: 0.1 and 0.1; up: 0.04 and 0.03.
    value, low, high = subtract(one, other) or (0.0, 0.0, 0.0)
    assert value == pytest.approx(0.3)
    assert low == pytest.approx(0.3 - 0.1 * 2**0.5)
    assert high == pytest.approx(0.35)
    assert subtract(one, other._replace(low=None)) is None


def test_intervals_of_equal_figures_cover_no_difference_as_often_as_they_should() -> None:
    chance = random.Random(0)

    def measured() -> Figure:
        values = [chance.gauss(0.5, 0.1) for _ in range(40)]
        mean = sum(values) / 40
        half = 1.96 * 0.1 / 40**0.5
        return Figure("x", mean, mean - half, mean + half, 40)

    differences = [subtract(measured(), measured()) for _ in range(1000)]
    covered = sum(low <= 0 <= high for _, low, high in filter(None, differences))
    assert 930 <= covered <= 970


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [("failed", "It answers worse"), ("passed", "No drop"), ("not_comparable", "")],
)
def test_the_gate_is_told(gate: str, sentence: str) -> None:
    details = {"gate": gate, "regressions": ["qa_accuracy/seen/fact_f1"], "reason": "why"}
    words = said(regression={"figures": {}, "details": details})
    assert words.startswith(sentence)
    assert bool(words) == bool(sentence)


def test_a_drop_is_told_only_where_it_is_one() -> None:
    def drops(value: float, p: float) -> str:
        figures = {"typos/fact_f1_drop": a_figure(value)}
        return said(
            robustness={"figures": figures, "details": {"disturbed": {"typos": {"adjusted_p": p}}}}
        )

    assert "typos 0.200" in drops(0.2, 0.01)
    for value, p in ((0.2, 0.3), (-0.2, 0.01)):
        assert "costs nothing that these items could show" in drops(value, p)


def test_answers_that_change_and_questions_not_survived_are_told() -> None:
    def conduct(share: float) -> str:
        names = ("repetition/identical", "batch/identical", "survival/passed")
        return said(robustness={"figures": dict.fromkeys(names, a_figure(share))})

    assert conduct(1.0) == ""
    assert "depend on how they are asked for" in conduct(0.9)
    assert "not survived" in conduct(0.9)


def test_throughput_is_told_with_the_wait_that_it_costs() -> None:
    figures = {
        "closed/1/tokens_out_per_s": a_figure(20.0),
        "closed/16/tokens_out_per_s": a_figure(90.0),
        "open/1.0/tokens_out_per_s": a_figure(99.0),
        "closed/1/time_to_first_token_s/p50": a_figure(0.12),
        "closed/16/time_to_first_token_s/p50": a_figure(2.5),
    }
    words = said(performance={"figures": figures})
    assert "up to 90 tokens a second, with 16 in flight" in words
    assert "0.12 s with 1 in flight and 2.50 s with 16 in flight" in words


@pytest.mark.parametrize(
    ("value", "words"), [(0.2, "in 5 succeeds"), (0.9, "90%"), (0.0, "No attempt")]
)
def test_pass_at_1_is_told(value: float, words: str) -> None:
    details = {"sets": {"human_eval": {"causes": {"wrong answer": 3}}}}
    told = said(
        code_generation={"figures": {"human_eval/pass@1": a_figure(value)}, "details": details}
    )
    assert words in told
    assert "wrong answer 3" in told


def test_what_was_not_whole_is_told_first() -> None:
    suite = {"figures": {"human_eval/pass@1": a_figure(0.5)}, "notes": ["no sandbox here"]}
    told = said(code_generation={**suite, "is_whole": False})
    assert told.startswith("Code generation: not all of it could be done. no sandbox here")
    assert "could be done" not in said(code_generation=suite)
