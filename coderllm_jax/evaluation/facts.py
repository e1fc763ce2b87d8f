"""Fact F1 (first version)."""

from __future__ import annotations

import re
from typing import NamedTuple

from coderllm_jax.records import EvalItem


class FactScore(NamedTuple):
    """How an answer stands to an item's facts; `wrong` are claims that nothing supports."""

    f1: float
    precision: float
    recall: float
    found: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]


def score_facts(answer: str, item: EvalItem) -> FactScore | None:
    """The answer's facts against the item's; None where the item has none."""
    if not item.facts:
        return None
    found = tuple(
        fact
        for fact in item.facts
        if re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", answer, re.IGNORECASE)
    )
    missed = tuple(fact for fact in item.facts if fact not in found)
    recall = len(found) / len(item.facts)
    return FactScore(recall, float(bool(found)), recall, found, missed, ())
