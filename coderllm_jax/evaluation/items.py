"""Which questions are asked: as many about symbols that were trained on as about others.

    evaluation items ── the run's own account of what it saw ──► seen │ unseen
                     ── the same ones whatever order the file has ──► half of each, kinds mixed

`seen` and `unseen` are properties of a model, not of a file: an item counts as seen where the run
has trained on rows of its symbol, whatever `prepare` had planned. Where no run says so (a base
model, an endpoint), the file's word stands.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coderllm_jax.records import EvalItem
from coderllm_jax.training.inputs import vary_kinds


class ChosenItems(NamedTuple):
    """The questions, and how many had another split in the file than in the run's account."""

    items: tuple[EvalItem, ...]
    num_moved: int


def choose_questions(
    items: Sequence[EvalItem],
    max_items: int,
    *,
    times_seen: Mapping[str, int] | None = None,
    least_times: int = 1,
) -> ChosenItems:
    """Up to `max_items` items with an answer to compare with, half of them seen.

    times_seen: how often rows of each symbol were trained on, from the run's training_rows.json.
    An item is seen from `least_times` on; between 0 and that it is neither, and left out. Where one
    half is short, the other fills up.
    """
    sorted_items = []
    num_moved = 0
    for item in items:
        placed = _placed(item, times_seen, least_times)
        if placed is not None:
            num_moved += placed.split != item.split
            sorted_items.append(placed)
    halves = {
        split: vary_kinds(
            sorted(
                (item for item in sorted_items if item.split == split),
                key=lambda item: hashlib.sha256(item.id.encode()).digest(),
            )
        )
        for split in ("seen", "unseen")
    }
    num_seen = min(len(halves["seen"]), max(max_items // 2, max_items - len(halves["unseen"])))
    chosen = halves["seen"][:num_seen] + halves["unseen"][: max_items - num_seen]
    return ChosenItems(tuple(chosen), num_moved)


def _placed(
    item: EvalItem, times_seen: Mapping[str, int] | None, least_times: int
) -> EvalItem | None:
    if times_seen is None or not item.symbol:
        return item
    times = times_seen.get(item.symbol, 0)
    if times >= least_times:
        return dataclasses.replace(item, split="seen")
    return dataclasses.replace(item, split="unseen") if times == 0 else None
