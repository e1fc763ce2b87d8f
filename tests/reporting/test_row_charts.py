"""Rows are drawn where their figures are, and say them in words, whatever they are given."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.reporting.row_charts import (
    Bar,
    Group,
    Interval,
    Spread,
    bar_chart,
    histogram,
    interval_chart,
)
from tests.reporting.outline import HOSTILE, Outline

numbers = st.none() | st.floats()


def percents(html: str, name: str) -> list[float]:
    return [float(found) for found in re.findall(rf' {name}="(-?[\d.]+)%"', html)]


def assert_is_drawn_inside(html: str) -> None:
    outline = Outline(html)
    for name in ("x", "x1", "x2", "cx", "width", "y", "height"):
        assert all(0 <= value <= 100 for value in percents(html, name)), name
    assert not any(re.search("nan|inf", value) for _, value in outline.attributes)


def test_a_dot_and_its_whisker_by_hand() -> None:
    rows = [Interval("seen", 0.5, 0.25, 0.75, num_items=1234)]
    chart = interval_chart("F1", [Group("", rows)], low=0.0, high=1.0)
    # The drawing's first and last 1.5 % stay free.
    assert percents(chart, "cx") == [50.0]
    ends = [float(x) for x in re.findall(r'class="whisker"[^>]* x1="([\d.]+)%"', chart)]
    assert ends == [25.75, 25.75, 74.25]
    assert "0.5 0.25 to 0.75 n 1,234" in Outline(chart).text


def test_larger_figures_stand_further_right_on_one_axis() -> None:
    groups = [
        Group("a", [Interval("x", 1.0), Interval("y", 3.0)]),
        Group("b", [Interval("z", 2.0)]),
    ]
    x, y, z = percents(interval_chart("t", groups), "cx")
    assert x < z < y


def test_the_axis_ends_in_round_numbers_around_everything() -> None:
    chart = interval_chart("t", [Group("", [Interval("a", 6.4, 6.1, 13.3)])])
    assert re.findall(r"<text[^>]*>([^<]*)</text>", chart) == ["5", "10", "15"]


def test_a_mark_is_on_the_axis_even_where_no_figure_is() -> None:
    chart = interval_chart("t", [Group("", [Interval("a", 5.0, 4.0, 6.0)])], mark=0.0)
    (mark,) = re.findall(r'class="axis" x1="([\d.]+)%"', chart)
    assert float(mark) == 1.5


def test_a_missing_figure_keeps_its_row() -> None:
    chart = interval_chart("t", [Group("", [Interval("a", None), Interval("b", 1.0)])])
    assert len(percents(chart, "cx")) == 1
    assert "a\u2013" in Outline(chart).text


def test_percentiles_lie_over_one_another_and_shorter_ones_on_top() -> None:
    chart = bar_chart("t", [Bar("a", [1.0, 2.0, 4.0])], names=("p50", "p95", "p99"))
    widths = percents(chart, "width")
    assert widths == sorted(widths, reverse=True)
    # The axis begins at 1.5 %.
    assert widths[0] == pytest.approx(4 * widths[2], abs=0.02)
    assert "p50p95p99" in Outline(chart).text


def test_a_histogram_counts_by_hand() -> None:
    values = [0.0, 0.1, 0.1, 0.9, 1.0, 7.0]  # 1.0 and beyond count at the end
    chart = histogram("t", [Spread("a", values)], low=0.0, high=1.0, num_bins=2)
    assert re.findall(r"<title>(\d+)</title>", chart) == ["3", "3"]
    assert "0.5 median of 6" in Outline(chart).text


def test_words_of_others_stay_words() -> None:
    for chart in (
        interval_chart(HOSTILE, [Group(HOSTILE, [Interval(HOSTILE, 1.0)])]),
        bar_chart(HOSTILE, [Bar(HOSTILE, [1.0])], names=[HOSTILE], show=lambda _: HOSTILE),
        histogram(HOSTILE, [Spread(HOSTILE, [1.0])], low=0, high=1, show=lambda _: HOSTILE),
    ):
        assert not {"script", "img"} & set(Outline(chart).tags)


def test_nothing_to_draw_is_no_chart() -> None:
    assert interval_chart("t", []) == ""
    assert interval_chart("t", [Group("a", [Interval("x", None, 0.0, 1.0)])]) == ""
    assert bar_chart("t", []) == ""
    assert bar_chart("t", [Bar("a", [None])]) == ""
    assert histogram("t", [Spread("a", [math.nan])], low=0, high=1) == ""


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=6),
    st.none() | st.just(0.0),
    st.sampled_from([(None, None), (0.0, 1.0), (0.0, None), (None, 100.0)]),
)
def test_any_intervals_are_drawn_inside(rows: list, mark: float | None, ends: tuple) -> None:
    groups = [Group("", [Interval("a", *row) for row in rows])]
    assert_is_drawn_inside(interval_chart("t", groups, mark=mark, low=ends[0], high=ends[1]))


@given(st.lists(st.lists(numbers, max_size=5), max_size=4))
def test_any_bars_are_drawn_inside(bars: list) -> None:
    assert_is_drawn_inside(bar_chart("t", [Bar("a", values) for values in bars]))


@given(st.lists(st.floats(), max_size=30), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_any_values_are_counted_inside(values: list, low: float, width: float) -> None:
    chart = histogram("t", [Spread("a", values)], low=low, high=low + width)
    assert_is_drawn_inside(chart)
    counted = sum(map(int, re.findall(r"<title>(\d+)</title>", chart)))
    assert counted == sum(map(math.isfinite, values))
