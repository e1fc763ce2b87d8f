"""Where a run's time went, and how long it will still take: from the times of its rows alone.

    row 19 │ step 20 │ row 20 │ evaluation │ eval row │ sampling, saving │ step 21 │ row 21
           └ step_time_s ┘     └ between the two ┘     └ what is left of the gap, less the step

A row says how long its steps took. Whatever else lies between two rows of a session was something
else: an evaluation where an evaluation's row says so, a save where one was due.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coderllm_jax.monitoring.views import Interval

# Steps that say how fast a run is now: enough for an interval, few enough to follow a change.
_RECENT_ROWS = 512
_RECENT_PAUSES = 16
# Few and long: a load that wanders makes neighbouring blocks alike, and many short ones would not
# show how far it wanders. The factor is for what few ones do not show either. Of 200 simulated
# runs' intervals at half time 95 % hold where steps are independent, 78 to 84 % where the load
# wanders over a twentieth of the run, 67 % over a sixth.
_NUM_BLOCKS = 4
_WANDER = 1.25
# Student's t for an interval that holds four times out of five, by degrees of freedom.
_T_80 = (math.inf, 3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415)
# Nobody knows a machine's next hour better than this.
_LEAST_RELATIVE = 0.02


@dataclasses.dataclass(frozen=True)
class Plan:
    """What lies ahead of a run; every_steps 0: at the end only."""

    num_steps: int
    evaluation_every_steps: int
    checkpoint_every_steps: int

    def pauses_left(self, step: int) -> tuple[int, int]:
        """Evaluations that follow the row of `step` or later ones, and saves by themselves.

        The evaluation before the first step is none of them.
        """
        first, last = max(step, 1), self.num_steps
        every, saved = self.evaluation_every_steps, self.checkpoint_every_steps
        # Both are made at the last step, whatever their periods.
        evaluations = int(first <= last) + _multiples(every, first, last - 1)
        saves = _multiples(saved, first, last - 1)
        if every and saved:
            saves -= _multiples(math.lcm(every, saved), first, last - 1)
        return evaluations, saves


class RunTimes:
    """Sums and recent times of one run's rows, row by row."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.last_step = 0
        self.last_time: float | None = None
        # Of training rows: steps in it, seconds a step.
        self._steps: deque[tuple[int, float]] = deque(maxlen=_RECENT_ROWS)
        self._evaluation_pauses_s: deque[float] = deque(maxlen=_RECENT_PAUSES)
        self._save_pauses_s: deque[float] = deque(maxlen=_RECENT_PAUSES)
        self._evaluated: tuple[int, float] | None = None
        self._sessions: Sequence[float] = ()

    @property
    def step_time_s(self) -> float | None:
        """Seconds a step: the median of recent rows."""
        return float(np.median([seconds for _, seconds in self._steps])) if self._steps else None

    def begin_sessions(self, starts: Sequence[float]) -> None:
        """Tells when the run's process was started, each time; a pause across a start is none."""
        self._sessions = starts

    def add(self, row: Mapping[str, Any], *, plan: Plan | None) -> None:
        """One row of metrics.jsonl, in order."""
        step, time = row["step"], row["time"]
        if "eval_loss" in row:
            self._evaluated = (step, time)
            if self.last_time is None:  # the baseline, before the first step
                self.last_step, self.last_time = step, time
            return
        seconds = row.get("step_time_s")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            return
        count = max(1, step - self.last_step)
        wait_s = min(row.get("data_wait_s") or 0.0, count * seconds)
        self._count("data_wait", wait_s)
        self._count("compute", count * seconds - wait_s)
        self._steps.append((count, seconds))
        if self.last_time is not None and not self._crosses_start(self.last_time, time):
            self._add_pause(time - self.last_time - count * seconds, plan)
        self.last_step, self.last_time, self._evaluated = step, time, None

    def remaining(self, plan: Plan, *, now: float) -> Interval | None:
        """Seconds from `now` to the end of the last evaluation; None before the first step.

        The expected time is steps left times the mean of recent steps, and for each evaluation and
        save that is due the median of what they have taken. The interval is meant to hold 80 %: a
        prediction interval for a mean of future blocks from the means of past ones (Student's t),
        so that it knows a load that comes and goes in blocks. Covers noise that has been seen;
        does not cover a machine that changes, early stopping, and writing the adapter at the end.
        """
        if not self._steps or self.last_time is None:
            return None
        left = max(0, plan.num_steps - self.last_step)
        counts, seconds = np.array(self._steps).T
        mean_s = float(np.average(seconds, weights=counts))
        evaluations, saves = plan.pauses_left(self.last_step)
        pauses = [
            _mean_and_spread(self._evaluation_pauses_s, evaluations),
            _mean_and_spread(self._save_pauses_s, saves),
        ]
        expected = left * mean_s + sum(total for total, _ in pauses)
        spread = math.hypot(
            left * _spread_of_future_mean(counts, seconds, left),
            *(each for _, each in pauses),
            _LEAST_RELATIVE * expected,
        )
        passed = max(0.0, now - self.last_time)
        return Interval(
            max(0.0, expected - spread - passed),
            max(0.0, expected - passed),
            max(0.0, expected + spread - passed),
        )

    def _add_pause(self, pause_s: float, plan: Plan | None) -> None:
        pause_s = max(0.0, pause_s)
        assert self.last_time is not None
        if self._evaluated is not None:
            evaluation_s = min(pause_s, max(0.0, self._evaluated[1] - self.last_time))
            self._count("evaluation", evaluation_s)
            self._count("sampling", pause_s - evaluation_s)
            if self._evaluated[1] > self.last_time:  # the baseline's own length is not known
                self._evaluation_pauses_s.append(pause_s)
        elif plan and plan.checkpoint_every_steps and self._is_save(plan):
            self._count("checkpoint", pause_s)
            self._save_pauses_s.append(pause_s)
        else:
            self._count("other", pause_s)

    def _is_save(self, plan: Plan) -> bool:
        return self.last_step > 0 and self.last_step % plan.checkpoint_every_steps == 0

    def _crosses_start(self, before: float, after: float) -> bool:
        return any(before < start <= after for start in self._sessions)

    def _count(self, kind: str, seconds: float) -> None:
        self.sums[kind] = self.sums.get(kind, 0.0) + seconds


def _multiples(of: int, first: int, last: int) -> int:
    """How many multiples lie from `first` to `last`; none of 0."""
    return max(0, last // of - (first - 1) // of) if of else 0


def _mean_and_spread(pauses_s: Sequence[float], count: int) -> tuple[float, float]:
    """What `count` more pauses take together, and half of the interval around it."""
    if not count or not pauses_s:
        return 0.0, 0.0
    typical = float(np.median(pauses_s))
    if len(pauses_s) == 1:
        return count * typical, 0.5 * count * typical
    t = _T_80[min(len(pauses_s) - 1, len(_T_80) - 1)]
    spread = float(np.std(pauses_s, ddof=1)) * math.sqrt(count + count**2 / len(pauses_s))
    return count * typical, t * spread


def _spread_of_future_mean(counts: np.ndarray, seconds: np.ndarray, left: int) -> float:
    """Half of the interval for the mean of `left` steps to come, seconds a step."""
    num_blocks = min(_NUM_BLOCKS, len(seconds))
    if num_blocks < 2:
        return float(seconds.mean())
    means = np.array(
        [
            np.average(block, weights=weights)
            for block, weights in zip(
                np.array_split(seconds, num_blocks), np.array_split(counts, num_blocks), strict=True
            )
        ]
    )
    blocks_left = max(1.0, left / (counts.sum() / num_blocks))
    t = _T_80[min(num_blocks - 1, len(_T_80) - 1)]
    return _WANDER * t * float(means.std(ddof=1)) * math.sqrt(1 / num_blocks + 1 / blocks_left)


def time_split(
    sums: Mapping[str, float], summary: Mapping[str, Any], *, total_s: float
) -> dict[str, float]:
    """Fractions of `total_s` by what was done, from the rows' `sums` and a run's own summary.

    The summary, where there is one, was written at an evaluation and knows all sections exactly;
    rows know what came after. What neither accounts for is `lost`: the time between sessions, and
    steps that a kill undid. {} where nothing is known.
    """
    seconds = dict(sums)
    if summary.get("train_s"):
        train_s = summary["train_s"]
        wait_s = (summary.get("data_wait_fraction") or 0.0) * train_s
        exact = {
            "compute": train_s - wait_s,
            "data_wait": wait_s,
            **{
                kind: summary.get(key) or 0.0
                for kind, key in (
                    ("evaluation", "evaluation_s"),
                    ("checkpoint", "checkpoint_wait_s"),
                    ("sampling", "sampling_s"),
                    ("compile", "compile_s"),
                    ("setup", "setup_s"),
                )
            },
        }
        # Rows go further than the summary, never less far; what it knows better, it knows.
        seconds = {
            **exact,
            "compute": max(exact["compute"], sums.get("compute", 0.0)),
            "data_wait": max(exact["data_wait"], sums.get("data_wait", 0.0)),
            "evaluation": max(exact["evaluation"], sums.get("evaluation", 0.0)),
        }
    if not seconds or total_s <= 0:
        return {}
    lost = total_s - sum(seconds.values())
    if lost > 0:
        seconds["lost"] = lost
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items() if value > 0}
