"""One run of anybody's that wrote TensorBoard events, as it is watched; see monitoring.runs.

    train/loss   step 100  200  300 │ 200 …     its own steps went back: resumed, 200 and 300 go
    val/acc      step   1    2    3             epochs: no other tag's steps are its business

A tag is cut where its own steps go back, in the same file or a later one, and every tag where a
writer says that it begins again (`purge_step`). Where two files hold one tag the later one has it.
Of tags that have one name in common (`val/loss`, `test/loss`) only the first is called by it.

What events do not say (steps to come, a process, where its time went) stays unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.monitoring.columns import MAX_NAMES, ColumnsByName
from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.event_files import (
    PATTERN,
    EventFile,
    Restart,
    Scalar,
    common_name,
)
from coderllm_jax.monitoring.run_health import RunHealth
from coderllm_jax.monitoring.run_status import Judgement, judge
from coderllm_jax.monitoring.runs import FRESH_S, RATE_ROWS, ratio_of_sums
from coderllm_jax.monitoring.views import RunView


class _Last(NamedTuple):
    """The newest point of a tag, and the file that has it."""

    path: Path
    step: int
    time: float


class EventsWatch:
    """A folder of TensorBoard events; what they do not say is unknown."""

    def __init__(self, found: Found, *, max_rows: int) -> None:
        self.found = found
        self.revision = 0
        self.columns = ColumnsByName(max_rows=max_rows)
        self._files: dict[Path, EventFile] = {}
        self._names: dict[str, str] = {}
        self._has_too_many = False
        self._last: dict[str, _Last] = {}
        # The series that is furthest.
        self._lead = ""
        self._health = RunHealth()
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
            found, more = file.read()
            for each in found:
                if isinstance(each, Restart):
                    self._cut(each.step, self.columns.names)
                else:
                    self._add(each, path, now)
            if more:
                return True
        self._flush(now)
        return False

    @property
    def damage(self) -> list[str]:
        """Files that cannot be followed any further, and whether there are too many tags."""
        damage = [file.damage for file in self._files.values() if file.damage]
        if self._has_too_many:
            damage.append(f"{self.found.path}: of its tags only the first {MAX_NAMES} are shown")
        return damage

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
        """The newest step of the series that is furthest."""
        return self._last[self._lead].step if self._lead else None

    def judgement(self, now: float) -> Judgement:
        """How the run is."""
        return judge(
            [], [], last_row=self.columns.last_time, step_time_s=self._seconds_a_step(), now=now
        )

    def _seconds_a_step(self) -> float | None:
        return ratio_of_sums([(seconds, steps) for steps, seconds in self._rates])

    def _add(self, scalar: Scalar, path: Path, now: float) -> None:
        name = self._name_of(scalar.tag)
        last = self._last.get(name)
        if not name or (last is not None and path < last.path):
            return
        step, time, value = scalar.step, scalar.time, scalar.value
        if last is not None and (step < last.step or (step == last.step and path != last.path)):
            self._cut(step, [name])  # a resumed run writes its steps again
        self._lead_on(name, step, time)
        self._last[name] = _Last(path, step, time)
        self.columns.append(name, step, time, value)
        if self._row and (step != self._at[0] or name in self._row):
            self._flush(now)
        self._row[name] = value
        self._at = (step, time)

    def _name_of(self, tag: str) -> str:
        """What a tag is called here; nothing where there are too many."""
        if tag in self._names:
            return self._names[tag]
        self._has_too_many = len(self._names) >= MAX_NAMES
        if not self._has_too_many:
            taken = self._names.values()
            names = (common_name(tag), tag, f"{tag} (tag)")
            self._names[tag] = next(name for name in names if name not in taken)
        return self._names.get(tag, "")

    def _lead_on(self, name: str, step: int, time: float) -> None:
        """Counts steps and their time where a point is the furthest, or goes on from it."""
        lead = self._last.get(self._lead)
        if lead is not None and step > lead.step:
            self._rates.append((step - lead.step, max(0.0, time - lead.time)))
        if lead is None or step > lead.step or name == self._lead:
            self._lead = name

    def _cut(self, step: int, names: Sequence[str]) -> None:
        self.revision += self.columns.cut(step, names)

    def _flush(self, now: float) -> None:
        if not self._row:
            return
        step, time = self._at
        row, self._row = self._row, {}
        self._health.add({"step": step, "time": time, **row}, is_fresh=now - time < FRESH_S)
