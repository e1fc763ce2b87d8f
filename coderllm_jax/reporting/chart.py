"""Line charts as inline SVG: no script, no font, no file beside the page.

    Series("evaluation", [(0, 5.26), (20, 3.44)])  ──line_chart──►  <figure><svg>…</svg></figure>

Colours are the page's custom properties (`--series-0` ...), so a chart follows light and dark.
Sizes are in the drawing's own units and scale with the page's width; the page's style sheet
enlarges the letters where the page is narrow. Long series are thinned to their means.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

Point = tuple[float, float]
Style = Literal["line", "faint", "points", "dashed"]

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 34
# More points than this cannot be told apart on a page.
_MOST_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Series:
    """One line. `dashed` is a level drawn over the whole width; its points' y is the level."""

    name: str
    points: Sequence[Point]
    style: Style = "line"
    color: int = 0


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    show: Callable[[float], str] | None = None,
    from_zero: bool = False,
    x_name: str = "step",
) -> str:
    """A figure with axes, gridlines, a legend and a caption; "" where there is nothing to draw.

    `show` writes a value of the vertical axis. Points that are not finite are left out, and said.
    """
    finite = [
        dataclasses.replace(one, points=[p for p in one.points if _can_be_drawn(p)])
        for one in series
    ]
    missing = sum(len(one.points) for one in series) - sum(len(one.points) for one in finite)
    drawn = [one for one in finite if one.points]
    if not drawn:
        return ""
    frame = _Frame.around([p for one in drawn for p in one.points], from_zero=from_zero)
    write = show or short_number
    parts = [_grid(frame, write, x_name), *(_draw(one, frame, write) for one in drawn)]
    note = f" ({missing} values were not finite)" if missing else ""
    legend = "".join(map(_legend, drawn)) if len(drawn) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{html.escape(title + note)}'
        f'<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of equal runs of neighbours. First and last x stay."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    thinned = []
    for start, end in itertools.pairwise(edges):
        run = points[start:end]
        thinned.append((sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)))
    thinned[0] = (points[0][0], thinned[0][1])
    thinned[-1] = (points[-1][0], thinned[-1][1])
    return thinned


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of 10."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """`1.2M`, `3.4k`, `250`, `0.05`: at most four signs, for axes."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}"


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What part of the plane is shown."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, points: Sequence[Point], *, from_zero: bool) -> _Frame:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        y_low, y_high = min(ys), max(ys)
        margin = 0.06 * (y_high - y_low) or abs(y_high) * 0.1 or 1.0
        low = 0.0 if from_zero and y_low >= 0 else y_low - margin
        x_low, x_high = min(xs), max(xs)
        return cls(x_low, x_high if x_high > x_low else x_low + 1, low, y_high + margin)

    def x(self, value: float) -> float:
        part = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        part = (value - self.y_low) / (self.y_high - self.y_low)
        return round(_HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM), 1)


def _grid(frame: _Frame, show: Callable[[float], str], x_name: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    lines = [
        f'<path class="grid" d="M{_LEFT} {frame.y(value)}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{frame.y(value) + 4:.1f}" text-anchor="end">'
        f"{html.escape(show(value))}</text>"
        for value in nice_ticks(frame.y_low, frame.y_high)
    ]
    steps = [tick for tick in nice_ticks(frame.x_low, frame.x_high) if tick == int(tick)]
    labels = [
        f'<text x="{frame.x(value)}" y="{bottom + 18}" text-anchor="middle">'
        f"{short_number(value)}</text>"
        for value in steps
    ]
    axis = (
        f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>'
        f'<text x="2" y="{bottom + 18}">{html.escape(x_name)}</text>'
    )
    return "".join([*lines, *labels, axis])


def _can_be_drawn(point: Point) -> bool:
    # Far beyond any figure of a run, and far from where the axes' arithmetic would overflow.
    return all(math.isfinite(value) and abs(value) < 1e100 for value in point)


def _draw(one: Series, frame: _Frame, show: Callable[[float], str]) -> str:
    color = f"--c:var(--series-{one.color})"
    if one.style == "dashed":
        y = frame.y(one.points[0][1])
        return f'<path class="dashed" style="{color}" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
    points = [(frame.x(x), frame.y(y)) for x, y in thin(one.points)]
    path = " ".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(points))
    kind = "faint" if one.style == "faint" else "line"
    drawn = f'<path class="{kind}" style="{color}" d="{path}"/>'
    if one.style == "points" or len(points) == 1:
        drawn += "".join(
            f'<circle style="{color}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="4">'
            f"<title>{html.escape(f'{one.name}, {short_number(x)}: {show(y)}')}</title></circle>"
            for x, y in thin(one.points)
        )
    return drawn


def _legend(one: Series) -> str:
    kind = "dashed" if one.style == "dashed" else "faint" if one.style == "faint" else "line"
    return (
        f'<span><svg viewBox="0 0 20 8" class="key"><path class="{kind}" '
        f'style="--c:var(--series-{one.color})" d="M1 4H19"/></svg>{html.escape(one.name)}</span>'
    )
