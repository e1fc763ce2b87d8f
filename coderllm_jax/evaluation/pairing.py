"""Samples of two evaluations, joined item by item.

    now    {"suite": "qa_accuracy", "split": "seen", "id": "qa/17", "scores": {"fact_f1": 0.5}}
    then   {"suite": "qa_accuracy", "split": "seen", "id": "qa/17", "scores": {"fact_f1": 0.8}}
             │
             └► qa_accuracy/seen/fact_f1   items (qa/17, ...)   current (0.5, ...)
                                                                baseline (0.8, ...)

Several samples of one problem (`task_id`) are one item with their mean. Rows may name a group
(`group`, else `set`, else `split`) and a cluster, items that go right and wrong together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

# Scores that every suite calls by this name and that are better when they are lower.
_LOSSES = frozenset({"negative_log_likelihood"})


class Figure(NamedTuple):
    """What is compared: one score of one group of one suite's items."""

    suite: str
    group: str
    score: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class ItemScore(NamedTuple):
    """One item's score, the mean of its samples', what it was asked and its first answer."""

    value: float
    question: str
    answer: str
    cluster: str


class Pairs(NamedTuple):
    """Scores of common items, in the items' order, and how many were left out, by reason.

    baseline_answers: what the earlier model said, for those who look at what got worse.
    """

    items: tuple[str, ...]
    current: np.ndarray
    baseline: np.ndarray
    baseline_answers: tuple[str, ...]
    clusters: tuple[str, ...]
    left_out: Mapping[str, int]


def scores_by_figure(
    samples: Iterable[Mapping[str, Any]],
) -> dict[Figure, dict[str, ItemScore]]:
    """Figure → item → its score. A program that was not executed has none, nor has what is NaN."""
    values: dict[Figure, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in samples:
        if row.get("verdict") == "refused":
            continue
        suite, item = str(row["suite"]), str(row.get("task_id") or row["id"])
        group = str(row.get("group") or row.get("set") or row.get("split") or "")
        first.setdefault((suite, item), row)
        for score, value in row.get("scores", {}).items():
            if value is not None and math.isfinite(value):
                values[Figure(suite, group, score)][item].append(float(value))
    return {
        figure: {
            item: _item_score(item, each, first[figure.suite, item]) for item, each in items.items()
        }
        for figure, items in values.items()
    }


def _item_score(item: str, values: list[float], row: Mapping[str, Any]) -> ItemScore:
    return ItemScore(
        sum(values) / len(values),
        question=str(row.get("question") or ""),
        answer=str(row.get("completion") or row.get("answer") or ""),
        cluster=str(row.get("cluster") or item),
    )


def pair_items(now: Mapping[str, ItemScore], then: Mapping[str, ItemScore]) -> Pairs:
    """Items that both have and that were asked alike; the others are counted."""
    common = sorted(now.keys() & then.keys())
    same = tuple(item for item in common if _asked_alike(now[item], then[item]))
    counts = {
        "asked differently": len(common) - len(same),
        "only in the baseline": len(then.keys() - now.keys()),
        "only in this result": len(now.keys() - then.keys()),
    }
    return Pairs(
        same,
        np.array([now[item].value for item in same], np.float64),
        np.array([then[item].value for item in same], np.float64),
        tuple(then[item].answer for item in same),
        tuple(now[item].cluster for item in same),
        {reason: count for reason, count in counts.items() if count},
    )


def find_losses(results: Mapping[str, Any]) -> frozenset[str]:
    """Scores that are better when they are lower, as the suites' details say of their figures."""
    return _LOSSES | {
        name.rpartition("/")[2]
        for suite in results["suites"].values()
        for name in suite.get("details", {}).get("lower_is_better", ())
    }


def _asked_alike(one: ItemScore, other: ItemScore) -> bool:
    """Whether the questions are equal, as far as they are known."""
    return one.question == other.question or not one.question or not other.question
