"""comparison.json as its page reads it: arms with colours, figures, and units in words.

    "arms": [{"name": "rag", "label": "Retrieval", …}]  ──►  Arm(name, label, color, about)
    {"value": 0.412, "low": 0.331, …}, "share"          ──►  "0.412"   "0.331 to 0.490"

The schema is in `comparison.results`. Whatever is missing in it is missing on the page, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.reporting.evaluation_figures import NONE, show_number, show_score, show_seconds
from coderllm_jax.reporting.page import text, visible
from coderllm_jax.reporting.row_charts import Interval

Content = Mapping[str, Any]
Show = Callable[[float], str]
# As many as there are kinds of arms; two of the six colours are hard to tell apart.
_COLORS = (0, 1, 2, 3, 5)
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Arm(NamedTuple):
    """Who is compared; `about` is all that the file says of it."""

    name: str
    label: str
    color: int
    about: Mapping[str, Any]


class Figure(NamedTuple):
    """One figure of all arms; `arms` holds an estimate for each that it applies to."""

    dimension: str
    name: str
    label: str
    words: str
    set: str
    unit: str
    better: str
    is_headline: bool
    arms: Mapping[str, Mapping[str, Any]]
    items: Sequence[str]


def make_visible(value: Any) -> Any:
    """The same content, in which no text, name or key hides anything: see `page.visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {make_visible(name): make_visible(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [make_visible(each) for each in value]
    return value


def read_arms(content: Content) -> dict[str, Arm]:
    """Arms by name, in the table's order."""
    arms = {}
    for place, about in enumerate(content.get("arms", ())):
        name = str(about.get("name", place))
        color = _COLORS[place % len(_COLORS)]
        arms[name] = Arm(name, str(about.get("label") or name), color, about)
    return arms


def read_figures(content: Content, dimension: str = "") -> list[Figure]:
    """Every figure, or a dimension's."""
    return [
        Figure(
            str(each.get("name", "")),
            str(figure.get("name", "")),
            str(figure.get("label") or figure.get("name", "")),
            str(figure.get("words", "")),
            str(figure.get("set", "")),
            str(figure.get("unit", "")),
            str(figure.get("better", "")),
            bool(figure.get("is_headline")),
            figure.get("arms", {}),
            figure.get("items", ()),
        )
        for each in content.get("dimensions", ())
        if not dimension or each.get("name") == dimension
        for figure in each.get("figures", ())
    ]


def question_numbers(content: Content) -> dict[str, int]:
    """The place of each question, by its id."""
    return {
        str(each.get("id", "")): number for number, each in enumerate(content.get("questions", ()))
    }


def section_of(content: Content, dimension: str) -> str:
    """The id of a dimension's section on the page; "" of one that has nothing to show."""
    names = [each.get("name") for each in content.get("dimensions", ())]
    known = (
        is_known(figure.arms.get(arm))
        for figure in read_figures(content, dimension)
        for arm in read_arms(content)
    )
    if dimension not in names or not any(known):
        return ""
    return "cost" if dimension == "cost" else f"dimension-{names.index(dimension)}"


def main_set(content: Content) -> Mapping[str, Any]:
    """The set that the headline is on; the first one where none is; {} where there is no set."""
    sets = content.get("sets", ())
    return next((each for each in sets if each.get("is_headline")), next(iter(sets), {}))


def set_labels(content: Content) -> dict[str, str]:
    """How the sets are called, by name, in order."""
    return {
        str(each.get("name", "")): str(each.get("label") or each.get("name", ""))
        for each in content.get("sets", ())
    }


def main_figure(content: Content) -> Figure | None:
    """The one figure of accuracy that the headline is about; None where nothing is scored."""
    name = main_set(content).get("name", "")
    figures = [each for each in read_figures(content, "accuracy") if each.set in (name, "")]
    figures.sort(key=lambda figure: not figure.is_headline)
    return next((each for each in figures if any(map(is_known, each.arms.values()))), None)


def is_known(estimate: Mapping[str, Any] | None) -> bool:
    """Whether there is an estimate, and it has a value."""
    return number_of(estimate, "value") is not None


def number_of(estimate: Mapping[str, Any] | None, name: str) -> float | None:
    """One number of an estimate; None where it has none that is finite."""
    value = (estimate or {}).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def value_in_words(estimate: Mapping[str, Any] | None, unit: str) -> str:
    """The value alone."""
    value = number_of(estimate, "value")
    return NONE if value is None else show_in(unit)(value)


def interval_in_words(estimate: Mapping[str, Any] | None, unit: str) -> str:
    """`0.331 to 0.490`, `85.4 to 97.2 tokens/s`; "" where it has none."""
    low, high = number_of(estimate, "low"), number_of(estimate, "high")
    if low is None or high is None:
        return ""
    return range_in_words(low, high, show_in(unit))


def range_in_words(low: float, high: float, show: Show) -> str:
    """Both ends; a unit that they share stands behind the second alone."""
    first, _, first_unit = show(low).partition(" ")
    second_unit = show(high).partition(" ")[2]
    return f"{first if first_unit == second_unit else show(low)} to {show(high)}"


def in_words(estimate: Mapping[str, Any] | None, unit: str) -> str:
    """`0.412 (0.331 to 0.490)`."""
    around = interval_in_words(estimate, unit)
    return value_in_words(estimate, unit) + (f" ({around})" if around else "")


def interval_of(arm: Arm, figure: Figure) -> Interval:
    """An arm's row of a figure's chart."""
    estimate = figure.arms.get(arm.name)
    return Interval(
        arm.label,
        number_of(estimate, "value"),
        number_of(estimate, "low"),
        number_of(estimate, "high"),
        int(number_of(estimate, "num_items") or 0),
        arm.color,
    )


def show_in(unit: str) -> Show:
    """How numbers of a unit are written."""
    return _SHOWN.get(unit) or (lambda value: f"{_three_digits(value)} {unit}".strip())


def dot(arm: Arm) -> str:
    """A spot of the arm's colour, and its name."""
    return f'<i class="dot" style="--c:var(--series-{arm.color})"></i>{text(arm.label)}'


def cell(estimate: Mapping[str, Any] | None, unit: str, *, mark: str = "") -> str:
    """A table's cell: the value, and its interval under it. mark: the cell's class."""
    kind = f' class="{mark}"' if mark else ""
    return (
        f"<td{kind}><b>{text(value_in_words(estimate, unit))}</b>"
        f"<small>{text(interval_in_words(estimate, unit))}</small></td>"
    )


def head_of(arms: Mapping[str, Arm], first: str) -> str:
    """A table's head: `first`, and a column an arm, with the name by which the file calls it."""
    heads = "".join(
        f"<th>{dot(arm)}<small>{text(arm.name if arm.name != arm.label else '')}</small></th>"
        for arm in arms.values()
    )
    return f"<tr><th>{text(first)}</th>{heads}</tr>"


def label_of(arms: Mapping[str, Arm], name: Any) -> str:
    """What an arm is called, whether or not it is among these."""
    return arms[name].label if name in arms else str(name)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def _three_digits(value: float) -> str:
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 9)}f}"


def _bytes(value: float) -> str:
    for size, unit in _SIZES:
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f} B"


_SHOWN: Mapping[str, Show] = {
    "share": lambda value: f"{value:.3f}",
    "seconds": show_seconds,
    "percent": show_score,
    "bytes": _bytes,
    "tokens": lambda value: f"{value:,.1f}",
    "words": lambda value: f"{value:,.1f}",
    "tokens/s": lambda value: f"{_three_digits(value)} tokens/s",
    "answers/s": lambda value: f"{_three_digits(value)} answers/s",
    "chip-seconds": lambda value: f"{_three_digits(value)} chip-s",
    "": show_number,
}
