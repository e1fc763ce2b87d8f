"""A comparison on the terminal: the table, the verdicts, which arm for what, and where the page is.

                      trained               rag                   base
Fact F1          0.41 [0.33, 0.49]   0.52 [0.44, 0.60]    0.22 [0.15, 0.30]
…

Fact F1: rag is better than base by 0.300 (0.210 to 0.380)
…
interactive   trained   strong   …
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_WIDTH = 130
_MOST_VERDICTS, _MOST_NOTES = 12, 6


def describe_comparison(folder: Path, content: Mapping[str, Any]) -> str:
    """Everything that a terminal shows of comparison.json; notes may quote answers."""
    lines = [
        *_table(content),
        "",
        *_prompts(content),
        "",
        *_verdicts(content),
        "",
        *_recommendations(content),
        *[f"not scored: {text}" for text in content["unscored"]],
        *[f"note: {text}" for text in content["notes"][:_MOST_NOTES]],
        f"page: {folder / 'report' / 'index.html'}",
    ]
    return "\n".join(_printable(line) for line in lines)


def _table(content: Mapping[str, Any]) -> list[str]:
    """A row a headline figure, a column an arm."""
    arms = [arm["name"] for arm in content["arms"]]
    rows: list[list[str]] = [["", *arms]]
    main = next(each["name"] for each in content["sets"] if each["is_headline"])
    for dimension in content["dimensions"]:
        for figure in dimension["figures"]:
            if not figure["is_headline"]:
                continue
            of_other_set = figure["set"] not in ("", main)
            name = f"{figure['label']} ({figure['set']})" if of_other_set else figure["label"]
            cells = [
                _cell(figure["arms"][arm], figure["unit"]) if arm in figure["arms"] else "-"
                for arm in arms
            ]
            rows.append([name, *cells])
    return _aligned(rows)


def _prompts(content: Mapping[str, Any]) -> list[str]:
    rows = []
    for arm in content["arms"]:
        prompt = arm["prompt"]
        best = next((each for each in prompt["candidates"] if each["is_chosen"]), None)
        of = ""
        if best is not None:
            of = f"best of {len(prompt['candidates'])} on {prompt['num_items']} other questions"
        rows.append([arm["name"], arm["model"], prompt["chosen"], of])
    return _aligned(rows, right=False)


def _verdicts(content: Mapping[str, Any]) -> list[str]:
    headline = [each for each in content["comparisons"] if each["is_headline"]]
    shown = [each for each in headline if each["family"] == "accuracy"] or headline
    lines = [f"  {_cut(each['words'])}" for each in shown[:_MOST_VERDICTS]]
    more = len(content["comparisons"]) - len(lines)
    return [*lines, *([f"  and {more} more on the page"] if more > 0 else [])]


def _recommendations(content: Mapping[str, Any]) -> list[str]:
    rows = [
        [each["label"], each["arm"] or "none", each["strength"], each["words"]]
        for each in content["recommendations"]
    ]
    return [_cut(line) for line in _aligned(rows, right=False)]


def _cell(estimate: Mapping[str, Any], unit: str) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    if low is None or high is None:
        return in_words(value, unit)
    return f"{in_words(value, unit)} [{in_words(low, unit)}, {in_words(high, unit)}]"


def in_words(value: float, unit: str) -> str:
    """A number in a table; its unit only where the row's name does not say it."""
    if unit == "share":
        return f"{value:.2f}"
    if unit == "seconds":
        return f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:.1f} s"
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB"
    if unit == "chip-seconds":
        return f"{value:,.0f} s"
    if unit in ("tokens/s", "answers/s"):
        return f"{value:.3g}/s"
    return f"{value:.4g}"


def _aligned(rows: Iterable[Sequence[str]], *, right: bool = True) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _printable(line: str) -> str:
    """Without what could move the cursor: notes quote answers and servers."""
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
