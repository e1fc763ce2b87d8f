"""Charts are valid SVG whatever the figures are, and show what they are given."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.reporting.chart import Series, line_chart, nice_ticks, short_number, thin

points = st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_subnormal=False)), max_size=50)


@given(points)
def test_every_coordinate_is_a_number_inside_the_drawing(given_points: list) -> None:
    chart = line_chart("loss", [Series("a", given_points, "points")])
    if not any(abs(y) < 1e100 for _, y in given_points):
        assert chart == ""
        return
    assert "nan" not in chart
    assert "inf" not in chart.replace("infinite", "")
    for x, y in re.findall(r"[ML](-?[\d.e+]+) (-?[\d.e+]+)", chart):
        assert -1 <= float(x) <= 481
        assert -1 <= float(y) <= 251


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high)
    assert len(ticks) <= 6
    slack = 1e-6 * (abs(low) + abs(high) + 1)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_ticks_by_hand() -> None:
    assert nice_ticks(0, 60) == [0, 20, 40, 60]
    assert nice_ticks(2.3, 5.4) == [3, 4, 5]
    assert nice_ticks(3, 3) == [3]


def test_a_falling_loss_falls_on_the_page() -> None:
    chart = line_chart("loss", [Series("a", [(0, 5.0), (10, 3.0)])])
    found = re.search(r'd="M([\d.]+) ([\d.]+) L([\d.]+) ([\d.]+)"', chart)
    assert found
    x0, y0, x1, y1 = map(float, found.groups())
    assert x0 < x1
    assert y0 < y1  # SVG's y grows downwards


def test_names_and_titles_stay_words() -> None:
    chart = line_chart("<b>loss</b>", [Series("<i>a</i>", [(0, 1.0)]), Series("b", [(1, 2.0)])])
    assert "<b>" not in chart
    assert "<i>" not in chart
    ET.fromstring(chart)


def test_what_is_left_out_is_said() -> None:
    chart = line_chart("loss", [Series("a", [(0, 1.0), (1, math.nan), (2, math.inf)])])
    assert "(2 values were not finite)" in chart


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("loss", []) == ""
    assert line_chart("loss", [Series("a", [])]) == ""


def test_thinning_keeps_the_ends_and_the_mean() -> None:
    long = [(i, float(i % 7)) for i in range(10_000)]
    short = thin(long, most=100)
    assert len(short) == 100
    assert (short[0][0], short[-1][0]) == (0, 9999)
    assert sum(y for _, y in short) / 100 == pytest.approx(sum(y for _, y in long) / 10_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234, "1.23k"), (2.5e6, "2.5M"), (0.05, "0.05"), (5e-4, "5e-4"), (-3, "-3")],
)
def test_short_number(value: float, text: str) -> None:
    assert short_number(value) == text
