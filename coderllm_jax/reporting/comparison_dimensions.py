"""A comparison page's dimensions: every figure of every arm as a dot with its interval.

at a glance          Fine-tuned   Retrieval   Base         headline figures, arms beside
Fact F1, seen        0.412        0.538       0.081        one another
Time to first token  0.12 s       0.61 s      0.12 s

Accuracy ─┬─ charts: shares of a set on one axis, everything else on its own
          └─ unfolded: every figure with its meaning
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    Figure,
    Show,
    cell,
    head_of,
    interval_of,
    is_known,
    question_numbers,
    read_arms,
    read_figures,
    set_labels,
    show_in,
)
from coderllm_jax.reporting.comparison_filter import pick
from coderllm_jax.reporting.comparison_reading import read_standing
from coderllm_jax.reporting.page import text, unfold
from coderllm_jax.reporting.row_charts import Group, interval_chart

# Units whose figures share one axis, its end, and what to call it.
_SHARED = {"share": (1.0, "From 0 to 1"), "percent": (100.0, "From 0 to 100")}


def glance_table(content: Content) -> str:
    """The headline figures, arms beside one another; whoever nobody is shown to beat is marked."""
    figures = [figure for figure in read_figures(content) if figure.is_headline]
    table = _table(content, figures, explains=False)
    if not table:
        return ""
    marked = (
        "A green spot: these data show no arm to be better." if ' class="lead"' in table else ""
    )
    return f'{table}<p class="muted">{marked}</p>'


def dimension_part(
    content: Content, dimension: str, *, leave_out: Callable[[Figure], bool] = lambda _: False
) -> str:
    """A dimension's charts and the table of all its figures. leave_out: of the charts alone."""
    figures = read_figures(content, dimension)
    drawn = [figure for figure in figures if not leave_out(figure)]
    charts = "".join(_charts(content, drawn))
    grid = f'<div class="grid-2">{charts}</div>' if charts else ""
    table = _table(content, figures, explains=True)
    return grid + (unfold("All its figures, and what they mean", table) if table else "")


def _charts(content: Content, figures: Sequence[Figure]) -> list[str]:
    arms, labels = read_arms(content), set_labels(content)
    together: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        if any(map(is_known, figure.arms.values())):
            kind = figure.better if figure.unit in _SHARED else figure.name
            together.setdefault((f"{figure.unit}\0{kind}", figure.set), []).append(figure)
    # Sets stand beside one another.
    kinds = list(dict.fromkeys(kind for kind, _ in together))
    charts = []
    for (_, of_set), found in sorted(together.items(), key=lambda one: kinds.index(one[0][0])):
        unit = found[0].unit
        high, ends = _SHARED.get(unit, (None, ""))
        where = labels.get(of_set, of_set)
        lower = "lower is better" if found[0].better == "lower" else ""
        title = " · ".join(part for part in (ends or _alone(found[0]), where, lower) if part)
        groups = [
            Group(
                "" if unit not in _SHARED else figure.label,
                [interval_of(arm, figure) for arm in arms.values() if arm.name in figure.arms],
            )
            for figure in found
        ]
        # A difference of shares may be below zero, too.
        low = 0.0 if _are_positive(found) else None
        charts.append(interval_chart(title, groups, show=_show_alone(unit), low=low, high=high))
    return charts


def _alone(figure: Figure) -> str:
    """A chart's title of one figure: with its unit, unless the label says it (`Tokens in`)."""
    says_it = figure.unit.partition("/")[0] in figure.label.lower()
    return figure.label if says_it else f"{figure.label}, {figure.unit}"


def _show_alone(unit: str) -> Show:
    """Numbers whose unit is in the title; of those that change theirs (ms, s), with it."""
    show = show_in(unit)
    return show if unit in ("seconds", "bytes") else lambda value: show(value).partition(" ")[0]


def _are_positive(figures: Sequence[Figure]) -> bool:
    lows = [
        estimate.get("low", estimate.get("value")) or 0.0
        for figure in figures
        for estimate in figure.arms.values()
    ]
    return all(low >= 0 for low in lows)


def _table(content: Content, figures: Sequence[Figure], *, explains: bool) -> str:
    arms, labels = read_arms(content), set_labels(content)
    figures = [each for each in figures if any(map(is_known, each.arms.values()))]
    if not figures or not arms:
        return ""
    rows = "".join(_row(content, arms, figure, labels, explains=explains) for figure in figures)
    return (
        f'<div class="wide figures" style="--arms:{len(arms)}" tabindex="0"><table>'
        f"{head_of(arms, 'figure')}{rows}</table></div>"
    )


def _row(
    content: Content,
    arms: Mapping[str, Arm],
    figure: Figure,
    labels: Mapping[str, str],
    *,
    explains: bool,
) -> str:
    standing = read_standing(content, figure)
    leaders = standing.leaders if standing.is_shown else ()
    cells = [
        cell(figure.arms.get(name), figure.unit, mark="lead" if name in leaders else "")
        for name in arms
    ]
    under = [labels.get(figure.set, figure.set)]
    under += ["lower is better"] if figure.better == "lower" else []
    under += [figure.words] if explains else []
    told = text(" · ".join(part for part in under if part))
    if explains and (behind := _behind(content, figure)):
        told += f" {behind}"
    return f"<tr><th>{text(figure.label)}<small>{told}</small></th>{''.join(cells)}</tr>"


def _behind(content: Content, figure: Figure) -> str:
    """How many questions a figure rests on, and a way to them."""
    numbers = question_numbers(content)
    known = [numbers[each] for each in figure.items if each in numbers]
    if not figure.items:
        return ""
    words = f"{len(figure.items):,} question{'s' * (len(figure.items) != 1)}"
    return f"Rests on {pick(words, known, f'{figure.label} was measured')}."
