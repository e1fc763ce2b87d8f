"""One run of anybody's that wrote TensorBoard events, as it is watched; see monitoring.runs.

What events do not say (steps to come, a process, where its time went) stays unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from coderllm_jax.monitoring.columns import Columns
from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.event_files import PATTERN, EventFile, Scalar
from coderllm_jax.monitoring.run_health import RunHealth
from coderllm_jax.monitoring.run_status import Judgement, judge
from coderllm_jax.monitoring.run_times import RunTimes
from coderllm_jax.monitoring.runs import FRESH_S, RATE_ROWS, ratio_of_sums
from coderllm_jax.monitoring.views import RunView


class EventsWatch:
    """A folder of TensorBoard events; what they do not say is unknown."""

    def __init__(self, found: Found, *, max_rows: int) -> None:
        self.found = found
        self.revision = 0
        self.columns = Columns(max_rows=max_rows)
        self._files: dict[Path, EventFile] = {}
        self._health = RunHealth()
        self._times = RunTimes()
        # Scalars come one by one; those of one step and moment are one row.
        self._row: dict[str, float | None] = {}
        self._at: tuple[int, float] = (0, 0.0)
        self._rates: deque[tuple[float, float]] = deque(maxlen=RATE_ROWS)

    def poll(self, now: float) -> bool:
        """Reads what is new, file by file in the order they were begun."""
        try:
            paths = sorted(self.found.path.glob(PATTERN))
        except OSError:
            return False
        for path in paths:
            file = self._files.setdefault(path, EventFile(path))
            scalars, more = file.read()
            for scalar in scalars:
                self._add(scalar, now)
            if more:
                return True
        self._flush(now)
        return False

    @property
    def damage(self) -> list[str]:
        """Files that cannot be followed any further."""
        return [file.damage for file in self._files.values() if file.damage]

    def view(self, now: float, alerts: Sequence[str]) -> RunView:
        """What is shown of it."""
        judgement = self.judgement(now)
        best_step, best = self._health.best or (None, None)
        first = self.columns.first_time
        return RunView(
            id=self.found.id,
            name=self.found.name,
            folder=str(self.found.path),
            source="tensorboard",
            model="",
            status=judgement.status,
            status_reason=judgement.reason,
            phase="",
            step=self.step(now),
            num_steps=None,
            started=first,
            updated=self.columns.last_time,
            eta_s=None,
            step_time_s=self._seconds_a_step(),
            tokens_per_s=self.columns.latest().get("tokens_per_s"),
            tokens=None,
            mfu=None,
            split={},
            goodput=None,
            latest=self.columns.latest(),
            best_eval_loss=best,
            best_step=best_step,
            series=self.columns.names,
            num_points=len(self.columns),
            revision=self.revision,
            samples=[],
            alerts=list(alerts),
        )

    def figures(self, now: float) -> dict[str, float | None] | None:
        """The newest figure of every series, and what rows alone say of the run's health."""
        judgement = self.judgement(now)
        if judgement.status != "running":
            return None
        health = self._health.figures()
        return {**self.columns.latest(), **health, "idle_s": judgement.idle_s}

    def step(self, now: float) -> int | None:
        """The newest step that was written."""
        return self._times.last_step if len(self.columns) else None

    def judgement(self, now: float) -> Judgement:
        """How the run is."""
        return judge(
            [], [], last_row=self.columns.last_time, step_time_s=self._seconds_a_step(), now=now
        )

    def _seconds_a_step(self) -> float | None:
        return ratio_of_sums([(seconds, steps) for steps, seconds in self._rates])

    def _add(self, scalar: Scalar, now: float) -> None:
        if self._row and (scalar.step != self._at[0] or scalar.name in self._row):
            self._flush(now)
        self._row[scalar.name] = scalar.value
        self._at = (scalar.step, scalar.time)

    def _flush(self, now: float) -> None:
        if not self._row:
            return
        step, time = self._at
        row, self._row = self._row, {}
        last_step, last_time = self._times.last_step, self.columns.last_time
        if step < last_step and self.columns.cut(step):
            self.revision += 1  # a resumed run writes its steps again
        elif last_time is not None and step > last_step:
            self._rates.append((step - last_step, max(0.0, time - last_time)))
        self._times.last_step = step
        self.columns.append(step, time, row)
        self._health.add({"step": step, "time": time, **row}, is_fresh=now - time < FRESH_S)
