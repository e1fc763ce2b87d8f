"""An evaluation page's section about programs: how many pass, how the others fail, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    HUMAN_EVAL,
    name_in_words,
    read_figures,
    show_number,
)
from coderllm_jax.reporting.page import shares, side_by_side, text, unfold
from coderllm_jax.reporting.row_charts import Group, interval_chart

_MOST_OPEN, _MOST_FAILURES = 4, 60
# In the order of the bar; the same colour for a cause on every page.
_CAUSE_COLORS = {
    "passed": "good",
    "wrong answer": "series-1",
    "exception": "series-3",
    "syntax": "series-0",
    "timeout": "series-5",
    "memory": "series-4",
    "exit": "bad",
    "refused": "muted",
}
Rows = Sequence[Mapping[str, Any]]


def code_section(suite: Mapping[str, Any], rows: Rows) -> str:
    """pass@k by set, what became of the programs, and failures to read."""
    figures = read_figures(suite)
    groups = [
        Group(
            measure,
            [
                figure.as_interval(name_in_words(figure.group))
                for figure in figures.values()
                if figure.measure == measure
            ],
        )
        for measure in dict.fromkeys(figure.measure for figure in figures.values())
    ]
    title = "Programs that pass all tests, 0 to 1"
    chart = interval_chart(title, groups, show=show_number, low=0.0, high=1.0)
    return chart + _verdicts(suite) + _failures(rows)


def _verdicts(suite: Mapping[str, Any]) -> str:
    sets = suite.get("details", {}).get("sets", {})
    known = dict.fromkeys(_CAUSE_COLORS, 0)
    cards = []
    for name, found in sorted(sets.items(), key=lambda pair: pair[0] != HUMAN_EVAL):
        counts = {"passed": found.get("verdicts", {}).get("passed", 0), **found.get("causes", {})}
        bar = shares(
            [(what, count, f"{count:,}") for what, count in ({**known, **counts}).items()],
            colors=tuple(_CAUSE_COLORS.values()),
        )
        cards.append(
            f'<div class="card"><h3>{text(name_in_words(name))}</h3>'
            f'<p class="muted">{found.get("samples", 0):,} programs for '
            f"{found.get('problems', 0):,} problems</p>{bar}</div>"
        )
    return f'<div class="grid-2">{"".join(cards)}</div>' if cards else ""


def _failures(rows: Rows) -> str:
    failed = [row for row in rows if row.get("verdict") not in (None, "passed")]
    if not failed:
        return ""
    cards = [
        side_by_side(
            str(row.get("task_id") or row.get("id", "")),
            [("Asked", row.get("question", "")), ("Answered", _said(row))],
            under=" · ".join(
                str(part) for part in (row["verdict"], row.get("cause"), row.get("reason")) if part
            ),
        )
        for row in _varied(failed)[:_MOST_FAILURES]
    ]
    return _to_read("Failures to read", cards, len(failed))


def _varied(rows: Rows) -> list[Mapping[str, Any]]:
    """Every set and cause in turn, so that the first ones shown are not all of one kind."""
    piles: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        piles.setdefault((row.get("set"), row.get("cause")), []).append(row)
    ranked = [(rank, row) for pile in piles.values() for rank, row in enumerate(pile)]
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def _said(row: Mapping[str, Any]) -> str:
    return row.get("completion") or row.get("answer") or ""


def _to_read(title: str, cards: Sequence[str], total: int) -> str:
    """The first cards open, the others folded, and how many more there are."""
    more = total - len(cards)
    rest = "".join(cards[_MOST_OPEN:])
    return (
        f"<h3>{text(title)}</h3>"
        + "".join(cards[:_MOST_OPEN])
        + (unfold(f"{len(cards) - _MOST_OPEN} more", rest) if rest else "")
        + (f'<p class="muted">and {more:,} more in samples.jsonl</p>' if more > 0 else "")
    )
