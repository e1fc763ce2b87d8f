"""An evaluation page's section about time: how long people wait under which load; throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.evaluation.latency import SHARES, num_items_needed
from coderllm_jax.reporting.evaluation_figures import (
    NONE,
    Figure,
    load_in_words,
    name_in_words,
    read_figures,
    show_bytes,
    show_rate,
    show_seconds,
)
from coderllm_jax.reporting.page import grid_table, text
from coderllm_jax.reporting.row_charts import Bar, bar_chart

_TIMES = ("time_to_first_token_s", "time_per_token_s", "total_s")
Rows = Sequence[Mapping[str, Any]]


def performance_section(suite: Mapping[str, Any], _: Rows) -> str:
    """Waiting times by load, throughput, and what is apart from both: warm-up and compilation."""
    figures = read_figures(suite)
    loads = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in figures))
    throughput = [
        Bar(load_in_words(load), [_value(figures, f"{load}/tokens_out_per_s")], color=2)
        for load in loads
    ]
    charts = [
        *(_waits(name, loads, figures) for name in _TIMES),
        bar_chart("New tokens a second", throughput, show=show_rate),
    ]
    known = suite.get("details", {}).get("loads", {})
    words = (
        f"A percentile is shown where the requests bound it from both sides: "
        f"{num_items_needed(SHARES['p95'])} for p95, {num_items_needed(SHARES['p99'])} for p99. "
        "Times count from when a request was meant to arrive."
    )
    return (
        f'<div class="grid-2">{"".join(charts)}</div><p class="muted">{text(words)}</p>'
        + _loads(known, figures)
    )


def _waits(name: str, loads: Sequence[str], figures: Mapping[str, Figure]) -> str:
    known = [
        share
        for share in SHARES
        if any(_value(figures, f"{load}/{name}/{share}") is not None for load in loads)
    ]
    bars = [
        Bar(load_in_words(load), [_value(figures, f"{load}/{name}/{share}") for share in known])
        for load in loads
    ]
    title = f"{name_in_words(name).capitalize()}, seconds"
    return bar_chart(title, bars, show=show_seconds, names=known)


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


def _value(figures: Mapping[str, Figure], name: str) -> float | None:
    return figures[name].value if name in figures else None


def _shown(figures: Mapping[str, Figure], name: str) -> str:
    return figures[name].in_words() if name in figures else NONE
