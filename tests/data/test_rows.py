"""From statements to rows: what goes, why, and that the rest stays."""

from __future__ import annotations

import collections
import dataclasses

from coderllm_jax.config.data import RowsSection
from coderllm_jax.data.rows import make_rows, select_statements
from coderllm_jax.data.statements import Statement
from coderllm_jax.data.tokens import estimate_tokens, row_tokens

ANSWER = "Computes the weighted mean of all values that were given to it before."


def statement(symbol, kind="purpose", answer=ANSWER, subject="", **fields):
    names = {"name": symbol, "package": "p", "subject": subject, "summary": answer, **fields}
    return Statement(symbol, kind, subject, answer, answer, "p 1", "MIT", names)


def select(statements, **options):
    dropped: collections.Counter[str] = collections.Counter()
    options = dataclasses.replace(RowsSection(), **options)
    return select_statements(statements, options, count=estimate_tokens, dropped=dropped), dropped


def rows(statements, **options):
    dropped: collections.Counter[str] = collections.Counter()
    return make_rows(
        statements, dataclasses.replace(RowsSection(), **options), dropped=dropped
    ), dropped


def test_what_is_said_of_another_symbol_but_for_its_name_goes():
    kept, dropped = select(
        [
            statement(
                "p.adam", answer="The adam optimizer with all of its usual options and more."
            ),
            statement("p.sgd", answer="The sgd optimizer with all of its usual options and more."),
            statement("p.lion", answer="Something else entirely is said of this one here."),
            statement(
                "p.sgd",
                kind="returns",
                answer="The sgd optimizer with all of its usual options and more.",
            ),
        ]
    )
    assert [(s.symbol, s.kind) for s in kept] == [
        ("p.adam", "purpose"),
        ("p.lion", "purpose"),
        ("p.sgd", "returns"),
    ]
    assert dropped["statement: said of another symbol too"] == 1


def test_a_bounded_symbol_keeps_several_kinds_and_its_purpose():
    many = [
        statement("p.f", "argument", f"Argument number {n} of many.", f"a{n}") for n in range(9)
    ]
    many += [
        statement("p.f", kind, f"Says what {kind} is.")
        for kind in ("returns", "purpose", "signature")
    ]
    kept, dropped = select(many, max_statements_per_symbol=4)
    assert sorted(s.kind for s in kept) == ["argument", "purpose", "returns", "signature"]
    assert dropped["statement: over rows.max_statements_per_symbol"] == 8


def test_the_longest_phrasing_fits_too():
    kept, dropped = select(
        [statement("p.f"), statement("p." + "long_name_" * 12)], max_row_tokens=60
    )
    assert [s.symbol for s in kept] == ["p.f"]
    assert dropped["statement: over rows.max_row_tokens"] == 1
    for row in rows(kept, phrasings=4)[0]:
        assert row_tokens(row.question, row.answer, count=estimate_tokens) <= 60


def test_a_question_with_two_answers_is_none():
    found, dropped = rows(
        [
            statement("p.f", "which", "`p.f`", summary="Adds two things."),
            statement("p.g", "which", "`p.g`", summary="Adds two things."),
            statement("p.h", "which", "`p.h`", summary="Takes two things apart."),
        ],
        phrasings=3,
    )
    assert {row.statement.symbol for row in found} == {"p.h"}
    # Each statement enters the circle of phrasings elsewhere: all of them are compared.
    assert dropped["row: its question has several answers"] == 6


def test_a_second_phrasing_of_a_long_answer_is_a_near_duplicate():
    long = " ".join(f"Sentence number {n} says something new." for n in range(12))
    found, dropped = rows([statement("p.f", answer=long), statement("p.g", answer="Short one.")])
    assert collections.Counter(row.statement.symbol for row in found) == {"p.f": 1, "p.g": 2}
    assert dropped["row: nearly repeats another"] == 1


def test_too_many_rows_are_cut_by_whole_symbols():
    poor = [statement(f"p.poor{n}", answer=f"Poor number {n} here.") for n in range(20)]
    rich = [
        statement(f"p.rich{n}", kind, f"Rich {kind} number {n}.")
        for n in range(5)
        for kind in ("purpose", "returns")
    ]
    found, dropped = rows(poor + rich, phrasings=1, max_rows=16)
    counts = collections.Counter(row.statement.symbol for row in found)
    assert {s for s, n in counts.items() if n == 2} == {f"p.rich{n}" for n in range(5)}
    assert len(found) == 16
    assert dropped["row: over rows.max_rows"] == 14
