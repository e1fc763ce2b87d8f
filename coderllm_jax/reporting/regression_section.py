"""An evaluation page's section about an earlier result: what the gate says, and what got worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    NONE,
    Figure,
    name_in_words,
    read_figures,
    show_as,
    show_number,
)
from coderllm_jax.reporting.page import grid_table, side_by_side, text, unfold
from coderllm_jax.reporting.row_charts import Group, interval_chart

_MOST_ITEMS = 10
Rows = Sequence[Mapping[str, Any]]


def regression_section(suite: Mapping[str, Any], rows: Rows) -> str:
    """The gate's verdict, every figure then and now, and the items that got worse.

    rows: of all suites, where the items are.
    """
    details = suite.get("details", {})
    changes = details.get("changes", [])
    outcome = details.get("gate", "")
    state = {"passed": "good", "failed": "bad"}.get(outcome, "muted")
    verdict = (
        f'<p><b class="{state}">{text(name_in_words(outcome))}</b> · '
        f"{text(details.get('reason', ''))}</p>"
    )
    judged = [change for change in changes if change.get("adjusted_p") is not None]
    others = [change for change in changes if change.get("adjusted_p") is None]
    return (
        verdict
        + _change_chart(judged, read_figures(suite))
        + _change_table(judged, details)
        + _worse_items(judged, details, rows)
        + _folded("Figures that the gate does not judge", _change_table(others, details))
        + _folded(
            "Figures without items to pair, such as times and rates",
            grid_table(
                ["figure", "baseline", "now"],
                [
                    [each["figure"], *(_as_figure(each, end) for end in ("baseline", "current"))]
                    for each in details.get("unpaired_figures", ())
                ],
            ),
        )
    )


def _change_chart(changes: Sequence[Mapping[str, Any]], figures: Mapping[str, Figure]) -> str:
    suites = dict.fromkeys(change["figure"].partition("/")[0] for change in changes)
    groups = [
        Group(
            name_in_words(suite),
            [
                figures[f"{name}_change"].as_interval(name_in_words(name.partition("/")[2]))
                for name in (change["figure"] for change in changes)
                if name.startswith(f"{suite}/") and f"{name}_change" in figures
            ],
        )
        for suite in suites
    ]
    title = "Change against the baseline; left of zero is worse"
    return interval_chart(title, groups, show=show_number, mark=0.0)


def _change_table(changes: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    failed = set(details.get("regressions", ()))
    return grid_table(
        ["figure", "baseline", "now", "worse", "better", "p", "p (Holm)", ""],
        [
            [
                change["figure"],
                *(_as_figure(change, end) for end in ("baseline", "current")),
                change.get("num_worse", ""),
                change.get("num_better", ""),
                _p(change.get("p_value")),
                _p(change.get("adjusted_p")),
                "regressed" if change["figure"] in failed else "",
            ]
            for change in changes
        ],
    )


def _as_figure(change: Mapping[str, Any], end: str) -> str:
    return NONE if change.get(end) is None else show_as(change["figure"])(change[end])


def _folded(title: str, body: str) -> str:
    return unfold(title, body) if body else ""


def _worse_items(
    changes: Sequence[Mapping[str, Any]], details: Mapping[str, Any], rows: Rows
) -> str:
    """The items of every regressed figure that lost most, with what they say now."""
    failed = set(details.get("regressions", ()))
    asked = {(row.get("suite"), row.get("task_id") or row.get("id")): row for row in rows}
    parts = []
    for change in changes:
        if change["figure"] not in failed:
            continue
        suite = change["figure"].partition("/")[0]
        items = change.get("worse_items", [])[:_MOST_ITEMS]
        cards = [_worse_item(item, asked.get((suite, item["id"]), {})) for item in items]
        title = f"{change['figure']}: {change.get('num_worse', len(items))} items got worse"
        parts.append(unfold(title, "".join(cards)))
    return "".join(parts)


def _worse_item(item: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    columns = [
        ("Now", row.get("completion") or row.get("answer")),
        ("Reference", row.get("reference_answer")),
    ]
    return side_by_side(
        str(row.get("question") or item["id"]),
        [(name, words) for name, words in columns if words is not None],
        under=f"{item['id']}: {show_number(item['baseline'])} → {show_number(item['current'])}",
    )


def _p(value: float | None) -> str:
    return NONE if value is None else f"{value:.2g}"
