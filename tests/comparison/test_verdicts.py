"""Verdicts: what is called different, what equivalent, and how often wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from coderllm_jax.comparison import verdicts
from coderllm_jax.comparison.figures import SPECS, Spec
from coderllm_jax.comparison.verdicts import decide, find, hold_contests, is_within
from coderllm_jax.evaluation.statistics import pairs
from coderllm_jax.records import Estimate

FACT_F1 = next(spec for spec in SPECS if spec.name == "fact_f1")
RIGHT = next(spec for spec in SPECS if spec.name == "right")
SPEED = Spec("performance", "total_s", "Time", "", "seconds", "lower", bounds=None, family="speed")
HOW = {"alpha": 0.05, "margin": 0.05, "speed_margin": 0.1}


def contests(spec, set_name="seen", **arms):
    values = {
        arm: {f"q{n}": float(value) for n, value in enumerate(each)} for arm, each in arms.items()
    }
    return hold_contests(spec, values, set_name=set_name, seed=0)


def verdict(spec, a, b, **how):
    (found,) = decide(contests(spec, a=a, b=b), **{**HOW, **how})
    return found


def test_a_plain_difference_by_hand():
    """12 of 12 discordant pairs fall to a: McNemar's p is 2 / 2**12, the only test."""
    found = verdict(RIGHT, [1] * 12 + [0] * 8, [0] * 20)
    assert found.verdict == "better"
    assert found.contest.compared.p_value == pytest.approx(2 / 2**12)
    assert found.adjusted_p == pytest.approx(2 / 2**12 / 0.2)  # the rest has a fifth of the budget
    assert found.words.startswith("Right answers: a is better than b by 0.600 (")


def test_the_other_way_around_is_worse():
    assert verdict(RIGHT, [0] * 20, [1] * 12 + [0] * 8).verdict == "worse"


def test_five_of_five_are_not_enough_and_it_says_what_would_be():
    found = verdict(RIGHT, [1] * 5 + [0] * 15, [0] * 20)
    assert found.verdict == "no_difference"
    assert found.detectable_difference is not None
    assert f"{found.detectable_difference:.3f}" in found.words


def test_of_too_few_items_nothing_could_be_shown():
    found = verdict(RIGHT, [1, 1, 1], [0, 0, 0])
    assert (found.verdict, found.detectable_difference) == ("no_difference", None)
    assert found.words.endswith("that these 3 items can show")


def test_equal_answers_to_many_questions_are_equivalent():
    found = verdict(FACT_F1, [0.5] * 200, [0.5] * 200)
    assert found.verdict == "equivalent"
    assert found.adjusted_p == 1.0


def test_a_certain_difference_within_the_margin_is_equivalent():
    a = np.full(400, 0.51)
    a[::2] += 0.001
    found = verdict(FACT_F1, a, np.full(400, 0.5))
    assert found.contest.compared.p_value < 0.001
    assert found.verdict == "equivalent"
    assert verdict(FACT_F1, a, np.full(400, 0.5), margin=0.001).verdict == "better"


def test_less_time_is_better_and_little_time_is_nothing():
    slow = np.linspace(1.0, 1.2, 40)
    assert verdict(SPEED, 0.5 * slow, slow).verdict == "better"
    assert verdict(SPEED, slow, 0.5 * slow).verdict == "worse"
    assert verdict(SPEED, slow, 0.97 * slow).verdict == "equivalent"  # 3 %, and surely so
    # Certain and near the margin: neither surely inside it nor outside.
    jagged = slow * np.where(np.arange(40) % 2, 0.83, 0.98)
    assert verdict(SPEED, jagged, slow).verdict == "no_difference"


def test_all_pairs_of_arms_share_their_familys_budget():
    a, b = [1] * 12 + [0] * 8, [0] * 20
    four = decide(contests(RIGHT, a=a, b=b, c=a, d=a), **HOW)
    p = 2 / 2**12
    assert four[0].adjusted_p == pytest.approx(6 * p / 0.2)
    assert len(four) == 6


def test_headline_and_rest_have_budgets_of_their_own():
    a, b = [1] * 12 + [0] * 8, [0] * 20
    alone = decide(contests(FACT_F1, a=a, b=b), **HOW)[0]
    crowded = decide(
        contests(FACT_F1, a=a, b=b)
        + [contest for _ in range(20) for contest in contests(RIGHT, a=b, b=b)],
        **HOW,
    )[0]
    assert crowded.adjusted_p == alone.adjusted_p


def test_only_items_that_both_have_are_compared():
    values = {"a": {"q1": 1.0, "q2": 1.0}, "b": {"q2": 0.0, "q3": 0.0}, "c": {"q9": 1.0}}
    found = hold_contests(RIGHT, values, set_name="seen", seed=0)
    assert [(each.first, each.second, each.compared.num_items) for each in found] == [("a", "b", 1)]


def test_a_verdict_is_found_in_either_direction():
    found = decide(contests(RIGHT, a=[1] * 20, b=[0] * 20), **HOW)
    assert find(found, "right", "a", "b", set_name="seen")[0] == "better"
    assert find(found, "right", "b", "a", set_name="seen")[0] == "worse"
    assert find(found, "right", "a", "b", set_name="unseen") is None
    assert find(found, "right", "a", "c", set_name="seen") is None


def test_what_is_written_counts_in_the_arms_favour():
    slow, fast = np.linspace(1.0, 1.2, 40), np.linspace(0.5, 0.6, 40)
    told = decide(contests(SPEED, a=fast, b=slow), **HOW)[0].to_json()
    assert (told["num_better"], told["num_worse"]) == (40, 0)
    assert told["difference"]["value"] < 0
    assert told["verdict"] == "better"


@pytest.mark.parametrize(
    ("low", "high", "inside"), [(-0.04, 0.04, True), (-0.05, 0.0, False), (None, None, False)]
)
def test_an_interval_inside_the_margin(low, high, inside):
    assert is_within(Estimate(0.0, low, high), 0.05) is inside


def test_an_arm_against_itself_is_hardly_ever_different(monkeypatch):
    """Four equal arms, 60 questions: all six comparisons of 300 comparisons.

    At 5 % 15 would be expected at most; 26 or more have a chance of 0.4 % (binomial). The benchmark
    comparison_simulation does a thousand of every kind, with intervals and planted arms.
    """
    # Slow, and decides nothing.
    monkeypatch.setattr(verdicts, "_smallest_shown", lambda *_: None)
    monkeypatch.setattr(pairs, "detectable_binary_difference", lambda *_, **__: None)
    generator = np.random.default_rng(20261126)
    false_alarms = 0
    for _ in range(300):
        knows = generator.beta(1, 2, size=60)
        drawn = {arm: generator.random(60) < knows for arm in "abcd"}
        found = decide(contests(RIGHT._replace(family="accuracy"), **drawn), **HOW)
        false_alarms += any(each.verdict in ("better", "worse") for each in found)
    assert false_alarms < 26
