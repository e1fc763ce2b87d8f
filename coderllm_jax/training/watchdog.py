"""A thread that notices when a run stands still, says who holds it up, and ends it with 42.

    processes/0.json    {"rank": 0, "phase": "training", "step": 41, "since": …, "time": …}
    processes/1.json    {"rank": 1, "phase": "training", "step": 40, "since": …, "time": …}

Every process writes its own file every few seconds: where it is (`since` when) and that it is alive
(`time`). A collective waits for its slowest member for ever, so all processes stand still together;
who is to blame is read from the files: one that has stopped writing is dead or suspended, and
otherwise the one that is furthest behind.

Covers a peer that is suspended, killed or stuck, a data worker that gives nothing, a device that
does not answer. Does not cover hosts that do not share the run's folder: the hang is noticed there
too, and no rank is named.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

from coderllm_jax.training.run_folder import read_json, write_json
from coderllm_jax.training.signals import EXIT_RESUMABLE

_WRITE_EVERY_S = 2.0
# A file this old belongs to a process that has stopped writing.
_SILENT_AFTER_S = 4 * _WRITE_EVERY_S


class Watchdog:
    """Call `beat` whenever something new begins; with `timeout_s` 0 it only reports."""

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        count: int,
        timeout_s: float,
        end: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        self._folder, self._rank, self._count = folder, rank, count
        self._timeout_s, self._end = timeout_s, end
        self._place: tuple[str, int] = ("starting", 0)
        self._since = time.monotonic()
        self._reports = False
        self._left_behind: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        # Of a session before this one: they say nothing about who is silent now.
        for rank in range(self._count):
            with contextlib.suppress(OSError):
                self._left_behind[rank] = self._path(rank).stat().st_mtime
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def begin(self) -> None:
        """From here on the folder is this run's, and time counts.

        A run that never begins leaves no trace, and what lies before (downloads, conversion, data
        that is prepared) may take as long as it likes.
        """
        self._since = time.monotonic()
        self._reports = True
        self._write()

    def beat(self, phase: str, step: int) -> None:
        """Something new begins; costs two assignments."""
        self._place, self._since = (phase, step), time.monotonic()

    def blame(self) -> str:
        """Who is silent or behind, in words; empty where nobody can be told apart."""
        others = {rank: self._report(rank) for rank in range(self._count) if rank != self._rank}
        silent = [
            f"process {rank} ({report.get('host', 'its host')}, pid {report.get('pid', '?')}) has "
            f"not been heard of for {time.time() - report.get('time', 0):.0f} s"
            for rank, report in others.items()
            if report and time.time() - report.get("time", 0) > _SILENT_AFTER_S
        ]
        if silent:
            return "; ".join(silent)
        step = self._place[1]
        behind = [
            f"process {rank} is {report.get('phase')} at step {report.get('step')}"
            for rank, report in others.items()
            if report and (report.get("step", 0), report.get("phase")) != (step, self._place[0])
        ]
        return "; ".join(behind)

    def wait_for_silence(self) -> str:
        """`blame` once a process that has died could be told by its silence."""
        deadline = time.monotonic() + _SILENT_AFTER_S + _WRITE_EVERY_S
        while not (found := self.blame()) or "not been heard of" not in found:
            if time.monotonic() > deadline:
                return found
            time.sleep(0.2)
        return found

    def _watch(self) -> None:
        written = looked = time.monotonic()
        period_s = min(1.0, self._timeout_s / 4 or 1.0)
        while not self._stopping.wait(period_s):
            now = time.monotonic()
            if now - looked > 10 * period_s:  # this process itself was suspended: nobody hung
                self._since = now
            looked = now
            if self._reports and now - written >= _WRITE_EVERY_S:
                self._write()
                written = now
            if self._reports and self._timeout_s and now - self._since > self._timeout_s:
                self._bite(now - self._since)

    def _bite(self, seconds: float) -> None:
        phase, step = self._place
        stacks = self._folder / f"{self._rank}.stacks.txt"
        with contextlib.suppress(OSError), stacks.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        blamed = self.blame() or "no other process is behind"
        message = (
            f"interrupted: process {self._rank} has been {phase} at step {step} for {seconds:.0f} "
            f"s (safety.hang_timeout_s); {blamed}; every thread's stack is above and in {stacks}; "
            "the same command goes on from the last checkpoint\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, message.encode())
        self._end(EXIT_RESUMABLE)

    def _write(self) -> None:
        phase, step = self._place
        now = time.time()
        report = {
            "rank": self._rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "phase": phase,
            "step": step,
            "since": now - (time.monotonic() - self._since),
            "time": now,
        }
        # A full disk must not end a run that could still be saved.
        with contextlib.suppress(OSError):
            write_json(self._path(self._rank), report)

    def _path(self, rank: int) -> Path:
        return self._folder / f"{rank}.json"

    def _report(self, rank: int) -> dict[str, Any]:
        path = self._path(rank)
        with contextlib.suppress(OSError, ValueError):
            if path.stat().st_mtime != self._left_behind.get(rank):
                return read_json(path)
        return {}
