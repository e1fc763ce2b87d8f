"""Spots are drawn where their figures are, and their names do not cover each other."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.reporting.scatter_chart import Spot, scatter_chart
from tests.reporting.outline import HOSTILE, Outline

numbers = st.floats(0, 1e9)
# The drawing's own units: its plane is 52 to 466 wide, 16 to 254 high.
LEFT, RIGHT, TOP, BOTTOM = 52, 466, 16, 254


def centers(chart: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)]


def draw(*spots: Spot) -> str:
    return scatter_chart("t", spots, x_name="cost", y_name="F1", y_low=0.0, y_high=1.0)


def test_a_spot_and_its_whiskers_by_hand() -> None:
    chart = draw(Spot("a", 50.0, 0.5, (25.0, 100.0), (0.25, 0.75)))
    # The horizontal axis is from 0 to 108: 8 % are left free.
    assert centers(chart) == [(round(LEFT + 50 / 108 * (RIGHT - LEFT), 1), 135.0)]
    across, down = re.findall(r'class="line"[^>]* d="([^"]+)"', chart)
    assert across == "M147.8 131.0v8m0 -4H435.3m0 -4v8"
    assert down == "M239.7 194.5h8m-4 0V75.5m-4 0h8"


def test_dearer_is_further_right_and_better_is_higher() -> None:
    (x1, y1), (x2, y2) = centers(draw(Spot("a", 1.0, 0.2), Spot("b", 2.0, 0.9)))
    assert x1 < x2
    assert y1 > y2  # SVG counts from the top


def test_names_give_way() -> None:
    spots = [Spot("one arm", 100.0, 0.5), Spot("other arm", 100.0, 0.5), Spot("third", 99.0, 0.51)]
    boxes = []
    for x, y, anchor, name in re.findall(
        r'x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', draw(*spots)
    ):
        if name in [spot.name for spot in spots]:
            width = 7.6 * len(name)
            left = float(x) - (width if anchor == "end" else 0)
            boxes.append((left, left + width, float(y)))
    assert len(boxes) == 3
    for (left, right, y), (other_left, other_right, other_y) in itertools.combinations(boxes, 2):
        assert right <= other_left or other_right <= left or abs(y - other_y) >= 12


def test_missing_ends_draw_no_whisker() -> None:
    chart = draw(Spot("a", 1.0, 0.5, (None, 2.0), (0.1, None)))
    assert 'class="line"' not in chart
    assert len(centers(chart)) == 1


def test_words_of_others_stay_words() -> None:
    chart = scatter_chart(HOSTILE, [Spot(HOSTILE, 1.0, 1.0)], x_name=HOSTILE, y_name=HOSTILE)
    assert not {"script", "img"} & set(Outline(chart).tags)


def test_nothing_to_draw_is_no_chart() -> None:
    assert draw() == ""
    assert draw(Spot("a", float("nan"), 0.5)) == ""


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5))
def test_any_spots_are_drawn_inside(values: list) -> None:
    spots = [Spot("a", x, y, (x / 2, x + more), (y / 3, y + above)) for x, y, more, above in values]
    chart = scatter_chart("t", spots, x_name="x", y_name="y")
    assert not re.search("nan|inf", chart)
    for x, y in centers(chart):
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM
