"""What a run knows about itself: the counters that a resume must not lose.

Saved as JSON inside every checkpoint, so that the figures of an interrupted run are those of an
uninterrupted one. Times are seconds and never overlap:

    wall = setup + compile + train (data wait included) + checkpoint wait + evaluation + sampling
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self, TypeGuard

import numpy as np

# Enough for stable percentiles; a bound, because the record is written with every checkpoint.
_STEP_TIMES_KEPT = 2048


@dataclasses.dataclass
class RunRecord:
    """Cumulative over all sessions of one run. `step` is also the index of the next batch.

    `evaluations` holds the rows of metrics.jsonl that have `eval_loss`, the baseline (step 0)
    first. `step_times_s` are the latest steady step times, without compilation. `planned_steps` is
    what `status` finished means; `failure` says why a run diverged. `skipped_steps` are those whose
    batch was not learnt from, `live` what live.yaml has set by now.
    """

    step: int = 0
    status: str = "running"
    planned_steps: int = 0
    stopped_early_at: int | None = None
    failure: str = ""
    tokens: int = 0
    loss_tokens: int = 0
    setup_s: float = 0.0
    compile_s: float = 0.0
    train_s: float = 0.0
    data_wait_s: float = 0.0
    checkpoint_wait_s: float = 0.0
    evaluation_s: float = 0.0
    sampling_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    baseline_few_shot_loss: float | None = None
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    step_times_s: list[float] = dataclasses.field(default_factory=list)
    skipped_steps: list[int] = dataclasses.field(default_factory=list)
    live: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def baseline(self) -> dict[str, Any] | None:
        """The evaluation before the first step; None if there was none."""
        return next((row for row in self.evaluations if row["step"] == 0), None)

    @property
    def best(self) -> dict[str, Any] | None:
        """The finite evaluation of a trained step with the lowest loss; the last one of equals.

        The last, because that is the one whose checkpoint Orbax keeps.
        """
        trained = [
            row
            for row in reversed(self.evaluations)
            if row["step"] > 0 and is_finite(row["eval_loss"])
        ]
        return min(trained, key=lambda row: row["eval_loss"], default=None)

    @property
    def final(self) -> dict[str, Any] | None:
        """The last evaluation of a trained step."""
        return next((row for row in reversed(self.evaluations) if row["step"] > 0), None)

    @property
    def is_unevaluated(self) -> bool:
        """Whether the step that the record is at has no evaluation."""
        return all(row["step"] != self.step for row in self.evaluations)

    def has_finished(self, num_steps: int) -> bool:
        """Whether a run of `num_steps` has nothing left to do; early stopping ends it, too.

        One that was interrupted in its last step still owes that step's evaluation.
        """
        return self.status == "finished" and num_steps in (self.step, self.planned_steps)

    def add_step(self, seconds: float) -> None:
        """Counts one finished step's time."""
        self.train_s += seconds
        self.step_times_s.append(seconds)
        del self.step_times_s[:-_STEP_TIMES_KEPT]

    def step_time_percentile_s(self, percent: float) -> float | None:
        """A percentile of the kept step times; None before the first."""
        return float(np.percentile(self.step_times_s, percent)) if self.step_times_s else None

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote; fields that an older record lacks keep their defaults."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether a figure is there and is neither NaN nor infinite."""
    return value is not None and math.isfinite(value)
