"""One training run as it is watched: its files as they grow, and what they say together.

    poll       reads what metrics.jsonl, samples.jsonl, journal.jsonl, processes/ … have added
    view       shows it
    columns    gives its series
    figures    what rules refer to

A run that was resumed has had its rows cut back to a checkpoint: its file is another one,
everything is read again, and `revision` says so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from coderllm_jax.monitoring.columns import Columns, ColumnsByName
from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.json_files import JsonFile, dig, number, parse_rows
from coderllm_jax.monitoring.run_health import RunHealth
from coderllm_jax.monitoring.run_status import Judgement, Process, judge
from coderllm_jax.monitoring.run_times import Plan, RunTimes, time_split
from coderllm_jax.monitoring.tailing import LineTail
from coderllm_jax.monitoring.views import RunView
from coderllm_jax.training.devices import PEAK_BF16_FLOPS
from coderllm_jax.training.run_folder import RunFolder

_SAMPLES_KEPT = 12
_SAMPLE_CHARACTERS = 4000
_EVENTS_KEPT = 1000
# Rows written before this were written when nobody watched: they raise nothing.
FRESH_S = 120.0
# A run that was found dead is news for this long.
_RECENT_END_S = 3600.0
_MAX_STEP = 2.0**53
RATE_ROWS = 20
# A look that comes so much later than those before it: this computer, or the monitor, slept.
_SLEPT_S = 20.0


class Watched(Protocol):
    """What `Watch` does with a run of either kind."""

    found: Found
    revision: int

    @property
    def columns(self) -> Columns | ColumnsByName:
        """Its series."""

    def poll(self, now: float) -> bool:
        """Reads what is new; whether there is more to read at once."""

    def view(self, now: float, alerts: Sequence[str]) -> RunView:
        """What is shown of it."""

    def figures(self, now: float) -> dict[str, float | None] | None:
        """What rules refer to; None where the run is over and nothing about it is news."""

    def judgement(self, now: float) -> Judgement:
        """How the run is."""

    def step(self, now: float) -> int | None:
        """The furthest step that anything says."""


class RunWatch:
    """A run's folder of ours. Every file of it may be missing, or half there."""

    def __init__(self, found: Found, *, max_rows: int) -> None:
        self.found = found
        self.revision = 0
        self.columns = Columns(max_rows=max_rows)
        folder = RunFolder(found.path)
        self._folder = folder
        self._metrics = LineTail(folder.metrics_log)
        self._samples_tail = LineTail(folder.samples_log)
        self._journal = LineTail(folder.journal)
        self._config = JsonFile(folder.config)
        self._manifest = JsonFile(folder.manifest)
        self._summary = JsonFile(folder.summary)
        self._reports: dict[Path, tuple[JsonFile, float]] = {}
        self._samples: deque[dict[str, Any]] = deque(maxlen=_SAMPLES_KEPT)
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._first_start: float | None = None
        self._polled: float | None = None
        self._usual_gap_s = math.inf
        self._awake = 0.0
        self._forget_rows()

    def poll(self, now: float) -> bool:
        """Reads what is new in any of the run's files."""
        self._notice_sleep(now)
        for file in (self._config, self._manifest, self._summary):
            file.refresh()
        self._read_reports(now)
        self._read_journal()
        self._read_samples()
        return self._read_rows(now)

    def view(self, now: float, alerts: Sequence[str]) -> RunView:
        """What is shown of it."""
        judgement = self.judgement(now)
        latest = self.columns.latest()
        is_over = judgement.status in ("finished", "failed", "interrupted", "unknown")
        plan = self._plan()
        eta = None if is_over or plan is None else self._times.remaining(plan, now=now)
        split = self._split(self._last_sign or now if is_over else now)
        best_step, best = self._health.best or (None, None)
        return RunView(
            id=self.found.id,
            name=self.found.name,
            folder=str(self.found.path),
            source="coderllm_jax",
            model=str(dig(self._manifest.values, "model", "name") or ""),
            status=judgement.status,
            status_reason=judgement.reason,
            phase="" if is_over else next((each.phase for each in self._processes(now)), ""),
            step=self.step(now),
            num_steps=plan.num_steps if plan else None,
            started=self._first_start,
            updated=self._last_sign,
            eta_s=eta,
            step_time_s=self._times.step_time_s,
            tokens_per_s=ratio_of_sums(self._token_times),
            tokens=self._tokens,
            mfu=self._mfu(),
            split=split,
            goodput=split.get("compute"),
            latest=latest,
            best_eval_loss=best,
            best_step=best_step,
            series=self.columns.names,
            num_points=len(self.columns),
            revision=self.revision,
            samples=list(self._samples),
            alerts=list(alerts),
        )

    def figures(self, now: float) -> dict[str, float | None] | None:
        """The newest figure of every series, the run's health, and how it is."""
        judgement = self.judgement(now)
        if judgement.status in ("finished", "interrupted", "unknown"):
            return None
        if judgement.status == "failed":
            is_news = self._last_sign is not None and now - self._last_sign < _RECENT_END_S
            return {"failed": 1.0 if is_news else None}
        health = self._health.figures()
        plan = self._plan()
        if plan is None or self._times.last_step > 0.75 * plan.num_steps:
            # At the end of its schedule every run stands still.
            health["plateau_fraction"] = 0.0
        return {
            **self.columns.latest(),
            **health,
            "idle_s": judgement.idle_s,
            # Just awake, nobody can tell: that ends no stall and begins none.
            "stalled": None
            if now - self._awake <= _SLEPT_S
            else float(judgement.status == "stalled"),
            "failed": 0.0,
            "mfu": self._mfu(),
        }

    def _notice_sleep(self, now: float) -> None:
        if self._polled is not None:
            gap_s = now - self._polled
            if gap_s > self._usual_gap_s + _SLEPT_S:
                self._awake = now
            self._usual_gap_s = gap_s
        self._polled = now

    def _forget_rows(self) -> None:
        self.columns.clear()
        self._times, self._health = RunTimes(), RunHealth()
        self._tokens: int | None = None
        self._flops: deque[tuple[float, float]] = deque(maxlen=RATE_ROWS)
        self._token_times: deque[tuple[float, float]] = deque(maxlen=RATE_ROWS)

    def _read_rows(self, now: float) -> bool:
        found = self._metrics.read()
        if found.restarted:
            self.revision += 1
            self._forget_rows()
        if found.lines:
            self._times.begin_sessions(self._starts())
            plan = self._plan()
            for row in parse_rows(found.lines):
                self._add_row(row, plan, now)
        return found.more

    def _add_row(self, row: Mapping[str, Any], plan: Plan | None, now: float) -> None:
        at, time = number(row.get("step")), number(row.get("time"))
        if at is None or time is None or abs(at) > _MAX_STEP:
            return
        step = int(at)
        if step < self._times.last_step and self.columns.cut(step):
            self.revision += 1  # somebody cut the run without replacing the file
        previous = self._times.last_step
        # None stands for what is not finite; what is no number is left out.
        figures = {
            name: number(value)
            for name, value in row.items()
            if name not in ("step", "time")
            and (value is None or (isinstance(value, int | float) and value is not True))
        }
        self.columns.append(step, time, figures)
        clean = {"step": step, "time": time, **figures}
        self._health.add(clean, is_fresh=now - time < FRESH_S)
        self._times.add(clean, plan=plan)
        if "eval_loss" not in figures:
            self._count_tokens(figures, max(1, step - previous))

    def _count_tokens(self, figures: Mapping[str, float | None], num_steps: int) -> None:
        tokens, seconds = figures.get("tokens"), figures.get("step_time_s")
        if tokens is None or seconds is None:
            return
        self._tokens = (self._tokens or 0) + int(tokens)
        self._token_times.append((tokens, num_steps * seconds))
        program = dig(self._manifest.values, "program") or {}
        flops = tokens * (number(dig(program, "flops_per_token")) or 0.0)
        loss_tokens = figures.get("loss_tokens") or 0.0
        flops += loss_tokens * (number(dig(program, "flops_per_loss_token")) or 0.0)
        self._flops.append((flops, num_steps * seconds))

    def _mfu(self) -> float | None:
        """Model FLOP/s of the latest rows over the devices' peak; None where that is not known."""
        kind = str(dig(self._manifest.values, "devices", "kind") or "")
        count = number(dig(self._manifest.values, "devices", "count")) or 1.0
        peak = next((rate for name, rate in PEAK_BF16_FLOPS.items() if name in kind), None)
        rate = ratio_of_sums(self._flops)
        return rate / (peak * count) if rate and peak else None

    def _read_samples(self) -> None:
        found = self._samples_tail.read()
        if found.restarted:
            self._samples.clear()
        for row in parse_rows(found.lines):
            self._samples.append(
                {
                    key: value[:_SAMPLE_CHARACTERS] if isinstance(value, str) else value
                    for key, value in row.items()
                    if isinstance(value, str | int | float)
                }
            )

    def _read_journal(self) -> None:
        found = self._journal.read()
        if found.restarted:
            self._events.clear()
            self._first_start = None
        for row in parse_rows(found.lines):
            if isinstance(row.get("event"), str) and number(row.get("time")) is not None:
                # The rows of a skipped batch are long, and nobody here needs them.
                self._events.append({k: v for k, v in row.items() if k != "rows"})
                if row["event"] == "started" and self._first_start is None:
                    self._first_start = row["time"]

    def _read_reports(self, now: float) -> None:
        try:
            paths = sorted(self._folder.processes.glob("[0-9]*.json"))
        except OSError:
            paths = []
        for path in paths:
            known = self._reports.get(path)
            file, changed = known or (JsonFile(path), -math.inf)
            # On the first look nobody knows when it changed, and its own word must do.
            if file.refresh() and known:
                changed = now
            self._reports[path] = (file, changed)
        for path in set(self._reports) - set(paths):
            del self._reports[path]

    def _processes(self, now: float) -> list[Process]:
        """Those of the latest session: a run may be gone on with by fewer than it had."""
        count = number(dig(self._manifest.values, "devices", "processes")) or 1.0
        found = []
        for file, changed in list(self._reports.values())[: max(1, int(count))]:
            report = file.values
            time = number(report.get("time"))
            if time is None:
                continue
            silent_s = max(0.0, min(now - time, now - changed, now - self._awake))
            found.append(Process.from_report(report, silent_s=silent_s))
        return found

    @property
    def _last_sign(self) -> float | None:
        signs = [number(file.values.get("time")) for file, _ in self._reports.values()]
        signs += [self._last_row_time, self._events[-1]["time"] if self._events else None]
        return max((sign for sign in signs if sign is not None), default=None)

    @property
    def _last_row_time(self) -> float | None:
        return self.columns.last_time

    def _starts(self) -> list[float]:
        return [event["time"] for event in self._events if event["event"] == "started"]

    def judgement(self, now: float) -> Judgement:
        """How the run is."""
        return judge(
            self._events,
            self._processes(now),
            last_row=self._last_row_time,
            step_time_s=self._times.step_time_s,
            now=now,
            awake=self._awake,
        )

    def step(self, now: float) -> int | None:
        """The furthest that anything says; a report is ahead of rows that are written seldom."""
        steps = [self._times.last_step] if len(self.columns) else []
        starts = self._starts()
        if not starts or self._last_row_time is None or self._last_row_time > starts[-1]:
            steps += [each.step for each in self._processes(now)[:1]]
        return max(steps, default=None)

    def _plan(self) -> Plan | None:
        num_steps = number(self._manifest.values.get("num_steps"))
        if num_steps is None or not 0 < num_steps < _MAX_STEP:
            return None
        keys = ("evaluation.every_steps", "checkpoint.every_steps")
        periods = {key: number(dig(self._config.values, *key.split("."))) for key in keys}
        for event in self._events:
            if event["event"] == "live" and isinstance(event.get("values"), dict):
                changed = {key: number(event["values"].get(key)) for key in keys}
                periods |= {key: value for key, value in changed.items() if value is not None}
        return Plan(int(num_steps), *(max(0, int(period or 0)) for period in periods.values()))

    def _split(self, until: float) -> dict[str, float]:
        if self._first_start is None:
            return {}
        summary = {name: number(value) for name, value in self._summary.values.items()}
        return time_split(self._times.sums, summary, total_s=until - self._first_start)


def ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Σ first / Σ second; None where nothing was counted."""
    total = sum(second for _, second in pairs)
    return sum(first for first, _ in pairs) / total if total > 0 else None
