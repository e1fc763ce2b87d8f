"""SIGTERM, SIGHUP and SIGINT as a wish to stop, which the loop grants once the state is saved.

    the first of them         `received` names it; the run saves and ends (exit code 42)
    second SIGINT             KeyboardInterrupt, at once: the last checkpoint stands
    SIGTERM + grace period    the process ends with 42 wherever it is: the scheduler's SIGKILL,
                              a few seconds later, would leave no word about it

Python runs a signal's handler between two bytecodes of the main thread, which may be compiling for
a minute. The interpreter also writes the signal's number to a file descriptor, at once: a thread
waits there and starts the clock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Self

EXIT_RESUMABLE = 42


class StopSignals:
    """A context in which signals are wishes; outside the main thread it hears of none."""

    def __init__(
        self, *, grace_period_s: float, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self._grace_period_s, self._note = grace_period_s, note
        self._before: dict[int, Any] = {}
        self._clock: threading.Timer | None = None
        self.received = ""

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._writer = writer
        self._wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # nohup has SIGHUP ignored, and is to be obeyed. A shell has SIGINT ignored in whatever
            # it starts in the background: who sends one to that process means it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._wait, name="stop-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)  # ends the thread
        self._thread.join()
        os.close(self._reader)
        if self._clock is not None:
            self._clock.cancel()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if not self.received:
            self.received = name
            again = "; once more ends it now" if number == signal.SIGINT else ""
            # Raised here it would come out of any line of the run: of a terminal that is gone, or
            # of a print that was interrupted by this very signal.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._note(f"{name}: saving, then stopping{again}")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _wait(self) -> None:
        while data := os.read(self._reader, 1):
            if data[0] == signal.SIGTERM and self._clock is None:
                self._clock = threading.Timer(self._grace_period_s, self._give_up)
                self._clock.daemon = True
                self._clock.start()

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(
                f"interrupted: not saved within {self._grace_period_s:g} s of SIGTERM; the same "
                "command goes on from the last checkpoint\n"
            )
            sys.stderr.flush()
        os._exit(EXIT_RESUMABLE)
