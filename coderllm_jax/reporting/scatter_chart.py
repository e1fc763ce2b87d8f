"""A few named things by two figures, each with its interval: one point, two whiskers, one name.

    accuracy │      ─┼─ Fine-tuned
             │           ─┼─ Retrieval
             └────────────────── cost

The horizontal axis begins at zero. Names stand beside their points and give way to each other; the
figures themselves belong in a table beside the chart. Colours and sizes: see `chart`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from coderllm_jax.reporting.chart import nice_ticks, short_number
from coderllm_jax.reporting.page import text

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 16, 46
# Of a name, where letters are as large as on a phone.
_LETTER, _LINE = 7.6, 15.0
_LARGEST = 1e100  # far from where the axes' arithmetic would overflow
Ends = tuple[float | None, float | None]


class Spot(NamedTuple):
    """One thing; x_ends and y_ends are its intervals, whose ends may be missing."""

    name: str
    x: float
    y: float
    x_ends: Ends = (None, None)
    y_ends: Ends = (None, None)
    color: int = 0


def scatter_chart(
    title: str,
    spots: Sequence[Spot],
    *,
    x_name: str,
    y_name: str,
    y_low: float | None = None,
    y_high: float | None = None,
) -> str:
    """A figure; "" where there is nothing to draw. y_low, y_high: the vertical axis' ends."""
    spots = [spot for spot in spots if _is_drawn(spot.x) and _is_drawn(spot.y)]
    if not spots:
        return ""
    xs = [value for spot in spots for value in (spot.x, *spot.x_ends) if _is_drawn(value)]
    ys = [value for spot in spots for value in (spot.y, *spot.y_ends) if _is_drawn(value)]
    frame = _Frame(
        min(0.0, *xs), _beyond(0.0, xs), _below(y_low, ys), _beyond(y_low, ys, given=y_high)
    )
    parts = [_grid(frame, x_name, y_name), *(_whiskers(spot, frame) for spot in spots)]
    parts.append(_names(spots, frame))
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


class _Frame(NamedTuple):
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        part = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + min(max(part, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        part = (value - self.y_low) / (self.y_high - self.y_low)
        shown = _HEIGHT - _TOP - _BOTTOM
        return round(_HEIGHT - _BOTTOM - min(max(part, 0.0), 1.0) * shown, 1)


def _below(low: float | None, values: Sequence[float]) -> float:
    return min(values) - (0.08 * (max(values) - min(values)) or 0.5) if low is None else low


def _beyond(low: float | None, values: Sequence[float], *, given: float | None = None) -> float:
    start = min(values) if low is None else min(low, *values)
    if given is not None and given > start:
        return given
    return max(values) + (0.08 * (max(values) - start) or abs(start) or 1.0)


def _grid(frame: _Frame, x_name: str, y_name: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    lines = [
        f'<path class="grid" d="M{_LEFT} {frame.y(tick)}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{frame.y(tick) + 4:.1f}" text-anchor="end">'
        f"{text(short_number(tick))}</text>"
        for tick in nice_ticks(frame.y_low, frame.y_high, count=6)
    ]
    lines += [
        f'<path class="grid" d="M{frame.x(tick)} {_TOP}V{bottom}"/>'
        f'<text x="{frame.x(tick)}" y="{bottom + 18}" text-anchor="middle">'
        f"{text(short_number(tick))}</text>"
        for tick in nice_ticks(frame.x_low, frame.x_high, count=6)
    ]
    lines.append(
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}"/>'
        f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 38}" text-anchor="end">{text(x_name)} →</text>'
        f'<text x="{_LEFT + 4}" y="{_TOP - 4}">↑ {text(y_name)}</text>'
    )
    return "".join(lines)


def _whiskers(spot: Spot, frame: _Frame) -> str:
    style = f'style="--c:var(--series-{spot.color})"'
    x, y = frame.x(spot.x), frame.y(spot.y)
    drawn = ""
    low, high = spot.x_ends
    if _is_drawn(low) and _is_drawn(high):
        ends = f"M{frame.x(low)} {y - 4:.1f}v8m0 -4H{frame.x(high)}m0 -4v8"
        drawn += f'<path class="line" {style} d="{ends}"/>'
    low, high = spot.y_ends
    if _is_drawn(low) and _is_drawn(high):
        ends = f"M{x - 4:.1f} {frame.y(low)}h8m-4 0V{frame.y(high)}m-4 0h8"
        drawn += f'<path class="line" {style} d="{ends}"/>'
    return f'{drawn}<circle {style} cx="{x}" cy="{y}" r="5"/>'


def _names(spots: Sequence[Spot], frame: _Frame) -> str:
    """Each name where it covers no point, whisker or other name, or else the least of them."""
    taken = [box for spot in spots for box in _boxes(spot, frame)]
    drawn = []
    for spot in sorted(spots, key=lambda each: (frame.y(each.y), frame.x(each.x))):
        x, y = frame.x(spot.x), frame.y(spot.y)
        width = _LETTER * len(spot.name)
        places = [
            (anchor, _Box(left, y + down - _LINE, left + width, y + down))
            for down in (-7.0, 20.0, 34.0, -21.0, 48.0, -35.0)
            for anchor, left in (("start", x + 8), ("end", x - 8 - width))
        ]
        anchor, box = min(places, key=lambda place: _cost(place[1], taken))
        taken.append(box)
        at = box.left if anchor == "start" else box.right
        drawn.append(
            f'<text class="name" style="--c:var(--series-{spot.color})" x="{at:.1f}" '
            f'y="{box.bottom - 4:.1f}" text-anchor="{anchor}">{text(spot.name)}</text>'
        )
    return "".join(drawn)


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def shares(self, other: _Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def _cost(box: _Box, taken: Sequence[_Box]) -> float:
    inside = _Box(_LEFT, 0.0, _WIDTH, _HEIGHT - _BOTTOM)
    area = (box.right - box.left) * (box.bottom - box.top)
    return 4 * (area - box.shares(inside)) + sum(box.shares(other) for other in taken)


def _boxes(spot: Spot, frame: _Frame) -> list[_Box]:
    """What a point and its whiskers cover."""
    x, y = frame.x(spot.x), frame.y(spot.y)
    boxes = [_Box(x - 6, y - 6, x + 6, y + 6)]
    low, high = spot.x_ends
    if _is_drawn(low) and _is_drawn(high):
        boxes.append(_Box(frame.x(low), y - 4, frame.x(high), y + 4))
    low, high = spot.y_ends
    if _is_drawn(low) and _is_drawn(high):
        boxes.append(_Box(x - 4, frame.y(high), x + 4, frame.y(low)))
    return boxes


def _is_drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and abs(value) < _LARGEST
