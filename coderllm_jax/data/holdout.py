"""Evaluation questions out of the training rows, for data that came without any.

    rows      a.f  a.f  a.g  b.h  b.h  (symbol)         held out    a.g
    trained   a.f  a.f       b.h  b.h                   every row about it, and no other

Whole symbols are held out (or single questions where rows name no symbol), so that no phrasing
about a question that is asked was trained on. Symbols of more rows than may be given up are passed
over. Which ones are taken hangs on their text and size alone: the same rows in another order give
the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from coderllm_jax.errors import DataError
from coderllm_jax.records import EvalItem, Example

# At most this part of the rows is given up for evaluation.
_LARGEST_PART = 0.05


class Holdout(NamedTuple):
    """`kept` are places of the rows that remain for training; `items` are of the others."""

    kept: list[int]
    items: list[EvalItem]


def hold_out(examples: Sequence[Example], *, max_items: int) -> Holdout:
    """Splits whole symbols off: at most `max_items` rows and 5 % of all, but at least one row.

    Where every symbol has more rows than that, the one with the fewest goes as a whole, which is
    logged; at most `max_items` of its rows become items. Raises DataError where all rows are about
    one thing.
    """
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(_group(example), []).append(place)
    if len(groups) < 2:
        raise DataError(
            f"all {len(examples)} rows are about one thing, so none can be held out for "
            "evaluation; add rows or set data.evaluation_path"
        )
    wanted = max(1, min(max_items, int(len(examples) * _LARGEST_PART)))
    held: list[int] = []
    for name in sorted(groups, key=_digest):
        if len(held) + len(groups[name]) <= wanted:
            held += groups[name]
    if not held:
        smallest = min(groups, key=lambda name: (len(groups[name]), _digest(name)))
        held = groups[smallest]
        logging.warning(
            "%d of %d rows are held out for evaluation, more than %d: they are all about one "
            "thing, %s, and every other has as many; set data.evaluation_path to train on all",
            len(held),
            len(examples),
            wanted,
            smallest,
        )
    out = set(held)
    return Holdout(
        kept=[place for place in range(len(examples)) if place not in out],
        items=[_item(examples[place], place) for place in held[:max_items]],
    )


def _group(example: Example) -> str:
    return f"symbol {example.symbol}" if example.symbol else f"question {example.question}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _item(example: Example, place: int) -> EvalItem:
    return EvalItem(
        id=f"row-{place}",
        question=example.question,
        answer=example.answer,
        split="unseen",
        source=example.source,
        symbol=example.symbol,
        kind=example.kind,
        license=example.license,
    )
