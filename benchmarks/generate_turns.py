"""Generating arms side by side: loaded together, passes in turn, ratios over rounds.

    load A, load B, load C    │ A B C │ A B C │ A B C │    reports
                                round 1  2       3

A ratio is the median over the rounds of a pass of one beside a pass of the other, taken seconds
apart: what else the machine does hits both alike. Loading and compiling come before and are not
timed. An arm that ends before its time says why and the others go on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from benchmarks.generate_arm import ArmError, Job, Pass, Report, RunningArm

T = TypeVar("T")


class Arm(NamedTuple):
    """One program with its weights in one format."""

    name: str
    title: str
    module: str
    format: str


class Measurement(NamedTuple):
    """One arm on one workload: its passes, in the order of the rounds, and its report."""

    passes: tuple[Pass, ...]
    report: Report

    @property
    def seconds(self) -> float:
        """Of the median pass."""
        return statistics.median(each.seconds for each in self.passes)

    @property
    def processor_s(self) -> float:
        """Of the median pass, on all cores together."""
        return statistics.median(each.processor_s for each in self.passes)

    @property
    def first_token_s(self) -> float:
        """Until all rows had their first token: the median over passes that timed it."""
        return statistics.median(
            each.first_token_s for each in self.passes if each.first_token_s is not None
        )

    @property
    def num_new_tokens(self) -> int:
        """Of a pass."""
        return sum(map(len, self.report.tokens))

    @property
    def tokens_per_s(self) -> float:
        """New tokens a second, prefill included: what arms are compared by."""
        return self.num_new_tokens / self.seconds


class Outcome(NamedTuple):
    """What was measured of a workload, by arm, and what could not be, with the reason."""

    found: dict[str, Measurement]
    missing: dict[str, str]


def in_rounds(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    """How many times as fast ours is, in seconds and in processor seconds: medians over rounds."""
    pairs = list(zip(ours.passes, theirs.passes, strict=True))
    return (
        statistics.median(b.seconds / a.seconds for a, b in pairs),
        statistics.median(b.processor_s / a.processor_s for a, b in pairs),
    )


def num_same(tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> int:
    """Tokens before each row first departs from the reference's, in all rows together.

    What follows a departure continues another text and says nothing.
    """
    total = 0
    for row, expected in zip(tokens, reference, strict=True):
        departed = (
            i for i, pair in enumerate(zip(row, expected, strict=True)) if pair[0] != pair[1]
        )
        total += next(departed, len(row))
    return total


def measure_together(
    arms: Sequence[Arm],
    job_of: Callable[[Arm], Job],
    *,
    rounds: int,
    environment: Mapping[str, str],
    absent: Callable[[Arm], str],
    tell: Callable[[int, str, Pass], None],
    python_of: Callable[[Arm], str] = lambda arm: sys.executable,
) -> Outcome:
    """Loads every arm that `absent` has no reason against, and takes `rounds` passes of each.

    tell: called after a pass with its round, from 1, and its arm's name.
    python_of: an arm's interpreter.
    """
    outcome = Outcome({}, {})
    running: dict[str, RunningArm] = {}
    passes: dict[str, list[Pass]] = {}
    try:
        for arm in arms:
            if problem := absent(arm):
                outcome.missing[arm.name] = problem
                continue
            running[arm.name] = RunningArm(
                f"benchmarks.{arm.module}",
                job_of(arm),
                environment=environment,
                python=python_of(arm),
            )
            passes[arm.name] = []
            # One after another: arms that load at once would slow one another down.
            _step(arm.name, running, outcome, RunningArm.wait_ready)
        for number in range(1, rounds + 1):
            for name in list(running):
                taken = _step(name, running, outcome, RunningArm.take_pass)
                if taken is not None:
                    passes[name].append(taken)
                    tell(number, name, taken)
        for name in list(running):
            report = _step(name, running, outcome, RunningArm.finish)
            if report is not None:
                del running[name]
                outcome.found[name] = Measurement(tuple(passes[name]), report)
    finally:
        for running_arm in running.values():
            running_arm.kill()
    return outcome


def _step(
    name: str, running: dict[str, RunningArm], outcome: Outcome, action: Callable[[RunningArm], T]
) -> T | None:
    """One action of a running arm; where it ended instead, it is missing from here on."""
    try:
        return action(running[name])
    except ArmError as error:
        running.pop(name).kill()
        outcome.missing[name] = str(error)
        return None
