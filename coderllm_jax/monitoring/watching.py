"""Everything that is watched, behind one object: `poll` reads what is new, the rest only looks.

    watch = Watch(config)
    watch.poll()               reads what runs, logs and the machine have added; evaluates the rules
    watch.overview()           Overview: everything at this moment (monitoring.views)
    watch.series("lora-1f0c", ["loss"], since_step=400)
                               {"revision": 0,
                                "loss": {"step": [...], "time": [...], "value": [...]}}

Writes to none of what it reads. Not thread-safe: one thread polls and looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.monitoring.columns import Columns, decimate
from coderllm_jax.monitoring.discovery import find_all
from coderllm_jax.monitoring.events_watch import EventsWatch
from coderllm_jax.monitoring.machine import ID as MACHINE
from coderllm_jax.monitoring.machine import MachineWatch
from coderllm_jax.monitoring.runs import RunWatch, Watched
from coderllm_jax.monitoring.views import Overview, QualityView

# Folders are walked this seldom: a run that appears is shown within it.
_DISCOVER_EVERY_S = 5.0
# A poll ends after this long, so that whoever shows things can show them; the rest comes next.
_POLL_AT_MOST_S = 0.25


class Watch:
    """Runs, request logs, the machine and the rules over them."""

    def __init__(
        self,
        config: MonitoringConfig,
        *,
        clock: Callable[[], float] = time.time,
        machine: MachineWatch | None = None,
    ) -> None:
        """`clock` gives Unix seconds, which are compared with the times in files."""
        self._config, self._clock = config, clock
        self._runs: dict[str, Watched] = {}
        self._machine = machine or MachineWatch(
            [*config.runs, config.state_dir], max_rows=config.max_points
        )
        self._discovered = self._looked = float("-inf")

    def poll(self) -> bool:
        """Reads what is new and evaluates the rules; whether there is more to read at once."""
        now = self._clock()
        if now - self._discovered >= _DISCOVER_EVERY_S:
            self._discover()
            self._discovered = now
        if now - self._looked >= self._config.machine_s:
            self._machine.look(now)
            self._looked = now
        return self._read(now)

    def close(self) -> None:
        """Ends what was started; the state is on disk already."""
        self._machine.close()

    def overview(self) -> Overview:
        """Everything at this moment."""
        now = self._clock()
        return Overview(
            now,
            runs=[run.view(now, ()) for run in self._runs.values()],
            traffic=[],
            machine=self._machine.view(),
            quality=QualityView([], []),
            alerts=[],
            rules=[],
            problems=self._problems(),
        )

    def series(
        self, id: str, names: Sequence[str], *, since_step: int = -1, max_points: int = 2000
    ) -> dict[str, Any]:
        """Points after `since_step`, at most about `max_points` of each series.

        `id` is a run's, a log's, or `machine`. Thinned so that the smallest and largest value of
        every stretch stay: a spike is never lost. Values that are not finite are null. Series that
        are not there are empty. {"revision": n, name: {"step": [...], "time": [...],
        "value": [...]}}. Raises KeyError where nothing has that id.
        """
        columns, revision = self._columns(id)
        return {
            "revision": revision,
            **{
                name: _plain_points(columns, name, since_step=since_step, max_points=max_points)
                for name in names
            },
        }

    def _discover(self) -> None:
        found = {each.id: each for each in find_all(self._config.runs)}
        for run_id in set(self._runs) - set(found):
            del self._runs[run_id]
        for run_id, each in found.items():
            if run_id not in self._runs and each.kind != "evaluation":
                kind = RunWatch if each.kind == "run" else EventsWatch
                self._runs[run_id] = kind(each, max_rows=self._config.max_points)

    def _read(self, now: float) -> bool:
        deadline = time.monotonic() + _POLL_AT_MOST_S
        unread = list(self._runs.values())
        while unread:
            unread = [run for run in unread if run.poll(now)]
            if time.monotonic() > deadline:
                break
        return bool(unread)

    def _columns(self, id: str) -> tuple[Columns, int]:
        if id == MACHINE:
            return self._machine.columns, 0
        run = self._runs[id]
        return run.columns, run.revision

    def _problems(self) -> list[str]:
        return [
            problem
            for run in self._runs.values()
            if isinstance(run, EventsWatch)
            for problem in run.damage
        ]


def _plain_points(
    columns: Columns, name: str, *, since_step: int, max_points: int
) -> dict[str, list[Any]]:
    points = decimate(columns.points(name, since_step=since_step), max_points)
    values = points.values.astype(np.float64)
    return {
        "step": points.steps.tolist(),
        "time": points.times.tolist(),
        "value": [
            value if finite else None
            for value, finite in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
        ],
    }
