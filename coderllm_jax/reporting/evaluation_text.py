"""What an evaluation found, in one screen of the terminal.

    Questions and answers                seen                       unseen
      fact F1                0.412 [0.331, 0.490]  50   0.221 [0.150, 0.300]  50
    ...
    regression gate: passed · no drop beyond the margin is shown in 12 figures
    page  runs/lora/evaluation/report/index.html

Figures are in the order in which they matter, and what finds no room is on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

_MOST_LINES, _MOST_NOTES, _MOST_CAUSES, _MOST_REGRESSIONS = 12, 4, 3, 4
_SPLITS = ("seen", "unseen")
# Shown on the page alone.
_LESS_TELLING = frozenset({"rouge1", "rouge2", "threads_growth", "descriptors_growth"})
_WIDTH = 110


def describe_results(folder: Path, content: Mapping[str, Any]) -> str:
    """All suites' figures with intervals and numbers of items, notes, the gate, and the page."""
    suites = content.get("suites", {})
    lines: list[str] = []
    for name, suite in suites.items():
        if name == "regression":
            continue
        figures = {
            key: figure
            for key, figure in read_figures(suite).items()
            if figure.measure not in _LESS_TELLING
        }
        lines += [name_in_words(name), *_LINES.get(name, _plain_lines)(figures, suite)]
    lines += _notes([(name, note) for name, note in all_notes(content) if name != "regression"])
    if gate := suites.get("regression"):
        lines += _gate_lines(gate)
    lines.append(f"page  {folder / 'report' / 'index.html'}")
    return "\n".join(map(_printable, lines))


# ------------------------------------------------------------------------------- lines of a suite


def _plain_lines(figures: Mapping[str, Figure], _: Mapping[str, Any]) -> list[str]:
    """A line a figure, in the suite's own order."""
    if not figures:
        return ["  nothing was measured"]
    shown = list(figures.values())[:_MOST_LINES]
    rows = [(name_in_words(each.name), *_cells(each)) for each in shown]
    return [*_aligned(rows), *_more(len(figures) - len(shown))]


def _answer_lines(figures: Mapping[str, Figure], suite: Mapping[str, Any]) -> list[str]:
    """A line a measure, with seen and unseen side by side; a judge's below."""
    splits = [split for split in _SPLITS if any(each.group == split for each in figures.values())]
    if not splits:
        return _plain_lines(figures, suite)
    rows = [["", *(cell for split in splits for cell in (split, "", ""))]]
    of_splits = [figure for figure in figures.values() if figure.group in splits]
    for measure in dict.fromkeys(figure.measure for figure in of_splits):
        cells = [name_in_words(measure)]
        for split in splits:
            found = figures.get(f"{split}/{measure}")
            cells += _cells(found) if found else ["", "", ""]
        rows.append(cells)
    others = {name: each for name, each in figures.items() if each.group not in splits}
    return _aligned(rows) + (_plain_lines(others, suite) if others else [])


def _code_lines(figures: Mapping[str, Figure], suite: Mapping[str, Any]) -> list[str]:
    """A line a set and k; the first of a set says why its programs failed."""
    sets = dict(suite.get("details", {}).get("sets", {}))
    lines = _plain_lines(figures, suite)
    for place, figure in enumerate(list(figures.values())[:_MOST_LINES]):
        lines[place] += _causes(sets.pop(figure.group, {}))
    return lines


def _load_lines(figures: Mapping[str, Figure], suite: Mapping[str, Any]) -> list[str]:
    """A line a load: throughput, and how long people waited."""
    loads = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in figures))
    rows = [
        [load_in_words(load), *(_value(figures, f"{load}/{name}") for name in _OF_A_LOAD)]
        for load in loads
    ]
    # A column in which nothing is known says nothing.
    heads = ["", *_OF_A_LOAD.values()]
    shown = [i for i in range(len(heads)) if i == 0 or any(row[i] != NONE for row in rows)]
    if len(shown) == 1:
        return _plain_lines(figures, suite)
    return _aligned([[row[i] for i in shown] for row in (heads, *rows)])


_OF_A_LOAD = {
    "tokens_out_per_s": "tokens/s",
    "time_to_first_token_s/p50": "first token p50",
    "time_to_first_token_s/p95": "p95",
    "time_per_token_s/p50": "per token p50",
    "total_s/p50": "end to end p50",
    "total_s/p95": "p95",
}
_LINES: Mapping[str, Callable[[Mapping[str, Figure], Mapping[str, Any]], list[str]]] = {
    "code_generation": _code_lines,
    "qa_accuracy": _answer_lines,
    "performance": _load_lines,
}


# ------------------------------------------------------------------------------------ their parts


def _gate_lines(gate: Mapping[str, Any]) -> list[str]:
    """The verdict; where it failed, a line a figure that did, else the reason."""
    details = gate.get("details", {})
    failed = set(details.get("regressions", ()))
    regressed = [each for each in details.get("changes", ()) if each["figure"] in failed]
    head = f"regression gate: {name_in_words(details.get('gate', ''))}"
    if not regressed:
        return [_cut(f"{head} · {details.get('reason', '')}")]
    lines = [
        f"  {each['figure']}: {each['baseline']:.3f} → {each['current']:.3f} on "
        f"{each['num_pairs']} pairs, p {each['adjusted_p']:.2g} after Holm"
        for each in regressed[:_MOST_REGRESSIONS]
    ]
    return [head, *lines, *_more(len(regressed) - len(lines))]


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


def _causes(found: Mapping[str, Any]) -> str:
    causes = list(found.get("causes", {}).items())[:_MOST_CAUSES]
    return "".join(
        f"{', ' if i else '   '}{name} {count:,}" for i, (name, count) in enumerate(causes)
    )


def _value(figures: Mapping[str, Figure], name: str) -> str:
    return figures[name].in_words() if name in figures else NONE


def _more(count: int, *, what: str = "figures") -> list[str]:
    return [f"  and {count} more {what} on the page"] if count > 0 else []


def _printable(line: str) -> str:
    """Without what could move the cursor: notes quote answers and servers."""
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _cut(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
