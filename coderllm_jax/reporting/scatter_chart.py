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
_LINE = 18.0  # between two names
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
    parts += [_name(spot, place, frame) for spot, place in _places(spots, frame)]
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
        for tick in nice_ticks(frame.y_low, frame.y_high)
    ]
    lines += [
        f'<path class="grid" d="M{frame.x(tick)} {_TOP}V{bottom}"/>'
        f'<text x="{frame.x(tick)}" y="{bottom + 18}" text-anchor="middle">'
        f"{text(short_number(tick))}</text>"
        for tick in nice_ticks(frame.x_low, frame.x_high)
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


def _places(spots: Sequence[Spot], frame: _Frame) -> list[tuple[Spot, float]]:
    """Where each name stands, from the top down: beside its point, or below the name above it."""
    placed: list[tuple[Spot, float]] = []
    for spot in sorted(spots, key=lambda each: frame.y(each.y)):
        y = frame.y(spot.y) - 8
        near = [place for other, place in placed if abs(frame.x(other.x) - frame.x(spot.x)) < 200]
        if near and y < max(near) + _LINE:
            y = max(near) + _LINE
        placed.append((spot, min(y, _HEIGHT - _BOTTOM - 4)))
    return placed


def _name(spot: Spot, y: float, frame: _Frame) -> str:
    x = frame.x(spot.x)
    is_left = x < _LEFT + 0.55 * (_WIDTH - _LEFT - _RIGHT)
    place = f'x="{x + 8 if is_left else x - 8:.1f}" y="{y:.1f}"'
    anchor = "start" if is_left else "end"
    return (
        f'<text class="name" style="--c:var(--series-{spot.color})" {place} '
        f'text-anchor="{anchor}">{text(spot.name)}</text>'
    )


def _is_drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and abs(value) < _LARGEST
