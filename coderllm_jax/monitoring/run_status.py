"""How a run is: from its journal, from what its processes last wrote, and from the process table.

    journal's last word         processes/<rank>.json            status
    finished                    -                                finished
    diverged                    -                                failed
    interrupted                 -                                interrupted (it will be gone on)
    started                     written just now, moving         running
    started                     silent, or at one place too long stalled
    started                     silent, and its process is gone  failed

Covers: a process that was killed, suspended, or waits for something for ever; a host that is down
(stalled: from outside nobody can tell the two apart); a computer that slept, whose silence counts
from when it woke. Does not cover: clocks of other hosts that
are wrong by more than `_SILENT_AFTER_S` before a first change of theirs was seen.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from coderllm_jax.monitoring.json_files import number
from coderllm_jax.monitoring.views import RunStatus

# A process writes every 2 s; this much silence is no slow disk.
_SILENT_AFTER_S = 20.0
# What may take this long by itself: compiling, the first batch, loading.
_FIRST_STEPS_S = 900.0
_LEAST_STALL_S = 60.0
_STALL_IN_STEPS = 20.0
_ENDS = {"finished": "finished", "interrupted": "interrupted", "diverged": "failed"}


class Judgement(NamedTuple):
    """A status, a sentence about it, and how long nothing has moved (None: it need not move)."""

    status: RunStatus
    reason: str
    idle_s: float | None


class Process(NamedTuple):
    """What processes/<rank>.json says, and how long the file has not changed."""

    rank: int
    host: str
    pid: int
    phase: str
    step: int
    since: float
    silent_s: float
    written: float

    @classmethod
    def from_report(cls, report: Mapping[str, Any], *, silent_s: float) -> Process:
        """From a watchdog's file; what is missing or of another type counts as nothing."""

        def known(key: str) -> float:
            return number(report.get(key)) or 0.0

        return cls(
            int(known("rank")),
            str(report.get("host", "")),
            int(known("pid")),
            str(report.get("phase", "")),
            int(known("step")),
            known("since"),
            silent_s,
            known("time"),
        )


def judge(
    events: Sequence[Mapping[str, Any]],
    processes: Sequence[Process],
    *,
    last_row: float | None,
    step_time_s: float | None,
    now: float,
    awake: float = 0.0,
) -> Judgement:
    """The run's status at `now`; `events` are its journal's, `last_row` its newest row's time.

    `awake`: nothing could be seen to move before this time.
    """
    last: Mapping[str, Any] = next(
        (event for event in reversed(events) if event["event"] in (*_ENDS, "started")), {}
    )
    ended = _ENDS.get(last.get("event", ""))
    if ended is not None:
        return Judgement(ended, _end_in_words(last), None)  # type: ignore[arg-type]
    if not processes:
        if last_row is None:
            return Judgement("unknown", "nothing says what this run does", None)
        return _judge_by_rows(now - last_row, step_time_s)
    silent = max(processes, key=lambda process: process.silent_s)
    started = float(last.get("time", 0.0))
    is_new = last_row is None or last_row < started
    moved = max([each.since for each in processes] + [last_row or 0.0, awake])
    idle_s = max(0.0, now - moved)
    if silent.silent_s > _SILENT_AFTER_S:
        return _judge_silence(silent, max(idle_s, silent.silent_s))
    longest_s = _longest_pause_s(step_time_s, is_new=is_new)
    if idle_s > longest_s:
        behind = min(processes, key=lambda process: process.since)
        return Judgement(
            "stalled", f"{_name(behind)} has been {behind.phase} for {_in_words(idle_s)}", idle_s
        )
    return Judgement("running", "", idle_s)


def _judge_by_rows(age_s: float, step_time_s: float | None) -> Judgement:
    """Of a run that writes rows and nothing else, such as event files."""
    if age_s <= _longest_pause_s(step_time_s, is_new=False):
        return Judgement("running", "", age_s)
    return Judgement("unknown", f"nothing new for {_in_words(age_s)}", None)


def _judge_silence(process: Process, idle_s: float) -> Judgement:
    name = _name(process)
    silence = f"has not been heard of for {_in_words(process.silent_s)}"
    if process.host == socket.gethostname() and process.pid > 0:
        state = _process_state(process)
        if state == "gone":
            return Judgement("failed", f"{name} is gone without a word", None)
        if state == psutil.STATUS_STOPPED:
            return Judgement("stalled", f"{name} is suspended; kill -CONT goes on", idle_s)
    return Judgement("stalled", f"{name} {silence}", idle_s)


def _process_state(process: Process) -> str:
    """psutil's word, `gone`, or nothing where it cannot be told."""
    with contextlib.suppress(OverflowError, psutil.AccessDenied, OSError):
        try:
            found = psutil.Process(process.pid)
            # A number may be given to another process, which then began after the last report.
            if found.create_time() > process.written + 1 or found.status() == psutil.STATUS_ZOMBIE:
                return "gone"
            return str(found.status())
        except psutil.NoSuchProcess:
            return "gone"
    return ""


def _longest_pause_s(step_time_s: float | None, *, is_new: bool) -> float:
    if is_new or step_time_s is None:
        return _FIRST_STEPS_S
    return max(_LEAST_STALL_S, _STALL_IN_STEPS * step_time_s)


def _end_in_words(event: Mapping[str, Any]) -> str:
    if event["event"] == "interrupted":
        signal = event.get("signal")
        return (
            f"ended by {signal}; the same command goes on" if signal else "the same command goes on"
        )
    return {"finished": "", "diverged": "diverged"}[event["event"]]


def _name(process: Process) -> str:
    where = process.host or "its host"
    return f"process {process.rank} ({where}, pid {process.pid})"


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
