"""A comparison page's costs: against accuracy, spread over volumes, and where two arms break even.

scatter    cost of 1,000 answers against the headline figure, intervals both ways
table      cost and headline figure of each arm; whom another arm beats in both
table      with training and index, spread over 1,000, 100,000, … answers
"""

from __future__ import annotations

from collections.abc import Mapping

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    Figure,
    Show,
    cell,
    dot,
    label_of,
    main_figure,
    number_of,
    read_arms,
    show_in,
)
from coderllm_jax.reporting.comparison_reading import Cost, read_cost
from coderllm_jax.reporting.evaluation_figures import NONE
from coderllm_jax.reporting.page import grid_table, notes_list, text
from coderllm_jax.reporting.scatter_chart import Spot, scatter_chart

_SHARE_ENDS = (0.0, 1.0)


def cost_part(content: Content) -> str:
    """Everything about costs; "" where nothing is known of them."""
    cost, found = read_cost(content), content.get("cost", {})
    if cost is None:
        return ""
    told = [str(found.get(name, "")).rstrip(".") for name in ("price_words", "chip_words")]
    words = " ".join(f"{each[0].upper()}{each[1:]}." for each in told if each)
    return (
        f'<p class="muted">{text(words)}</p>'
        f'<div class="grid-2">{_scatter(content, cost)}<div>{_trade_table(content, cost)}</div>'
        f"</div>{_amortised(content)}{_break_even(content)}"
    )


def _scatter(content: Content, cost: Cost) -> str:
    figure = main_figure(content)
    if figure is None:
        return ""
    spots = []
    for arm in read_arms(content).values():
        x, y = cost.arms.get(arm.name), figure.arms.get(arm.name)
        x_value, y_value = number_of(x, "value"), number_of(y, "value")
        if x_value is not None and y_value is not None:
            x_ends = number_of(x, "low"), number_of(x, "high")
            y_ends = number_of(y, "low"), number_of(y, "high")
            spots.append(Spot(arm.label, x_value, y_value, x_ends, y_ends, arm.color))
    return scatter_chart(
        "Cost against accuracy: up and to the left is better",
        spots,
        x_name=cost.label,
        y_name=figure.label,
        y_low=_SHARE_ENDS[0] if figure.unit == "share" else None,
    )


def _trade_table(content: Content, cost: Cost) -> str:
    arms, figure = read_arms(content), main_figure(content)
    per_right = cost.name.replace("_per_1000", "_per_right")
    rows = []
    for arm in arms.values():
        if arm.name not in cost.arms:
            continue
        right = content["cost"]["arms"][arm.name].get(per_right)
        cells = [cell(cost.arms[arm.name], cost.unit)]
        cells += [cell(figure.arms.get(arm.name), figure.unit)] if figure else []
        cells.append(cell(right, cost.unit))
        rows.append(f"<tr><th>{dot(arm)}</th>{''.join(cells)}</tr>")
    names = ["", "1,000 answers", *([figure.label] if figure else []), "one right answer"]
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    return (
        f'<div class="wide figures" style="--arms:{len(names) - 1}" tabindex="0"><table>'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
        f"{notes_list(_beaten(arms, cost, figure))}"
    )


def _beaten(arms: Mapping[str, Arm], cost: Cost, figure: Figure | None) -> list[str]:
    """Arms that another one beats in both, as they were measured."""
    if figure is None:
        return []
    at = {
        name: (number_of(cost.arms[name], "value"), number_of(figure.arms.get(name), "value"))
        for name in arms
        if name in cost.arms
    }
    points = {name: (x, y) for name, (x, y) in at.items() if x is not None and y is not None}
    notes = []
    for name, (x, y) in points.items():
        by = [
            label_of(arms, other)
            for other, (other_x, other_y) in points.items()
            if other_x <= x and other_y >= y and (other_x, other_y) != (x, y)
        ]
        if by:
            notes.append(
                f"{label_of(arms, name)}, as measured, costs no less and answers no better than "
                f"{' or '.join(by)}."
            )
    return notes


def _amortised(content: Content) -> str:
    cost = content.get("cost", {})
    arms = {name: cost.get("arms", {}).get(name, {}) for name in read_arms(content)}
    volumes = list(
        dict.fromkeys(each["answers"] for of in arms.values() for each in of.get("amortised", ()))
    )
    if not volumes:
        return ""
    currency = str(cost.get("currency", ""))
    in_money = any(
        each.get("price_per_1000") is not None
        for of in arms.values()
        for each in of.get("amortised", ())
    )
    name, unit = ("price", currency) if in_money else ("chip_seconds", "chip-seconds")
    show = show_in(unit)
    rows = [
        [
            label_of(read_arms(content), arm),
            _fixed(of.get("fixed", {})),
            *(_at(of.get("amortised", ()), volume, f"{name}_per_1000", show) for volume in volumes),
        ]
        for arm, of in arms.items()
        if of
    ]
    head = ["arm", "once, before the first answer", *(f"{volume:,} answers" for volume in volumes)]
    return (
        f"<h3>1,000 answers with training and index, spread over so many answers</h3>"
        f"{grid_table(head, rows)}"
    )


def _fixed(fixed: Mapping[str, float]) -> str:
    show = show_in("chip-seconds")
    return ", ".join(f"{name} {show(value)}" for name, value in fixed.items() if value) or NONE


def _at(amortised: list, volume: int, name: str, show: Show) -> str:
    values = [each.get(name) for each in amortised if each.get("answers") == volume]
    return show(values[0]) if values and values[0] is not None else NONE


def _break_even(content: Content) -> str:
    words = [str(each.get("words", "")) for each in content.get("cost", {}).get("break_even", ())]
    notes = notes_list(each for each in words if each)
    return f"<h3>Where two arms break even</h3>{notes}" if notes else ""
