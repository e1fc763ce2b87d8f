"""What an evaluation found, in one screen of the terminal.

    Questions and answers                seen                       unseen
      fact F1                0.412 [0.331, 0.490]  50   0.221 [0.150, 0.300]  50
    ...
    regression gate: passed · no drop beyond the margin is shown in 12 figures
    page  runs/lora/evaluation/report/index.html

Figures are in the order in which they matter, and what finds no room is on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    NONE,
    Figure,
    all_notes,
    load_in_words,
    name_in_words,
    read_figures,
)

_MOST_NOTES = 6
_WIDTH = 110


def describe_results(folder: Path, content: Mapping[str, Any]) -> str:
    """All suites' figures with intervals and numbers of items, notes, the gate, and the page."""
    suites = content.get("suites", {})
    lines: list[str] = []
    for name, suite in suites.items():
        if name == "regression":
            continue
        figures = read_figures(suite)
        lines += [name_in_words(name), *_LINES.get(name, _plain_lines)(figures, suite)]
    lines += _notes([(name, note) for name, note in all_notes(content) if name != "regression"])
    if gate := suites.get("regression"):
        lines += _gate_lines(gate)
    lines.append(f"page  {folder / 'report' / 'index.html'}")
    return "\n".join(map(_printable, lines))


# ------------------------------------------------------------------------------- lines of a suite


def _plain_lines(
    figures: Mapping[str, Figure], _: Mapping[str, Any], *, most: int = 12
) -> list[str]:
    """A line a figure, in the suite's own order."""
    if not figures:
        return ["  nothing was measured"]
    shown = list(figures.values())[:most]
    rows = [(name_in_words(each.name), *_cells(each)) for each in shown]
    return [*_aligned(rows), *_more(len(figures) - len(shown))]


def _answer_lines(figures: Mapping[str, Figure], suite: Mapping[str, Any]) -> list[str]:
    """A line a measure, with seen and unseen side by side."""
    groups = list(dict.fromkeys(each.group for each in figures.values()))
    measures = list(dict.fromkeys(each.measure for each in figures.values()))
    if not groups or groups == [""]:
        return _plain_lines(figures, suite)
    heads: list[str] = [""]
    for group in groups:
        heads += [name_in_words(group), "", ""]
    rows = [heads]
    for measure in measures:
        cells = [name_in_words(measure)]
        for group in groups:
            found = figures.get(f"{group}/{measure}")
            cells += _cells(found) if found else ["", "", ""]
        rows.append(cells)
    return _aligned(rows)


def _load_lines(figures: Mapping[str, Figure], suite: Mapping[str, Any]) -> list[str]:
    """A line a load: throughput, and how long people waited."""
    loads = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in figures))
    rows = [["", "tokens/s", "first token p50", "p95", "per token p50", "end to end p50", "p95"]]
    for load in loads:
        asked = (
            "tokens_out_per_s",
            "time_to_first_token_s/p50",
            "time_to_first_token_s/p95",
            "time_per_token_s/p50",
            "total_s/p50",
            "total_s/p95",
        )
        found = [figures.get(f"{load}/{name}") for name in asked]
        if any(found):
            cells = [each.in_words() if each else NONE for each in found]
            rows.append([load_in_words(load), *cells])
    return _aligned(rows) if len(rows) > 1 else _plain_lines(figures, suite)


_LINES = {"qa_accuracy": _answer_lines, "performance": _load_lines}


# ------------------------------------------------------------------------------------ their parts


def _gate_lines(gate: Mapping[str, Any]) -> list[str]:
    details = gate.get("details", {})
    outcome = details.get("gate", "")
    lines = [f"regression gate: {outcome.replace('_', ' ')} · {details.get('reason', '')}"]
    return [_cut(line) for line in lines]


def _notes(notes: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f"note: {note}" for _, note in notes[:_MOST_NOTES]]
    return [*map(_cut, lines), *_more(len(notes) - len(lines), what="notes")]


def _cells(figure: Figure) -> tuple[str, str, str]:
    around = figure.interval_in_words(between=", ")
    return (
        figure.in_words(),
        f"[{around}]" if around else "",
        f"{figure.num_items:,}" if figure.num_items else "",
    )


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns under one another: the first to the left, the others to the right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _more(count: int, *, what: str = "figures") -> list[str]:
    return [f"  and {count} more {what} on the page"] if count > 0 else []


def _printable(line: str) -> str:
    """Without what could move the cursor: notes quote answers and servers."""
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _cut(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
