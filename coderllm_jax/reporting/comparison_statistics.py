"""A comparison page's table of arms against arms, and the headline differences as a chart.

    Retrieval against Base  0.457  0.371 to 0.541   p 0.0006   d 1.1   40 better, 3 worse   better
    ─────────────────────┼────────●────

A difference is of the first arm from the second. Nothing is tested here: differences, intervals, p
after Holm, and verdicts are `comparison.verdicts`'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    Show,
    label_of,
    main_figure,
    number_of,
    range_in_words,
    read_arms,
    read_figures,
    set_labels,
    show_in,
)
from coderllm_jax.reporting.comparison_filter import pick
from coderllm_jax.reporting.evaluation_figures import NONE
from coderllm_jax.reporting.page import text, unfold
from coderllm_jax.reporting.row_charts import Group, Interval, interval_chart

_VERDICTS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "no_difference": "no difference these data can show",
}
_STATES = {"better": "good", "worse": "bad"}
_EFFECTS = {"cohens_dz": "d", "odds_ratio": "odds ratio"}
_COLUMNS = (
    *("verdict on the first", "difference", "p after Holm", "effect", "smallest to be seen"),
    "better / worse on",
)
_GREY = 5
_MINUS = "\u2212"
Row = Mapping[str, Any]


def statistics_part(content: Content) -> str:
    """The headline's differences, drawn and in a table; everything else that was tested, folded."""
    rows = content.get("comparisons", ())
    if not rows:
        return ""
    headline = [row for row in rows if row.get("is_headline")] or list(rows)
    others = [row for row in rows if not any(row is each for each in headline)]
    words = (
        "Every difference is the first arm's figure less the second's, on the questions that both "
        "have, with its 95 % interval. p is adjusted over everything that is tested with it, so "
        "that all of it together raises a false alarm as seldom as one test would. The smallest "
        "to be seen is the difference that so many items would show four times in five."
    )
    parts = [_chart(content, headline), f'<p class="muted">{words}</p>', _table(content, headline)]
    if others:
        title = f"{len(others)} more comparison{'s' * (len(others) != 1)}"
        parts.append(unfold(title, _table(content, others)))
    return "".join(parts)


def _chart(content: Content, rows: Sequence[Row]) -> str:
    figure, arms, labels = main_figure(content), read_arms(content), set_labels(content)
    if figure is None:
        return ""
    found = [
        row
        for row in rows
        if (row.get("dimension"), row.get("figure"), row.get("set", ""))
        == (figure.dimension, figure.name, figure.set)
    ]
    intervals = [
        Interval(
            f"{label_of(arms, row.get('first'))} against {label_of(arms, row.get('second'))}",
            number_of(row.get("difference"), "value"),
            number_of(row.get("difference"), "low"),
            number_of(row.get("difference"), "high"),
            color=_winner(row, arms),
        )
        for row in found
    ]
    title = f"Differences in {figure.label} · {labels.get(figure.set, figure.set)}"
    return interval_chart(title, [Group("", intervals)], show=_signed(figure.unit), mark=0.0)


def _winner(row: Row, arms: Mapping[str, Arm]) -> int:
    """The colour of whoever is better; grey where nobody is shown to be."""
    which = {"better": "first", "worse": "second"}.get(str(row.get("verdict")), "")
    name = str(row.get(which, ""))
    return arms[name].color if name in arms else _GREY


def _table(content: Content, rows: Sequence[Row]) -> str:
    """A group of rows for each figure of each set, under its name."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (str(row.get("dimension", "")), str(row.get("figure", "")), str(row.get("set", "")))
        groups.setdefault(key, []).append(row)
    head = "".join(f"<th>{text(each)}</th>" for each in ("arms", *_COLUMNS))
    body = "".join(
        f'<tr class="group"><th colspan="{len(_COLUMNS) + 1}">'
        f"{text(_group_name(content, found[0]))}</th></tr>"
        f"{''.join(_row(content, row) for row in found)}"
        for found in groups.values()
    )
    return (
        f'<div class="wide tests" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _group_name(content: Content, row: Row) -> str:
    of_set = str(row.get("set", ""))
    parts = [_figure_label(content, row), set_labels(content).get(of_set, of_set)]
    return " · ".join(part for part in parts if part)


def _row(content: Content, row: Row) -> str:
    arms, unit = read_arms(content), str(row.get("unit", ""))
    first, second = (label_of(arms, row.get(which)) for which in ("first", "second"))
    show = _signed(unit)
    value, low, high = (number_of(row.get("difference"), each) for each in ("value", "low", "high"))
    around = range_in_words(low, high, show) if low is not None and high is not None else ""
    detectable = number_of(row, "detectable_difference")
    items = f"{row.get('num_items', 0):,}"
    if row.get("num_clusters", row.get("num_items")) != row.get("num_items"):
        items += f" in {row['num_clusters']:,} clusters"
    verdict = str(row.get("verdict", ""))
    test = str(row.get("test", "")).replace("_", " ")
    cells = (
        text(_VERDICTS.get(verdict, verdict)),
        f"<b>{text(show(value) if value is not None else NONE)}</b><small>{text(around)}</small>",
        f"{text(_p(row.get('adjusted_p')))}"
        f"<small>{text(_p(row.get('p_value')))} before; {text(test)}</small>",
        text(_effect(row)),
        text(NONE if detectable is None else show_in(unit)(detectable)),
        f"{_picks(content, row, _figure_label(content, row))} of {text(items)}",
    )
    kinds = (f"verdict {_STATES.get(verdict, 'muted')}", *[""] * (len(cells) - 1))
    told = "".join(
        f'<td class="{kind}" data-name="{name}">{cell}</td>'
        for kind, name, cell in zip(kinds, _COLUMNS, cells, strict=True)
    )
    return f"<tr><th>{text(first)} against {text(second)}</th>{told}</tr>"


def _figure_label(content: Content, row: Row) -> str:
    for figure in read_figures(content, str(row.get("dimension", ""))):
        if (figure.name, figure.set) == (row.get("figure"), row.get("set", "")):
            return figure.label
    return str(row.get("figure", ""))


def _picks(content: Content, row: Row, name: str) -> str:
    """How many items are better and worse, each a way to them where they are questions."""
    first, second = str(row.get("first")), str(row.get("second"))
    figure, arms = str(row.get("figure", "")), read_arms(content)
    better: list[int] = []
    worse: list[int] = []
    turn = -1 if row.get("better") == "lower" else 1
    for number, question in enumerate(content.get("questions", ())):
        answers = question.get("answers", {})
        a, b = (answers.get(arm, {}).get("scores", {}).get(figure) for arm in (first, second))
        if question.get("set") == row.get("set") and None not in (a, b) and a != b:
            (better if (a - b) * turn > 0 else worse).append(number)
    told = [
        (row.get("num_better", 0), better, "better"),
        (row.get("num_worse", 0), worse, "worse"),
    ]
    return " / ".join(
        pick(
            f"{count:,}",
            numbers if len(numbers) == count else (),
            f"{label_of(arms, first)} is {word} than {label_of(arms, second)} in {name}",
        )
        for count, numbers, word in told
    )


def _effect(row: Row) -> str:
    size, name = row.get("effect_size"), str(row.get("effect", ""))
    if size is None:
        return NONE
    if not math.isfinite(size):
        return f"{_EFFECTS.get(name, name)} beyond any number"
    return f"{_EFFECTS.get(name, name)} {size:.2f}".replace("-", _MINUS)


def _p(value: float | None) -> str:
    """Three decimals; two digits where those would be zeros."""
    if value is None:
        return NONE
    if value >= 0.001 or not value:
        return f"{value:.3f}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}" if value >= 1e-6 else "< 0.000001"


def _signed(unit: str) -> Show:
    show = show_in(unit)
    return lambda value: f"{'+' if value > 0 else _MINUS if value < 0 else ''}{show(abs(value))}"
