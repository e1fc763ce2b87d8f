"""Times, rates and memory, by hand."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.performance import (
    latencies,
    latency_figures,
    ratio,
    speed_contests,
    usage_figures,
    whole_turns,
)
from coderllm_jax.comparison.rounds import InTurns
from coderllm_jax.comparison.verdicts import decide
from tests.comparison.made import answer, arm, turn

IDS = [f"q{n}" for n in range(12)]


def given(first_s, **changes):
    return [
        answer("one two three", id=name, first_s=first_s + n / 1000, **changes)
        for n, name in enumerate(IDS)
    ]


def figure(figures, name):
    return next(each for each in figures if each.name == name)


def test_medians_and_tails_of_what_ended_well():
    failed = answer("", id="q12", finish="error")
    asked = {"alone": {"base": [*given(0.5), failed], "rag": given(0.9, retrieval_s=0.2)}}
    found = latency_figures(asked, ids={"alone": IDS})
    first = figure(found, "alone/time_to_first_token_s/p50")
    assert first.arms["base"].value == pytest.approx(0.505)
    assert first.arms["base"].num_items == 12
    assert first.is_headline
    assert figure(found, "alone/retrieval_s/p50").arms.keys() == {"rag"}
    assert figure(found, "alone/time_per_token_s/p50").arms["base"].value == pytest.approx(0.1)
    # 12 answers cannot bound a 95th percentile.
    assert "alone/total_s/p95" not in {each.name for each in found}


def test_rates_are_sums_over_sums_of_whole_turns():
    turns = [
        turn("base", 1, wall_s=5.0, tokens_out=50),
        turn("base", 2, wall_s=15.0, tokens_out=50),
        turn("base", 3, wall_s=500.0, is_whole=False),
        turn("rag", 1, wall_s=10.0, tokens_out=10),
    ]
    found = usage_figures(
        [arm("base"), arm("rag", memory={"weights": 10**9, "index": 5 * 10**8})],
        {"base": given(0.5), "rag": given(0.5, num_prompt_tokens=300)},
        turns,
        ids=IDS,
        seed=0,
    )
    rate = figure(found, "tokens_per_s")
    assert rate.arms["base"].value == pytest.approx(100 / 20)
    assert rate.arms["base"].low <= 5.0 <= rate.arms["base"].high
    assert rate.arms["base"].num_items == 20
    assert rate.arms["rag"].value == pytest.approx(1.0)
    assert rate.arms["rag"].low is None  # one turn says nothing about its spread
    assert figure(found, "cpu_s_per_answer").arms["base"].value == pytest.approx(16 / 20)
    assert figure(found, "tokens_in").arms["rag"].value == 300
    assert figure(found, "memory_bytes").arms["rag"].value == 1.5e9


def test_without_a_whole_turn_there_is_no_rate():
    assert whole_turns([turn("base", is_whole=False)], "base") == []
    assert ratio([], lambda t: t.wall_s, lambda t: t.num_answers, seed=0).value is None


def test_twice_as_slow_is_seen_and_rounds_are_clusters():
    asked = {"alone": {"slow": given(2.0), "fast": given(1.0)}}
    rounds = {"alone": list(range(12))}
    (alone,) = decide(
        speed_contests(asked, ids={"alone": IDS}, rounds=rounds, seed=0),
        alpha=0.05,
        margin=0.05,
        speed_margin=0.1,
    )
    assert (alone.verdict, alone.contest.compared.num_clusters) == ("worse", 12)
    together = {"together": {"slow": given(2.0), "fast": given(1.0)}}
    (contest,) = speed_contests(
        together, ids={"together": IDS}, rounds={"together": [1] * 6 + [2] * 6}, seed=0
    )
    # Two rounds are two things, however many questions they hold: p is 2 of 4 flips.
    assert contest.compared.num_clusters == 2
    assert contest.compared.p_value == 0.5


def test_every_time_is_handed_on():
    asked = InTurns({"rag": given(0.5, retrieval_s=0.25)}, [1] * 12, [])
    found = latencies({"alone": asked})
    assert found["alone"]["rag"]["retrieval_s"] == [0.25] * 12
    assert len(found["alone"]["rag"]["total_s"]) == 12
