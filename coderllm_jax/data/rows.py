"""From statements to training rows, and what goes on the way, each reason counted in `dropped`.

    statements ─ too long ─ said of another symbol too ─ over the bound of a symbol
      └─ rows, several phrasings each ─ ambiguous ─ repeated ─ over the bound in all

Order decides which of two equals stays, and it is the order that symbols are harvested in; nothing
here draws a random number.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from coderllm_jax.config.data import RowsSection
from coderllm_jax.data.dedupe import exact_duplicates, near_duplicates, normalised, words
from coderllm_jax.data.statements import Statement
from coderllm_jax.data.templates import held_out_question, stable_hash, trained_questions
from coderllm_jax.data.tokens import TokenCounter, row_tokens

Dropped = collections.Counter[str]
T = TypeVar("T")

_NEAR_STATEMENT = 0.9  # Jaccard index at which one symbol's statement repeats another's
# These differ between symbols in the very names that a comparison has to look away from.
_NAMED_KINDS = frozenset({"signature", "example", "which", "implementation"})


class TrainingRow(NamedTuple):
    """One question in one phrasing, and the statement that answers it."""

    question: str
    statement: Statement

    @property
    def answer(self) -> str:
        """What the model is to say."""
        return self.statement.answer

    def fields(self) -> dict[str, str]:
        """The row as it is written."""
        return {
            "question": self.question,
            "answer": self.statement.answer,
            "source": self.statement.source,
            "symbol": self.statement.symbol,
            "kind": self.statement.kind,
            "license": self.statement.license,
        }


def select_statements(
    statements: list[Statement], options: RowsSection, *, count: TokenCounter, dropped: Dropped
) -> list[Statement]:
    """The statements worth asking: short enough, said of one symbol only, so many a symbol."""
    statements = _short_enough(statements, options, count, dropped)
    statements = _without_repeated(statements, dropped)
    return _bounded_per_symbol(statements, options.max_statements_per_symbol, dropped)


def make_rows(
    statements: list[Statement], options: RowsSection, *, dropped: Dropped
) -> list[TrainingRow]:
    """Each statement in `options.phrasings` phrasings, less what repeats or contradicts another."""
    rows = [
        TrainingRow(question, statement)
        for statement in statements
        for question in trained_questions(
            statement.kind, statement.fields, key=statement.key, count=options.phrasings
        )
    ]
    rows = _without_ambiguous(rows, dropped)
    rows = _without_duplicates(rows, options.near_duplicate, dropped)
    return _at_most(rows, options.max_rows, dropped)


def grouped(members: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Members by key, both in order of first appearance."""
    groups: dict[str, list[T]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return groups


def _short_enough(
    statements: list[Statement], options: RowsSection, count: TokenCounter, dropped: Dropped
) -> list[Statement]:
    """Those whose longest phrasing, the held-out one included, makes a row within the bound."""
    kept = []
    for statement in statements:
        kind, fields = statement.kind, statement.fields
        questions = [*trained_questions(kind, fields, key=""), held_out_question(kind, fields)]
        longest = max(questions, key=len)
        if row_tokens(longest, statement.answer, count=count) <= options.max_row_tokens:
            kept.append(statement)
    dropped["statement: over rows.max_row_tokens"] += len(statements) - len(kept)
    return kept


def _without_repeated(statements: list[Statement], dropped: Dropped) -> list[Statement]:
    """Of statements on one kind and subject that differ in the symbol's name alone, the first."""
    repeated: set[str] = set()
    prose = [statement for statement in statements if statement.kind not in _NAMED_KINDS]
    for members in grouped(prose, lambda s: f"{s.kind} {s.subject}").values():
        texts = [_without_name(member) for member in members]
        equal = exact_duplicates(texts)
        distinct = [position for position in range(len(texts)) if position not in equal]
        near = near_duplicates([texts[p] for p in distinct], threshold=_NEAR_STATEMENT)
        repeated.update(members[p].key for p in equal)
        repeated.update(members[distinct[p]].key for p in near)
    dropped["statement: said of another symbol too"] += len(repeated)
    return [statement for statement in statements if statement.key not in repeated]


def _without_name(statement: Statement) -> str:
    short = statement.symbol.rpartition(".")[2].lower()
    return " ".join("it" if word == short else word for word in words(statement.answer))


def _bounded_per_symbol(
    statements: list[Statement], limit: int, dropped: Dropped
) -> list[Statement]:
    """Of each symbol at most `limit`: what it is and its signature first, then kinds in turn."""
    if not limit:
        return statements
    kept: set[str] = set()
    for members in grouped(statements, lambda s: s.symbol).values():
        members.sort(key=_importance)
        turns: collections.Counter[str] = collections.Counter()
        ranked = []
        for member in members:
            ranked.append((turns[member.kind], *_importance(member), member.key))
            turns[member.kind] += 1
        kept.update(entry[-1] for entry in sorted(ranked)[:limit])
    dropped["statement: over rows.max_statements_per_symbol"] += len(statements) - len(kept)
    return [statement for statement in statements if statement.key in kept]


def _importance(statement: Statement) -> tuple[int, int]:
    first = {"purpose": 0, "module": 0, "document": 0, "signature": 1}
    return first.get(statement.kind, 2), stable_hash(statement.key)


def _without_ambiguous(rows: list[TrainingRow], dropped: Dropped) -> list[TrainingRow]:
    """Without questions that have several answers, such as two symbols under one summary."""
    answers: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        answers[normalised(row.question)].add(row.answer)
    kept = [row for row in rows if len(answers[normalised(row.question)]) == 1]
    dropped["row: its question has several answers"] += len(rows) - len(kept)
    return kept


def _without_duplicates(
    rows: list[TrainingRow], threshold: float, dropped: Dropped
) -> list[TrainingRow]:
    texts = [f"{row.question} {row.answer}" for row in rows]
    equal = exact_duplicates(normalised(text) for text in texts)
    distinct = [position for position in range(len(rows)) if position not in equal]
    near = near_duplicates([texts[p] for p in distinct], threshold=threshold)
    dropped["row: repeats another exactly"] += len(equal)
    dropped["row: nearly repeats another"] += len(near)
    return [rows[p] for number, p in enumerate(distinct) if number not in near]


def _at_most(rows: list[TrainingRow], limit: int, dropped: Dropped) -> list[TrainingRow]:
    """At most `limit` rows, by whole symbols: those known by the fewest kinds go first."""
    if not limit or len(rows) <= limit:
        return rows
    symbols = grouped(rows, lambda row: row.statement.symbol)
    order = sorted(
        symbols,
        key=lambda s: (-len({row.statement.kind for row in symbols[s]}), stable_hash(s), s),
    )
    kept: set[str] = set()
    total = 0
    for symbol in order:
        total += len(symbols[symbol])
        if total > limit:
            break
        kept.add(symbol)
    remaining = [row for row in rows if row.statement.symbol in kept]
    dropped["row: over rows.max_rows"] += len(rows) - len(remaining)
    return remaining
