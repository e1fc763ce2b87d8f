"""An evaluation page's section about disturbed questions, equal answers, survival and stress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    Figure,
    name_in_words,
    read_figures,
    show_number,
)
from coderllm_jax.reporting.page import grid_table, side_by_side, table, unfold, visible
from coderllm_jax.reporting.row_charts import Group, interval_chart

_MOST_ITEMS = 10
_LETTERS_SHOWN = 200
Rows = Sequence[Mapping[str, Any]]


def robustness_section(suite: Mapping[str, Any], rows: Rows) -> str:
    """What disturbed questions cost, whether answers stay, what survived, and the stress run."""
    figures = read_figures(suite)
    drops = [
        figure.as_interval(name_in_words(figure.group), color=1)
        for figure in figures.values()
        if figure.measure.endswith("_drop")
    ]
    kept = [
        figure.as_interval(name_in_words(name))
        for name, figure in figures.items()
        if figure.measure in ("identical", "passed", "ended_once")
    ]
    charts = [
        interval_chart(
            "Fact F1 lost when a question is disturbed",
            [Group("", drops)],
            show=show_number,
            mark=0,
        ),
        interval_chart(
            "What stays as it is, and what survives",
            [Group("", kept)],
            show=show_number,
            low=0.0,
            high=1.0,
        ),
    ]
    grid = f'<div class="grid-2">{"".join(charts)}</div>' if any(charts) else ""
    return grid + _survival(rows) + _stress(suite, figures) + _disturbed(rows)


def _survival(rows: Rows) -> str:
    cases = [row for row in rows if row.get("group") == "survival"]
    # What was not survived comes first.
    cases.sort(key=lambda row: not row.get("problem"))
    told = grid_table(
        ["case", "ended", "question", "answer or refusal"],
        [
            [
                str(row["id"]).removeprefix("survival:"),
                row.get("problem") or f"survived: {row.get('finish', '')}",
                _brief(row.get("question", "")),
                _brief(row.get("error") or row.get("answer", "")),
            ]
            for row in cases
        ],
        has_texts=True,
    )
    title = f"{len(cases)} questions that nobody should ask, and how they ended"
    return unfold(title, told) if cases else ""


def _stress(suite: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    stress = suite.get("details", {}).get("stress", {})
    rows = [
        (name_in_words(figure.measure), figure.in_words())
        for name, figure in figures.items()
        if name.startswith("stress/")
    ]
    rows += [
        (name.removeprefix("num_"), f"{stress[name]:,}")
        for name in ("num_submitted", "num_answered", "num_cancelled", "num_refused", "num_faults")
        if name in stress
    ]
    return f"<h3>Stress</h3>{table(rows)}" if rows else ""


def _disturbed(rows: Rows) -> str:
    """The answers that a disturbance cost most."""
    pairs = [
        (row["scores"]["clean_fact_f1"] - row["scores"]["fact_f1"], row)
        for row in rows
        if {"clean_fact_f1", "fact_f1"} <= row.get("scores", {}).keys()
    ]
    worst = [(drop, row) for drop, row in sorted(pairs, key=lambda pair: -pair[0]) if drop > 0]
    cards = [
        side_by_side(
            row["question"],
            [("Disturbed", row.get("answer", "")), ("Clean", row.get("clean_answer", ""))],
            under=f"{name_in_words(row.get('way', ''))} · fact F1 lost: {drop:.3f}",
        )
        for drop, row in worst[:_MOST_ITEMS]
    ]
    title = f"The {len(cards)} answers that suffered most, of {len(worst):,} that did"
    return unfold(title, "".join(cards)) if cards else ""


def _brief(words: str) -> str:
    line = visible(" ".join(words.split()))
    return line if len(line) <= _LETTERS_SHOWN else f"{line[: _LETTERS_SHOWN - 1]}…"
