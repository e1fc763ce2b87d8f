"""What an answer costs: seconds of a chip, and money where somebody set a price.

    chip-seconds of 1,000 answers   wall clock of the arm's turns x chips / answers x 1,000
    of 1,000 right answers          the same over right answers
    fixed                           training: the run's wall clock x its chips
    amortised over n answers        (fixed / n + each) x 1,000
    break-even of a against b       n at which fixed_a + n x each_a = fixed_b + n x each_b

A chip is one GPU or TPU chip, and on CPUs the whole machine, which nobody else may use meanwhile.
Prices are the user's (`prices`); where none is set, costs are told in seconds alone, and nothing is
made up. An endpoint's machine is not ours: its cost is that of its tokens.

Covers: this setting, as many questions at a time as there are slots. Does not cover: an idle
machine, which costs as much as a busy one; people's time; preparing the data and embedding the
chunks, which may have been done long ago; a run that was trained on another kind of chip.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from coderllm_jax.comparison.figures import Figure
from coderllm_jax.comparison.rounds import Turn
from coderllm_jax.config.comparison import PricesSection
from coderllm_jax.evaluation.statistics import bootstrap_totals
from coderllm_jax.records import Estimate

_PER = 1000
_NONE = Estimate(None)


class Machine(NamedTuple):
    """What answers. kind: cpu, gpu or tpu. price: of a chip-hour; None where none was set."""

    kind: str
    num_chips: int
    price: float | None

    @property
    def words(self) -> str:
        """What one chip is."""
        if self.kind == "cpu":
            return "one chip is this whole machine, all of its processors"
        return f"one chip is one {self.kind.upper()}{' chip' * (self.kind == 'tpu')}"


class ArmCost(NamedTuple):
    """One arm's; `each_s` are chip-seconds of one answer, `each_price` is None without a price."""

    per_1000: Estimate
    price_per_1000: Estimate
    per_right: Estimate
    price_per_right: Estimate
    fixed: Mapping[str, float]
    each_s: float | None
    each_price: float | None

    @property
    def fixed_s(self) -> float:
        """Everything that is spent once."""
        return sum(self.fixed.values())


class Costs(NamedTuple):
    """All arms', and what they were reckoned with."""

    machine: Machine
    prices: PricesSection
    arms: Mapping[str, ArmCost]

    def to_json(self) -> dict[str, Any]:
        """COST in `comparison.results`."""
        machine, prices = self.machine, self.prices
        return {
            "currency": prices.currency if _any_price(self) else "",
            "price_per_chip_hour": machine.price,
            "price_words": price_words(self),
            "device": machine.kind,
            "num_chips": machine.num_chips,
            "chip_words": machine.words,
            "arms": {
                arm: {
                    "chip_seconds_per_1000": cost.per_1000._asdict(),
                    "price_per_1000": cost.price_per_1000._asdict(),
                    "chip_seconds_per_right": cost.per_right._asdict(),
                    "price_per_right": cost.price_per_right._asdict(),
                    "fixed": dict(cost.fixed),
                    "amortised": [amortise(cost, machine, answers) for answers in prices.volumes],
                }
                for arm, cost in self.arms.items()
            },
            "break_even": [
                break_even(self, first, second)
                for first, second in itertools.combinations(self.arms, 2)
            ],
        }


def machine_of(kind: str, prices: PricesSection) -> Machine:
    """The machine of that kind that an engine answers on: one chip, whatever else there is."""
    price = {"cpu": prices.cpu_hour, "gpu": prices.gpu_hour, "tpu": prices.tpu_chip_hour}.get(kind)
    return Machine(kind, 1, price or None)


def reckon(
    turns: Sequence[Turn],
    right: Mapping[str, Mapping[int, int]] | None,
    *,
    arms: Sequence[str],
    fixed: Mapping[str, Mapping[str, float]],
    machine: Machine,
    prices: PricesSection,
    seed: int,
) -> Costs:
    """Every arm's cost. turns: whole ones of questions asked together.

    right: arm → round → right answers in it; None where nothing tells right from wrong.
    """
    costs = {}
    for arm in arms:
        of_arm = [turn for turn in turns if turn.arm == arm]
        if arm == "endpoint":
            costs[arm] = _endpoint_cost(of_arm, right, prices, seed=seed)
            continue
        chips = float(machine.num_chips)
        spent = [turn.wall_s * chips for turn in of_arm]
        per_1000 = _per_answer(of_arm, spent, seed=seed)
        per_right = _per_right(of_arm, spent, None if right is None else right[arm], seed=seed)
        rate = None if machine.price is None else machine.price / 3600
        each_s = None if per_1000.value is None else per_1000.value / _PER
        costs[arm] = ArmCost(
            per_1000,
            _times(per_1000, rate),
            per_right,
            _times(per_right, rate),
            dict(fixed.get(arm, {})),
            each_s,
            None if rate is None or each_s is None else each_s * rate,
        )
    return Costs(machine, prices, costs)


def amortise(cost: ArmCost, machine: Machine, answers: int) -> dict[str, Any]:
    """Per thousand of so many answers, what is spent once included."""
    seconds = price = None
    if cost.each_s is not None:
        seconds = (cost.fixed_s / answers + cost.each_s) * _PER
    if cost.each_price is not None:
        rate = (machine.price or 0.0) / 3600
        price = (cost.fixed_s * rate / answers + cost.each_price) * _PER
    return {"answers": answers, "chip_seconds_per_1000": seconds, "price_per_1000": price}


def break_even(costs: Costs, first: str, second: str) -> dict[str, Any]:
    """From how many answers on the arm that costs more at the start has paid for itself."""
    a, b = costs.arms[first], costs.arms[second]
    unit = costs.prices.currency if a.each_price is not None and b.each_price is not None else "s"
    if unit == "s":
        each_a, each_b, fixed_a, fixed_b = a.each_s, b.each_s, a.fixed_s, b.fixed_s
    else:
        rate = (costs.machine.price or 0.0) / 3600
        each_a, each_b = a.each_price, b.each_price
        fixed_a, fixed_b = a.fixed_s * rate, b.fixed_s * rate
    found: dict[str, Any] = {"first": first, "second": second, "answers": None}
    if each_a is None or each_b is None:
        return {
            **found,
            "words": f"{first} and {second}: what an answer costs is not known of both",
        }
    dearer, cheaper = (first, second) if fixed_a > fixed_b else (second, first)
    saved = (each_b - each_a) if dearer == first else (each_a - each_b)
    more = abs(fixed_a - fixed_b)
    what = "chip-seconds" if unit == "s" else unit
    if not more:
        least, most = (first, second) if each_a <= each_b else (second, first)
        return {**found, "words": f"{least} costs less than {most} from the first answer on"}
    if saved <= 0:
        words = (
            f"{dearer} costs {more:.4g} {what} more at the start than {cheaper}, and saves nothing "
            "later"
        )
        return {**found, "words": words}
    answers = math.ceil(more / saved)
    words = (
        f"{dearer} costs {more:.4g} {what} more at the start and less an answer than {cheaper}: "
        f"it has paid for itself after {answers:,} answers"
    )
    return {**found, "answers": answers, "words": words}


def cost_figures(costs: Costs, *, set_name: str, ids: Sequence[str]) -> list[Figure]:
    """The figures of the dimension."""
    found = []
    for name, label, words, unit, of, is_headline in (
        (
            "chip_seconds_per_1000",
            "Machine time of 1,000 answers",
            f"Asked as many at a time as there are slots; {costs.machine.words}.",
            "chip-seconds",
            {arm: cost.per_1000 for arm, cost in costs.arms.items()},
            True,
        ),
        (
            "chip_seconds_per_right",
            "Machine time of a right answer",
            "The same over the answers that are right.",
            "chip-seconds",
            {arm: cost.per_right for arm, cost in costs.arms.items()},
            False,
        ),
        (
            "price_per_1000",
            "Price of 1,000 answers",
            price_words(costs),
            costs.prices.currency,
            {arm: cost.price_per_1000 for arm, cost in costs.arms.items()},
            False,
        ),
        (
            "price_per_right",
            "Price of a right answer",
            price_words(costs),
            costs.prices.currency,
            {arm: cost.price_per_right for arm, cost in costs.arms.items()},
            False,
        ),
    ):
        arms = {arm: value for arm, value in of.items() if value.value is not None}
        if arms:
            found.append(
                Figure(
                    "cost",
                    name,
                    label,
                    words,
                    arms,
                    set=set_name,
                    unit=unit,
                    better="lower",
                    is_headline=is_headline,
                    is_clocked=True,
                    items=tuple(ids),
                )
            )
    return found


def price_words(costs: Costs) -> str:
    """Whose prices these are."""
    if not _any_price(costs):
        return f"No price was set; set prices.{_option(costs.machine.kind)} to have costs in money."
    source = costs.prices.source or "not said; set prices.source"
    return f"Prices as they were set; their source: {source}."


def _option(kind: str) -> str:
    return {"gpu": "gpu_hour", "tpu": "tpu_chip_hour"}.get(kind, "cpu_hour")


def _any_price(costs: Costs) -> bool:
    return costs.machine.price is not None or bool(costs.prices.tokens_in_million)


def _endpoint_cost(
    turns: Sequence[Turn],
    right: Mapping[str, Mapping[int, int]] | None,
    prices: PricesSection,
    *,
    seed: int,
) -> ArmCost:
    price_per_1000 = price_per_right = _NONE
    if prices.tokens_in_million:
        spent = [
            (
                turn.tokens_in * prices.tokens_in_million
                + turn.tokens_out * prices.tokens_out_million
            )
            / 1e6
            for turn in turns
        ]
        price_per_1000 = _per_answer(turns, spent, seed=seed)
        of_endpoint = None if right is None else right["endpoint"]
        price_per_right = _per_right(turns, spent, of_endpoint, seed=seed)
    each = None if price_per_1000.value is None else price_per_1000.value / _PER
    return ArmCost(_NONE, price_per_1000, _NONE, price_per_right, {}, None, each)


def _per_answer(turns: Sequence[Turn], spent: Sequence[float], *, seed: int) -> Estimate:
    counts = [turn.num_answers for turn in turns]
    return _ratio(spent, counts, factor=_PER, num_items=sum(counts), seed=seed)


def _per_right(
    turns: Sequence[Turn],
    spent: Sequence[float],
    right: Mapping[int, int] | None,
    *,
    seed: int,
) -> Estimate:
    """No value where no answer is right: there is no number that would be large enough."""
    if right is None:
        return _NONE
    pairs = [
        (each, right[turn.round])
        for turn, each in zip(turns, spent, strict=True)
        if turn.round in right
    ]
    num_items = sum(turn.num_answers for turn in turns if turn.round in right)
    spent_I, right_I = ([each for each, _ in pairs], [count for _, count in pairs])
    if not sum(right_I):
        return Estimate(None, num_items=num_items)
    # Turns that are drawn again may hold no right answer: the other way up, that is a plain 0.
    rate = _ratio(right_I, spent_I, factor=1.0, num_items=num_items, seed=seed)
    return Estimate(_inverse(rate.value), _inverse(rate.high), _inverse(rate.low), num_items)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _ratio(
    over: Sequence[float], by: Sequence[float], *, factor: float, num_items: int, seed: int
) -> Estimate:
    if not sum(by):
        return Estimate(None, num_items=num_items)
    estimate = bootstrap_totals(
        np.array([over, by], np.float64).T,
        lambda totals_RS: factor * totals_RS[:, 0] / totals_RS[:, 1],
        seed=seed,
    )
    return estimate._replace(num_items=num_items)


def _times(estimate: Estimate, rate: float | None) -> Estimate:
    if rate is None:
        return Estimate(None, num_items=estimate.num_items)
    value, low, high = (None if end is None else end * rate for end in estimate[:3])
    return Estimate(value, low, high, estimate.num_items)
