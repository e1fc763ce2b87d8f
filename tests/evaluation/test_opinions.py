"""A judge's opinion counts where it survives the swap, and nowhere else."""

from __future__ import annotations

import pytest

from coderllm_jax.evaluation.opinions import Pair, judge_pairs, read_verdict
from coderllm_jax.records import Answer

PAIRS = [
    Pair(str(n), f"Q{n}", "good" if n % 2 else "bad", "bad" if n % 2 else "good") for n in range(6)
]


def judge(decide):
    def ask(queries):
        replies = []
        for query in queries:
            first = query.question.partition("[Answer A]\n")[2].partition("\n[End")[0]
            second = query.question.partition("[Answer B]\n")[2].partition("\n[End")[0]
            replies.append(Answer(query.id, decide(first, second), "stop"))
        return replies

    return ask


def test_a_judge_that_knows_is_heard():
    opinions = judge_pairs(PAIRS, judge(lambda a, b: "A" if a == "good" else "B"))
    assert list(opinions.by_id.values()) == ["second", "first"] * 3
    assert opinions.agreement.value == 1.0
    assert (opinions.preferred.value, opinions.preferred.num_items) == (0.5, 6)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_judge_that_prefers_a_place_has_no_opinion(letter):
    opinions = judge_pairs(PAIRS, judge(lambda a, b: letter))
    assert set(opinions.by_id.values()) == {"none"}
    assert (opinions.agreement.value, opinions.preferred.value) == (0.0, None)


def test_ties_agree_and_decide_nothing():
    opinions = judge_pairs(PAIRS, judge(lambda a, b: "TIE"))
    assert set(opinions.by_id.values()) == {"tie"}
    assert (opinions.agreement.value, opinions.preferred.value) == (1.0, None)


def test_a_judge_that_says_nothing_is_counted():
    opinions = judge_pairs(PAIRS, judge(lambda a, b: "Both are fine."))
    assert opinions.num_unclear == 6
    assert opinions.agreement.value is None


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "first"),
        ("Answer B is better.\n\nB", "second"),
        ("A has an error, so: B", "second"),
        ("**TIE**", "tie"),
        ("Apples", "none"),
        ("", "none"),
    ],
)
def test_the_last_word_counts(reply, verdict):
    assert read_verdict(reply) == verdict
