"""Everything that is watched, behind one object: `poll` reads what is new, the rest only looks.

    watch = Watch(config)
    watch.poll()               reads what runs, logs and the machine have added; evaluates the rules
    watch.overview()           Overview: everything at this moment (monitoring.views)
    watch.series("lora-1f0c", ["loss"], since_step=400)
                               {"revision": 0,
                                "loss": {"step": [...], "time": [...], "value": [...]}}
    watch.close()

    runs, events ─┐
    request logs ─┼─► subjects ──► rules ──► alerts ──► outbox ──► mail, chat, webhook
    machine      ─┘                            └────── state folder (the only thing written)

Times of day are compared with those in files; how often something is done goes by a clock that
nobody sets. Not thread-safe: one thread polls and looks.
"""

from __future__ import annotations

import contextlib
import glob
import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.monitoring.alerts import Alert, AlertBook, Subject, alert_view
from coderllm_jax.monitoring.columns import Columns, ColumnsByName, Points, decimate
from coderllm_jax.monitoring.discovery import find_all
from coderllm_jax.monitoring.events_watch import EventsWatch
from coderllm_jax.monitoring.machine import ID as MACHINE
from coderllm_jax.monitoring.machine import MachineWatch
from coderllm_jax.monitoring.outbox import Note, Outbox, Send, urls_from_environment
from coderllm_jax.monitoring.request_fields import RequestReader
from coderllm_jax.monitoring.rules import load_rules
from coderllm_jax.monitoring.runs import RunWatch, Watched
from coderllm_jax.monitoring.scores import ScoresWatch
from coderllm_jax.monitoring.state import StateFolder
from coderllm_jax.monitoring.subjects import machine_subjects, run_subject, traffic_subjects
from coderllm_jax.monitoring.traffic import TrafficWatch, log_id
from coderllm_jax.monitoring.views import Overview

# Folders are walked this seldom: a run that appears is shown within it.
_DISCOVER_EVERY_S = 5.0
# A poll ends after this long, so that whoever shows things can show them; the rest comes next.
_POLL_AT_MOST_S = 0.25
# How much of what was judged may be judged again after a crash.
_SAVE_EVERY_S = 30.0
_MAX_LOGS = 20
_LOG_GONE_S = 600.0
_ALERTS_SHOWN = 200
_STATE, _SCORES = "state.json", "scores.json"
_KINDS = {"info": "info", "warning": "warning", "critical": "failure"}


class Watch:
    """Runs, request logs, the machine, and the rules over them."""

    def __init__(
        self,
        config: MonitoringConfig,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        machine: MachineWatch | None = None,
        urls: Sequence[str] | None = None,
        send: Send | None = None,
    ) -> None:
        """`clock` gives Unix seconds, which are compared with the times in files.

        `steady` gives seconds that never run back, for what is done every so often. `urls` and
        `send` stand in for the environment's alert URLs and for apprise. Raises ConfigError where
        rules, the field map or a URL are wrong, and RunError where the state folder cannot be had.
        """
        self._config, self._clock, self._steady = config, clock, steady
        rules = load_rules(config.alerts.rules)
        self._reader = RequestReader(config.traffic.fields)
        if urls is None:
            urls = urls_from_environment(config.alerts.urls_variable)
        self._state = StateFolder(Path(config.state_dir).expanduser())
        try:
            self._book, self._outbox = self._recall(rules, urls, send)
        except BaseException:
            self._state.close()
            raise
        self._runs: dict[str, Watched] = {}
        self._traffic: dict[str, TrafficWatch] = {}
        self._log_seen: dict[str, float] = {}
        self._scores = self._recall_scores()
        folders = [str(Path(each).expanduser()) for each in (*config.runs, config.state_dir)]
        self._machine = machine or MachineWatch(folders, max_rows=config.max_points)
        self._num_left_out = {"runs and evaluations": 0, "request logs": 0}
        self._discovered = self._looked = self._saved = float("-inf")
        self._is_caught_up = self._is_unsaved = False

    def poll(self) -> bool:
        """Reads what is new and evaluates the rules; whether there is more to read at once.

        Rules wait until everything that was there at the beginning has been read: what was long
        over then is no news.
        """
        now, steady = self._clock(), self._steady()
        if steady - self._discovered >= _DISCOVER_EVERY_S:
            self._discover(steady)
            self._discovered = steady
        if steady - self._looked >= self._config.machine_s:
            self._machine.look(now)
            self._looked = steady
        if self._scores.poll():
            self._state.write(_SCORES, self._scores.state())
        more = self._read(now)
        self._is_caught_up |= not more
        if self._is_caught_up:
            self._judge(now)
        self._outbox.pump()
        if self._is_unsaved or self._outbox.changed:
            self._save_alerts()
        if steady - self._saved >= _SAVE_EVERY_S:
            self._save_references()
            self._saved = steady
        return more

    def close(self) -> None:
        """Writes what a restart must know, and lets go of everything."""
        self._outbox.wait(timeout_s=2.0)
        self._save_alerts()
        self._save_references()
        self._outbox.close()
        self._machine.close()
        for traffic in self._traffic.values():
            traffic.close()
        self._state.close()

    def overview(self) -> Overview:
        """Everything at this moment."""
        now = self._clock()
        firing = self._book.firing
        shown = [*firing, *self._book.history[: max(0, _ALERTS_SHOWN - len(firing))]]
        return Overview(
            now,
            runs=[
                run.view(now, [alert.id for alert in firing if alert.parent == run.found.id])
                for run in self._runs.values()
            ],
            traffic=[traffic.view(now) for traffic in self._traffic.values()],
            machine=self._machine.view(),
            quality=self._scores.view(),
            alerts=[alert_view(alert, self._outbox.status(alert.id)) for alert in shown],
            rules=self._book.rule_views(),
            problems=self._problems(),
        )

    def series(
        self,
        id: str,
        names: Sequence[str],
        *,
        since_step: int = -1,
        until_step: int | None = None,
        max_points: int = 2000,
    ) -> dict[str, Any]:
        """Points after `since_step`, through `until_step`, about `max_points` of each at most.

        `id` is a run's, a log's, or `machine`. Thinned so that the smallest and largest value of
        every stretch stay: a spike is never lost. Values that are not finite are null. Series that
        are not there are empty. {"revision": n, name: {"step": [...], "time": [...],
        "value": [...]}}. Raises KeyError where nothing has that id.
        """
        columns, revision = self._columns(id)
        return {
            "revision": revision,
            **{
                name: _plain_points(
                    columns,
                    name,
                    since_step=since_step,
                    until_step=until_step,
                    max_points=max_points,
                )
                for name in names
            },
        }

    def _recall(
        self, rules: Sequence[Any], urls: Sequence[str], send: Send | None
    ) -> tuple[AlertBook, Outbox]:
        """Alerts and notes as they were when the monitor was stopped."""

        def build(state: Mapping[str, Any]) -> tuple[AlertBook, Outbox]:
            section = self._config.alerts
            return AlertBook(rules, state.get("alerts", {})), Outbox(
                urls,
                state.get("outbox", {}),
                clock=self._clock,
                send=send,
                retry_s=section.retry_s,
                max_retry_s=section.max_retry_s,
                give_up_s=section.give_up_s,
            )

        state = self._state.read(_STATE)
        try:
            return build(state)
        except (TypeError, KeyError, AttributeError) as error:  # not what was written here
            return build(self._state.set_aside(_STATE, error))

    def _recall_scores(self) -> ScoresWatch:
        state = self._state.read(_SCORES)
        try:
            return ScoresWatch(state)
        except (TypeError, KeyError, AttributeError) as error:
            return ScoresWatch(self._state.set_aside(_SCORES, error))

    def _discover(self, steady: float) -> None:
        discovery = find_all(self._config.runs)
        self._num_left_out["runs and evaluations"] = discovery.num_left_out
        found = {each.id: each for each in discovery.found}
        self._scores.watch([each for each in found.values() if each.kind == "evaluation"])
        for run_id in set(self._runs) - set(found):
            del self._runs[run_id]
        for run_id, each in found.items():
            if run_id not in self._runs and each.kind != "evaluation":
                kind = RunWatch if each.kind == "run" else EventsWatch
                self._runs[run_id] = kind(each, max_rows=self._config.max_points)
        paths = {str(path): path for path in self._find_logs()}
        for key, path in paths.items():
            self._log_seen[key] = steady
            if key not in self._traffic:
                self._traffic[key] = self._open_log(path)
        for key in set(self._traffic) - set(paths):
            # While a log is rotated it is away for a moment.
            if steady - self._log_seen[key] > _LOG_GONE_S:
                self._traffic.pop(key).close()

    def _find_logs(self) -> list[Path]:
        """Logs that are there now; of too many those that were written to last."""
        paths = [
            Path(path)
            for pattern in self._config.traffic.logs
            # Not Path.glob: a pattern may be absolute.
            for path in sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
        ]
        changed: dict[Path, float] = {}
        for path in paths:
            with contextlib.suppress(OSError):
                if path.is_file():
                    changed[path] = path.stat().st_mtime
        newest = heapq.nlargest(_MAX_LOGS, changed, key=changed.__getitem__)
        self._num_left_out["request logs"] = len(changed) - len(newest)
        return [path for path in changed if path in newest]

    def _open_log(self, path: Path) -> TrafficWatch:
        def build(state: Mapping[str, Any]) -> TrafficWatch:
            return TrafficWatch(
                path,
                reader=self._reader,
                window_s=self._config.traffic.window_s,
                drift=self._config.drift,
                max_rows=self._config.max_points,
                state=state,
            )

        name = _reference_name(log_id(path))
        try:
            return build(self._state.read(name))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            return build(self._state.set_aside(name, error))

    def _read(self, now: float) -> bool:
        deadline = time.monotonic() + _POLL_AT_MOST_S
        unread: list[Watched | TrafficWatch] = [*self._runs.values(), *self._traffic.values()]
        while unread:
            unread = [each for each in unread if each.poll(now)]
            if time.monotonic() > deadline:
                break
        return bool(unread)

    def _judge(self, now: float) -> None:
        for alert in self._book.evaluate(self._subjects(now), now):
            self._outbox.put(_note(alert))
            self._is_unsaved = True

    def _subjects(self, now: float) -> list[Subject]:
        runs = [run_subject(run, now) for run in self._runs.values()]
        return [
            *(subject for subject in runs if subject is not None),
            *(
                subject
                for traffic in self._traffic.values()
                for subject in traffic_subjects(traffic, now)
            ),
            *machine_subjects(self._machine.view(), MACHINE),
        ]

    def _save_alerts(self) -> None:
        self._state.write(_STATE, {"alerts": self._book.state(), "outbox": self._outbox.state()})
        self._is_unsaved = self._outbox.changed = False

    def _save_references(self) -> None:
        for traffic in self._traffic.values():
            if traffic.has_news():
                self._state.write(_reference_name(traffic.id), traffic.state())

    def _columns(self, id: str) -> tuple[Columns | ColumnsByName, int]:
        if id == MACHINE:
            return self._machine.columns, 0
        for traffic in self._traffic.values():
            if traffic.id == id:
                return traffic.columns, traffic.revision
        run = self._runs[id]
        return run.columns, run.revision

    def _problems(self) -> list[str]:
        damage = [
            problem
            for run in self._runs.values()
            if isinstance(run, EventsWatch)
            for problem in run.damage
        ]
        left_out = [
            f"older {what} that are not watched, because there are too many: {count}"
            for what, count in self._num_left_out.items()
            if count
        ]
        return [*damage, *left_out, *self._state.problems, *self._outbox.problems()]


def _reference_name(log_id: str) -> str:
    return f"references/{log_id}.json"


def _note(alert: Alert) -> Note:
    """An alert that was raised or resolved, for people elsewhere."""
    if alert.resolved is None:
        title = f"{alert.severity}: {alert.rule.replace('_', ' ')}"
        return Note(alert.id, title, alert.message, _KINDS[alert.severity])
    minutes = (alert.resolved - alert.raised) / 60
    title = f"resolved: {alert.rule.replace('_', ' ')}"
    body = f"{alert.message}\nover after {minutes:.0f} min: {alert.ending}"
    return Note(alert.id, title, body, "success")


def _plain_points(
    columns: Columns | ColumnsByName,
    name: str,
    *,
    since_step: int,
    until_step: int | None,
    max_points: int,
) -> dict[str, list[Any]]:
    points = columns.points(name, since_step=since_step)
    if until_step is not None:
        end = np.searchsorted(points.steps, until_step, side="right")
        points = Points(*(column[:end] for column in points))
    points = decimate(points, max_points)
    values = points.values.astype(np.float64)
    return {
        "step": points.steps.tolist(),
        "time": points.times.tolist(),
        "value": [
            value if finite else None
            for value, finite in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
        ],
    }
