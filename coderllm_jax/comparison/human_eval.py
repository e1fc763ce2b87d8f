"""HumanEval, where it was asked for: programs continued by every arm that is not shown passages.

A problem is the beginning of a function, to be continued; passages have no place in it, so an arm
that looks things up would answer exactly as the arm that shares its weights, and is not asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.comparison.figures import Figure, Spec
from coderllm_jax.comparison.rounds import Book
from coderllm_jax.comparison.verdicts import Contest, hold_contests
from coderllm_jax.config.evaluation import CodeSection, EvaluationConfig
from coderllm_jax.evaluation.code_generation import run_code_generation
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.records import Answer, Answerer, Query

_SPEC = Spec(
    "accuracy",
    "human_eval",
    "HumanEval, pass@1",
    "Problems whose program passes HumanEval's tests, greedy, one try; executed in the sandbox.",
    binary=True,
    is_headline=True,
)


class Passed(NamedTuple):
    """Arm → problem → whether it passed, and notes for a person."""

    by_arm: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()

    def figures(self) -> list[Figure]:
        """pass@1 of each arm; none where nothing was executed."""
        arms = {
            arm: wilson_interval(round(sum(of_arm.values())), len(of_arm))
            for arm, of_arm in self.by_arm.items()
            if of_arm
        }
        if not arms:
            return []
        spec = _SPEC
        return [Figure(spec.dimension, spec.name, spec.label, spec.words, arms, is_headline=True)]

    def contests(self, *, seed: int) -> list[Contest]:
        """Arm against arm, problem by problem."""
        return hold_contests(_SPEC, self.by_arm, set_name="", seed=seed)


def ask_human_eval(
    book: Book,
    answerers: Mapping[str, Answerer],
    folder: Path,
    *,
    num_problems: int,
    note: Callable[[str], None],
) -> Passed:
    """The first `num_problems` of every arm in `answerers`; programs are judged in the sandbox."""
    config = dataclasses.replace(
        EvaluationConfig(), code=CodeSection(sets=("human_eval",), max_problems=num_problems)
    )
    by_arm: dict[str, dict[str, float]] = {}
    notes: dict[str, None] = {}
    for arm, answerer in answerers.items():

        def ask(
            queries: Sequence[Query], arm: str = arm, answerer: Answerer = answerer
        ) -> list[Answer]:
            return book.ask(arm, answerer, queries, phase="human_eval")[0]

        found = run_code_generation(Context(config, answerer, ask, (), folder, note))
        by_arm[arm] = {
            row["task_id"]: row["scores"]["passed"]
            for row in found.samples
            if row["verdict"] != "refused"
        }
        notes |= dict.fromkeys(found.notes)
    return Passed(by_arm, tuple(notes))
