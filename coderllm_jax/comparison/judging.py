"""A judge's opinion of the arms' answers, side by side and in both orders, where there is a judge.

    question   trained's answer, rag's answer     A, then B with the order swapped    → trained
               trained's answer, base's answer    A, then A with the order swapped    → no opinion

An arm's figure is its share of the pairs that were decided. The same answers stand in several
pairs, so intervals are too narrow; an opinion stands beside the figures and is not tested.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from coderllm_jax.comparison.figures import Figure
from coderllm_jax.comparison.scoring import Scored
from coderllm_jax.evaluation.opinions import Pair, judge_pairs
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.records import Answer, Query

Ask = Callable[[Sequence[Query]], list[Answer]]


class Judged(NamedTuple):
    """Figures, and sentences about how far the judge agrees with itself."""

    figures: list[Figure]
    notes: list[str]


def judge_arms(
    scored: Mapping[str, Sequence[Scored]], ask: Ask, *, set_name: str, max_items: int
) -> Judged:
    """Every pair of arms on the first `max_items` questions that both have answered."""
    by_arm = {
        arm: {each.question.id: each for each in of_arm if each.question.set == set_name}
        for arm, of_arm in scored.items()
    }
    wins = dict.fromkeys(by_arm, 0)
    decided = dict.fromkeys(by_arm, 0)
    num_agreed = num_clear = num_pairs = 0
    items: dict[str, None] = {}
    for first, second in itertools.combinations(by_arm, 2):
        both = [
            name
            for name, each in by_arm[first].items()
            if each.checks["answered"] and by_arm[second][name].checks["answered"]
        ][:max_items]
        pairs = [
            Pair(
                f"{first}/{second}/{name}",
                by_arm[first][name].question.text,
                by_arm[first][name].answer.text,
                by_arm[second][name].answer.text,
            )
            for name in both
        ]
        opinions = judge_pairs(pairs, ask)
        said = list(opinions.by_id.values())
        wins[first] += said.count("first")
        wins[second] += said.count("second")
        for arm in (first, second):
            decided[arm] += said.count("first") + said.count("second")
        num_pairs += len(pairs)
        num_clear += opinions.agreement.num_items
        num_agreed += sum(opinion != "none" for opinion in said)
        items |= dict.fromkeys(both)
    figure = Figure(
        "quality",
        "judge_preferred",
        "Preferred by the judge",
        "Share of the pairs with another arm's answer that the judge decided in its favour, in "
        "both orders.",
        {arm: wilson_interval(wins[arm], decided[arm]) for arm in by_arm if decided[arm]},
        set=set_name,
        items=tuple(items),
    )
    notes = [
        f"the judge was asked about {num_pairs} pairs in both orders; it gave {num_clear} clear "
        f"verdicts, {num_agreed} of them the same in both"
    ]
    return Judged([figure] if figure.arms else [], notes)
