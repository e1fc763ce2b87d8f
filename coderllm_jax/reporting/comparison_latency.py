"""A comparison page's waiting times: every answer's, not their mean alone.

Fine-tuned   ││├─[▓▓┃▓▓]──┤│ │      0.42 s  p95 0.61 s  n 100
              every answer a stroke; box: middle half; bar: median; whiskers: 5 % to 95 %
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coderllm_jax.reporting.comparison_content import Arm, Content, read_arms
from coderllm_jax.reporting.evaluation_figures import name_in_words, show_seconds
from coderllm_jax.reporting.page import text
from coderllm_jax.reporting.row_charts import Axis, draw_figure, draw_row, figures_in_line

_WAYS = {
    "alone": "one question at a time: what one person waits for",
    "together": "as many questions at a time as there are slots: what people wait for under load",
}
_TIMES = ("time_to_first_token_s", "time_per_token_s", "total_s", "retrieval_s")
_TITLES = {"retrieval_s": "retrieval, apart"}
# A 95th percentile of fewer is the longest time by another name.
_LEAST_FOR_P95 = 20
# One slow answer must not press all others against the wall.
_ROOM, _TOO_FAR = 1.15, 1.6
_SCALE = 1000


def latency_part(content: Content) -> str:
    """Charts of each way of asking; "" where no times are known."""
    arms, latency = read_arms(content), content.get("latency", {})
    parts = []
    for way, of_arms in latency.items():
        charts = "".join(_chart(name, arms, of_arms) for name in _TIMES)
        if charts:
            title = _WAYS.get(way, str(way))
            parts.append(f'<h3>Asked {text(title)}</h3><div class="grid-2">{charts}</div>')
    if not parts:
        return ""
    words = (
        "Each stroke is one answer; the box holds the middle half, with the median in it, and the "
        "whiskers nine in ten."
    )
    return f'<p class="muted">{words}</p>{"".join(parts)}'


def _chart(name: str, arms: Mapping[str, Arm], of_arms: Mapping[str, Mapping]) -> str:
    times = {
        arm: sorted(float(t) for t in of.get(name) or () if t is not None and math.isfinite(t))
        for arm, of in of_arms.items()
    }
    times = {arm: of for arm, of in times.items() if of and arm in arms}
    # What no arm but those without the stage has says nothing.
    if not any(any(of) for of in times.values()):
        return ""
    high = _end(list(times.values()))
    axis = Axis.around([0.0, high], 0.0, high)
    rows = [
        draw_row(
            arm.label, axis.lines() + _box(times[name_], arm, axis), _words(times[name_], high)
        )
        for name_, arm in arms.items()
        if name_ in times
    ]
    title = f"{_TITLES.get(name, name_in_words(name)).capitalize()}, seconds"
    return draw_figure(title, [*rows, axis.labels()])


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, between neighbours (Hyndman and Fan 1996, type 7)."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _end(times: Sequence[Sequence[float]]) -> float:
    longest = max(of[-1] for of in times)
    usual = max(quantile(of, 0.95) for of in times)
    return usual * _ROOM if usual > 0 and longest > _TOO_FAR * usual else longest


def _box(times: Sequence[float], arm: Arm, axis: Axis) -> str:
    style = f'style="--c:var(--series-{arm.color})"'
    p5, p25, p50, p75, p95 = (axis.x(quantile(times, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95))
    strokes = "".join(f"M{min(axis.x(each), 99.5) * _SCALE / 100:.0f} 0V{_SCALE}" for each in times)
    return (
        f'<svg class="strokes" viewBox="0 0 {_SCALE} {_SCALE}" preserveAspectRatio="none">'
        f'<path {style} d="{strokes}"/></svg>'
        f'<line class="whisker" {style} x1="{p5}%" x2="{p95}%" y1="50%" y2="50%"/>'
        f'<rect class="box" {style} x="{p25}%" width="{max(p75 - p25, 0.3):.2f}%" y="25%" '
        f'height="50%"/>'
        f'<line class="median" {style} x1="{p50}%" x2="{p50}%" y1="15%" y2="85%"/>'
    )


def _words(times: Sequence[float], high: float) -> str:
    num_beyond = sum(each > high for each in times)
    if len(times) >= _LEAST_FOR_P95:
        far = f"p95 {show_seconds(quantile(times, 0.95))}"
    else:
        far = f"at most {show_seconds(times[-1])}"
    beyond = f"{num_beyond} beyond, up to {show_seconds(times[-1])}" if num_beyond else ""
    return figures_in_line(show_seconds(quantile(times, 0.5)), far, f"n {len(times):,}", beyond)
