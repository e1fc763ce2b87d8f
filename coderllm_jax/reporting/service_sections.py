"""An evaluation page's sections about how answers come: speed, robustness, and regressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    NONE,
    Figure,
    load_in_words,
    name_in_words,
    read_figures,
    show_bytes,
    show_number,
    show_rate,
    show_seconds,
)
from coderllm_jax.reporting.page import grid_table, side_by_side, table, text, unfold
from coderllm_jax.reporting.row_charts import Bar, Group, Interval, bar_chart, interval_chart

Rows = Sequence[Mapping[str, Any]]
_SHARES = ("p50", "p95", "p99")
_TIMES = ("time_to_first_token_s", "time_per_token_s", "total_s")
_MOST_SHOWN = 60
_MOST_ITEMS = 10


# ----------------------------------------------------------------------------------- performance


def performance_sections(suite: Mapping[str, Any], _: Rows) -> str:
    """Waiting times by load, throughput, and what is apart from both: warm-up and compilation."""
    figures = read_figures(suite)
    loads = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in figures))
    throughput = [
        Bar(load_in_words(load), [_value(figures, f"{load}/tokens_out_per_s")], color=2)
        for load in loads
    ]
    charts = [
        *(_waits(name, loads, figures) for name in _TIMES),
        bar_chart("Throughput, new tokens", throughput, show=show_rate),
    ]
    known = suite.get("details", {}).get("loads", {})
    return f'<div class="grid-2">{"".join(charts)}</div>' + _loads(known, figures)


def _waits(name: str, loads: Sequence[str], figures: Mapping[str, Figure]) -> str:
    bars = [
        Bar(
            load_in_words(load),
            [_value(figures, f"{load}/{name}/{share}") for share in _SHARES],
        )
        for load in loads
        if any(f"{load}/{name}/{share}" in figures for share in _SHARES)
    ]
    title = f"{name_in_words(name).capitalize()}: p50, p95, p99"
    return bar_chart(title, bars, show=show_seconds, names=_SHARES)


def _loads(loads: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    rows = [
        [
            load_in_words(name),
            f"{load.get('num_answered', 0):,} of {load.get('num_requests', 0):,}",
            f"{load.get('num_errors', 0):,}",
            f"{load.get('num_cut', 0):,}",
            *(
                _shown(figures, f"{name}/{rate}")
                for rate in ("requests_per_s", "tokens_in_per_s", "tokens_out_per_s")
            ),
            *(_seconds(load, part) for part in ("warm_up_s", "compile_s", "late_compile_s")),
            _seconds(load, "cpu_s"),
            show_bytes(load.get("peak_memory_bytes", 0)),
        ]
        for name, load in loads.items()
    ]
    head = (
        *("load", "answered", "errors", "cut off", "requests", "tokens in", "tokens out"),
        *("warm-up", "of it compiling", "compiling later", "CPU", "peak memory"),
    )
    return grid_table(head, rows)


def _seconds(load: Mapping[str, Any], name: str) -> str:
    return show_seconds(load[name]) if load.get(name) is not None else NONE


# ------------------------------------------------------------------------------------ robustness


def robustness_sections(suite: Mapping[str, Any], rows: Rows) -> str:
    """What disturbed questions cost, whether answers stay, what survived, and the stress run."""
    figures = read_figures(suite)
    drops = [
        _interval(figure, name_in_words(figure.group), what="questions", color=1)
        for figure in figures.values()
        if figure.measure.endswith("_drop")
    ]
    kept = [
        _interval(figure, name_in_words(name), what="questions")
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
    return (
        unfold(
            f"All {len(cases)} questions that nobody should ask, and how they ended",
            grid_table(
                ["case", "ended", "question", "answer or refusal", "problem"],
                [
                    [
                        str(row["id"]).removeprefix("survival:"),
                        row.get("finish", ""),
                        _brief(row.get("question", "")),
                        _brief(row.get("error") or row.get("answer", "")),
                        row.get("problem") or "survived",
                    ]
                    for row in cases
                ],
            ),
        )
        if cases
        else ""
    )


def _stress(suite: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    stress = suite.get("details", {}).get("stress", {})
    rows = [
        (name_in_words(figure.measure), figure.in_words())
        for name, figure in figures.items()
        if name.startswith("stress/")
    ]
    rows += [
        (name_in_words(name), f"{stress[name]:,}")
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


# ------------------------------------------------------------------------------------ regression


def regression_sections(suite: Mapping[str, Any], _: Rows) -> str:
    """The gate's verdict, every figure then and now, and the items that got worse."""
    details = suite.get("details", {})
    changes = details.get("changes", [])
    outcome = details.get("outcome", "")
    state = {"passed": "good", "failed": "bad"}.get(outcome, "muted")
    verdict = (
        f'<p><b class="{state}">{text(name_in_words(outcome))}</b> · '
        f"{text(details.get('reason', ''))}</p>"
    )
    rows = [
        Interval(
            change["figure"],
            _negated(change["drop"].get("value")),
            _negated(change["drop"].get("high")),
            _negated(change["drop"].get("low")),
            under=f"{change.get('num_pairs', 0):,} pairs",
        )
        for change in changes
    ]
    chart = interval_chart(
        "Change against the baseline; left of the line is worse",
        [Group("", rows)],
        show=show_number,
        mark=0.0,
    )
    return verdict + chart + _changes(changes, details) + _worse_items(changes, details)


def _changes(changes: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    failed = set(details.get("regressions", ()))
    return grid_table(
        ["figure", "baseline", "now", "worse", "better", "p", "p (Holm)", "verdict"],
        [
            [
                change["figure"],
                show_number(change["baseline"]),
                show_number(change["current"]),
                change.get("num_worse", ""),
                change.get("num_better", ""),
                _p(change.get("p_value")),
                _p(change.get("adjusted_p")),
                "regressed" if change["figure"] in failed else "",
            ]
            for change in changes
        ],
    )


def _worse_items(changes: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    failed = set(details.get("regressions", ()))
    return "".join(
        unfold(
            f"{change['figure']}: items that got worse",
            table(
                (item["id"], f"{show_number(item['baseline'])} → {show_number(item['current'])}")
                for item in change.get("worse_items", [])
            ),
        )
        for change in changes
        if change["figure"] in failed
    )


# ---------------------------------------------------------------------------------------- shared


def plain_sections(suite: Mapping[str, Any], _: Rows) -> str:
    """Any suite: its figures in a table."""
    return grid_table(
        ["figure", "value", "interval", "items"],
        [
            [name, figure.in_words(), figure.interval_in_words(), f"{figure.num_items:,}"]
            for name, figure in read_figures(suite).items()
        ],
    )


def _interval(figure: Figure, name: str, *, what: str, color: int = 0) -> Interval:
    return Interval(
        name, figure.value, figure.low, figure.high, f"{figure.num_items:,} {what}", color
    )


def _value(figures: Mapping[str, Figure], name: str) -> float | None:
    return figures[name].value if name in figures else None


def _shown(figures: Mapping[str, Figure], name: str) -> str:
    return figures[name].in_words() if name in figures else NONE


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _p(value: float | None) -> str:
    return NONE if value is None else f"{value:.2g}"


def _brief(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
