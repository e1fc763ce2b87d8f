"""Charts with a row for each thing: its name, a drawing, and its figures in words.

    seen     ────●────       0.412  0.331 to 0.490  n 50      interval_chart  dot and interval
    unseen       ──●──       0.221  0.150 to 0.300  n 50
    alone    ▓▓▓▓▒▒░         1.2 s  2.0 s  2.4 s              bar_chart       percentiles in one
    seen     ▁▂▅▇▃▁          0.41  median of 50               histogram       how values spread

Every figure is written beside its drawing, so that nothing is to be read off an axis and nothing
is lost on paper or to who cannot see it. Names and figures are the page's own text, which wraps
and keeps its size on a phone; only the drawing between them stretches. Colours: see `chart`.
What a figure of rows is made of (`Axis`, `draw_row`, `draw_figure`) serves other drawings, too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeGuard

from coderllm_jax.reporting.chart import nice_ticks, short_number
from coderllm_jax.reporting.page import text

_NONE = "\u2013"
# The drawing's first and last hundredths stay free for dots at the ends.
_LEFT, _WIDTH = 1.5, 97.0
_OPACITIES = (1.0, 0.5, 0.25, 0.15)
Show = Callable[[float], str]


class Interval(NamedTuple):
    """A figure, its interval and the number of items behind it; each may be missing."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    num_items: int = 0
    color: int = 0


class Bar(NamedTuple):
    """One figure, or several that grow (p50, p95, p99), drawn over one another."""

    name: str
    values: Sequence[float | None]
    color: int = 0


class Spread(NamedTuple):
    """Values of one kind, such as the scores of all answers."""

    name: str
    values: Sequence[float]
    color: int = 0


class Group(NamedTuple):
    """Rows that belong together, under a heading; "" for none."""

    name: str
    rows: Sequence[Interval]


def interval_chart(
    title: str,
    groups: Iterable[Group],
    *,
    show: Show = short_number,
    low: float | None = None,
    high: float | None = None,
    mark: float | None = None,
) -> str:
    """Dots with whiskers on one axis; "" where there is no figure at all.

    show writes figures; the axis has short numbers, so its unit belongs in the title. low, high:
    the axis' ends, by default the round numbers around all figures. mark: a level, such as 0 for
    "no difference", that is drawn through all rows.
    """
    groups = [group for group in groups if group.rows]
    rows = [row for group in groups for row in group.rows]
    numbers = [n for row in rows for n in (row.value, row.low, row.high) if _is_drawn(n)]
    if not any(_is_drawn(row.value) for row in rows):
        return ""
    axis = Axis.around([*numbers, *([] if mark is None else [mark])], low, high)
    lines = axis.lines(mark)
    parts = []
    for group in groups:
        if group.name:
            parts.append(f'<div class="group">{text(group.name)}</div>')
        parts += [
            draw_row(row.name, lines + _whisker(row, axis), _interval_in_words(row, show))
            for row in group.rows
        ]
    return draw_figure(title, [*parts, axis.labels()])


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    show: Show = short_number,
    names: Sequence[str] = (),
) -> str:
    """Bars from zero; "" where there is nothing to draw. names: of a bar's values, as a legend."""
    numbers = [value for bar in bars for value in bar.values if _is_drawn(value)]
    if not numbers:
        return ""
    axis = Axis.around([0.0, *numbers], None, None)
    parts = [
        draw_row(
            bar.name, axis.lines() + _bars(bar, axis, show), _figures_in_words(bar.values, show)
        )
        for bar in bars
    ]
    legend = "".join(
        f'<span><i style="--c:var(--series-{bars[0].color});opacity:{opacity}"></i>'
        f"{text(name)}</span>"
        for name, opacity in zip(names, _OPACITIES, strict=False)
    )
    return draw_figure(title, [*parts, axis.labels()], legend)


def histogram(
    title: str,
    spreads: Sequence[Spread],
    *,
    low: float,
    high: float,
    num_bins: int = 20,
    show: Show = short_number,
) -> str:
    """How values are spread over [low, high]; those beyond count at its ends."""
    drawn = [
        spread._replace(values=[value for value in spread.values if math.isfinite(value)])
        for spread in spreads
    ]
    drawn = [spread for spread in drawn if spread.values]
    if not drawn or not high > low:
        return ""
    axis = Axis(low, high)
    parts = [
        draw_row(
            spread.name,
            axis.lines() + _columns(spread, axis, num_bins),
            figures_in_line(
                show(statistics.median(spread.values)), f"median of {len(spread.values):,}"
            ),
            kind="tall",
        )
        for spread in drawn
    ]
    return draw_figure(title, [*parts, axis.labels()])


class Axis(NamedTuple):
    """What part of the numbers is shown; `x` is in percent of the drawing's width."""

    low: float
    high: float

    @classmethod
    def around(cls, numbers: Sequence[float], low: float | None, high: float | None) -> Axis:
        first = min(numbers) if low is None else low
        last = max(numbers) if high is None else high
        if not last > first:
            last = first + (abs(first) or 1.0)
        # The ends are ticks, unless they are given.
        step = nice_ticks(0.0, last - first, count=4)[1]
        first = math.floor(first / step + 1e-9) * step if low is None else low
        last = math.ceil(last / step - 1e-9) * step if high is None else high
        return cls(first, last if last > first else first + (abs(first) or 1.0))

    def x(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(_LEFT + _WIDTH * min(max(part, 0.0), 1.0), 2)

    def lines(self, mark: float | None = None) -> str:
        lines = [
            f'<line class="grid" x1="{self.x(tick)}%" x2="{self.x(tick)}%" y1="0" y2="100%"/>'
            for tick in self.ticks()
        ]
        if mark is not None:
            x = self.x(mark)
            lines.append(f'<line class="axis" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>')
        return "".join(lines)

    def ticks(self) -> list[float]:
        return nice_ticks(self.low, self.high, count=4)

    def labels(self) -> str:
        labels = []
        for tick in self.ticks():
            x = self.x(tick)
            anchor = "start" if x < 5 else "end" if x > 95 else "middle"
            words = text(short_number(tick))
            labels.append(f'<text x="{x}%" y="12" text-anchor="{anchor}">{words}</text>')
        return draw_row("", "".join(labels), "")


def _whisker(row: Interval, axis: Axis) -> str:
    if not _is_drawn(row.value):
        return ""
    style = f'style="--c:var(--series-{row.color})"'
    drawn = ""
    if _is_drawn(row.low) and _is_drawn(row.high):
        low, high = axis.x(row.low), axis.x(row.high)
        drawn = f'<line class="whisker" {style} x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>'
        drawn += "".join(
            f'<line class="whisker" {style} x1="{x}%" x2="{x}%" y1="25%" y2="75%"/>'
            for x in (low, high)
        )
    return f'{drawn}<circle {style} cx="{axis.x(row.value)}%" cy="50%" r="4.5"/>'


def _bars(bar: Bar, axis: Axis, show: Show) -> str:
    drawn = [value for value in bar.values if _is_drawn(value)]
    start = axis.x(0.0)
    # The longest first, so that the shorter ones lie upon it.
    return "".join(
        f'<rect style="--c:var(--series-{bar.color});opacity:{opacity}" x="{start}%" y="22%" '
        f'width="{max(axis.x(value) - start, 0.3):.2f}%" height="56%">'
        f"<title>{text(show(value))}</title></rect>"
        for value, opacity in sorted(
            zip(drawn, _OPACITIES, strict=False), key=lambda pair: -pair[0]
        )
    )


def _columns(spread: Spread, axis: Axis, num_bins: int) -> str:
    counts = [0] * num_bins
    for value in spread.values:
        part = min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0)
        counts[min(int(part * num_bins), num_bins - 1)] += 1
    tallest = max(counts)
    width = _WIDTH / num_bins
    return "".join(
        f'<rect style="--c:var(--series-{spread.color})" x="{_LEFT + i * width:.2f}%" '
        f'y="{100 - 94 * count / tallest:.1f}%" width="{width * 0.9:.2f}%" '
        f'height="{94 * count / tallest:.1f}%"><title>{count}</title></rect>'
        for i, count in enumerate(counts)
        if count
    )


def draw_row(name: str, drawing: str, words: str, *, kind: str = "") -> str:
    """One row: a name, SVG in percent of the row's width, and HTML beside it."""
    return (
        f'<div class="row {kind}"><span class="name">{text(name)}</span>'
        f'<svg class="track" aria-hidden="true">{drawing}</svg>'
        f'<span class="words">{words}</span></div>'
    )


def _interval_in_words(row: Interval, show: Show) -> str:
    value = show(row.value) if _is_drawn(row.value) else _NONE
    around = ""
    if _is_drawn(row.low) and _is_drawn(row.high):
        around = f"{show(row.low)} to {show(row.high)}"
    return figures_in_line(value, around, f"n {row.num_items:,}" if row.num_items else "")


def _figures_in_words(values: Sequence[float | None], show: Show) -> str:
    return figures_in_line(*(show(value) if _is_drawn(value) else _NONE for value in values))


def figures_in_line(first: str = "", *others: str) -> str:
    """The first one stands out; a line breaks between them and not within."""
    rest = "".join(f" <small>{text(words)}</small>" for words in others if words)
    return f"<b>{text(first)}</b>{rest}"


def draw_figure(title: str, rows: Sequence[str], legend: str = "") -> str:
    """Rows under a caption."""
    return (
        f'<figure class="chart rows"><figcaption>{text(title)}'
        f'<span class="legend">{legend}</span></figcaption>{"".join(rows)}</figure>'
    )


def _is_drawn(value: float | None) -> TypeGuard[float]:
    # Far beyond any figure, and far from where the axis' arithmetic would overflow.
    return value is not None and math.isfinite(value) and abs(value) < 1e100
