"""The prompt that suits each arm: candidates, tried on questions that are not compared later.

    arm           style                                   passages   wording       ending
    base          2 examples, 4, none                     -          -             open, blank line
    trained       chat turns, 2 examples                  -          -             the same
    rag           2 examples, 2 with passages too, none   3, 2, 5    plain, cite   the same
    trained_rag   chat turns, 2 examples with passages    3, 2, 5    plain, cite   the same

Stage by stage, each from the best so far; the first of equals wins, so the order is the order of
simplicity. A model that its makers taught turns begins with chat. Plain text may end at a blank
line, as its examples do, or where the next question would begin; in turns a model ends by itself.
Chosen by mean fact F1 on the validation questions: what is told of them is biased upward, and never
compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from coderllm_jax.config.comparison import ValidationSection
from coderllm_jax.config.generation import PromptSection
from coderllm_jax.data.prompts import FEW_SHOT_STOP
from coderllm_jax.records import Estimate


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to put a question to an arm. passages: 0 where it looks nothing up.

    shows_passages: whether the examples have passages before their questions, too.
    ends_at_blank: whether the first blank line ends the answer.
    """

    kind: Literal["chat", "few_shot"]
    shots: int = 0
    passages: int = 0
    shows_passages: bool = False
    cites: bool = False
    ends_at_blank: bool = False

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer beside those that the style has."""
        return (FEW_SHOT_STOP,) if self.ends_at_blank else ()

    @property
    def words(self) -> str:
        """For a person."""
        parts = ["chat turns" if self.kind == "chat" else "plain text"]
        if self.kind == "few_shot":
            parts.append(_count(self.shots, "example") + " with passages" * self.shows_passages)
        if self.passages:
            parts.append(_count(self.passages, "passage"))
            parts.append("told to cite" if self.cites else "not told to cite")
        if self.ends_at_blank:
            parts.append("ends at a blank line")
        return ", ".join(parts)


class Worth(NamedTuple):
    """What a plan's answers are worth; cites: how many of them cite, of arms that look up."""

    fact_f1: Estimate
    cites: Estimate = Estimate(None)


class Tried(NamedTuple):
    """A plan and what it was worth."""

    plan: Plan
    worth: Worth


class Choice(NamedTuple):
    """An arm's plan, and everything that was tried for it, in order."""

    plan: Plan
    tried: tuple[Tried, ...]

    def told_to_cite(self) -> Tried | None:
        """The best of the plans that are told to cite, chosen or not."""
        told = [each for each in self.tried if each.plan.cites]
        return max(told, key=lambda each: each.worth.fact_f1.value or 0.0, default=None)

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds under an arm's `prompt`."""
        return {
            "chosen": self.plan.words,
            "plan": dataclasses.asdict(self.plan),
            "num_items": max((each.worth.fact_f1.num_items for each in self.tried), default=0),
            "candidates": [
                {
                    "words": each.plan.words,
                    "is_chosen": each.plan == self.plan,
                    "fact_f1": each.worth.fact_f1._asdict(),
                    "cites": each.worth.cites._asdict(),
                }
                for each in self.tried
            ],
        }


def choose_plan(
    first: Sequence[Plan],
    *,
    section: ValidationSection,
    measure: Callable[[Plan], Worth] | None,
) -> Choice:
    """The best plan by stages; the first one where there is nothing to measure with (None)."""
    if measure is None:
        return Choice(first[0], ())
    tried: dict[Plan, Worth] = {}

    def best_of(plans: Sequence[Plan]) -> Plan:
        for plan in plans:
            if plan not in tried:
                tried[plan] = measure(plan)
        return max(plans, key=lambda plan: tried[plan].fact_f1.value or 0.0)  # the first of equals

    best = best_of(first)
    if best.passages:
        others = [
            dataclasses.replace(best, passages=number)
            for number in section.passages
            if number != best.passages
        ]
        best = best_of([best, *others])
        best = best_of([best, dataclasses.replace(best, cites=True)])
    if best.kind == "few_shot":
        best = best_of([best, dataclasses.replace(best, ends_at_blank=True)])
    return Choice(best, tuple(Tried(plan, worth) for plan, worth in tried.items()))


def first_plans(
    *,
    knows_turns: bool,
    looks_up: bool,
    section: ValidationSection,
    prompt: PromptSection,
    num_shots: int,
) -> list[Plan]:
    """The styles that are tried, the likeliest first.

    num_shots: examples that there are; `prompt` may name one style and spare the others.
    """
    passages = section.passages[0] if looks_up else 0
    if prompt.style == "chat":
        return [Plan("chat", passages=passages)]
    counts = tuple(dict.fromkeys(min(count, num_shots) for count in section.shots))
    if prompt.style == "few_shot":
        counts = (min(prompt.shots, num_shots),)
    few_shot = [Plan("few_shot", count, passages) for count in counts]
    if looks_up:
        shown = [dataclasses.replace(few_shot[0], shows_passages=True)] if counts[0] else []
        few_shot = [few_shot[0], *shown, *[plan for plan in few_shot[1:] if not plan.shots]]
    if prompt.style == "few_shot":
        return few_shot
    if not knows_turns:
        return few_shot
    other = next((plan for plan in few_shot if plan.shows_passages), few_shot[0])
    return [Plan("chat", passages=passages), other]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
