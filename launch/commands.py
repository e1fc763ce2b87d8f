"""Running other programs, or printing what would be run: the one place that starts any.

    Commands(dry_run=True).run(["ssh", "a", "echo $HOME"])     prints  ssh a 'echo $HOME'
    Commands().run([...])        to its end, its output as it comes; the exit code
    Commands().ask([...])        to its end; the exit code and what it said
    Commands().together([...])   several at once; their exit codes in order

Lists of words, never a shell. A signal (SIGINT, SIGTERM, SIGHUP) does not reach the programs, which
are in groups of their own: `run` and `ask` end theirs and raise StoppedError, `together` has its
caller stop what it started and waits.
Within `tidying` a signal changes nothing any more.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

from launch.errors import LaunchError, StoppedError

_TICK_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Words = Sequence[str]


class Reply(NamedTuple):
    """How a program ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line of its complaint, for an error of ours."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else f"exit code {self.code}"


class Commands:
    """A context that hears signals and starts programs, or with dry_run only says which."""

    def __init__(self, *, dry_run: bool = False, out: IO[str] | None = None) -> None:
        self.dry_run = dry_run
        self.received = ""
        self._out = out or sys.stdout
        self._before: dict[int, object] = {}
        self._is_tidying = False

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _hear(self, number: int, _: types.FrameType | None) -> None:
        again = bool(self.received)
        self.received = self.received or signal.Signals(number).name
        if self._is_tidying:
            self.note("cleaning up already; this takes a moment")
        elif not again:
            self.note(f"{self.received}: stopping, then cleaning up")

    def note(self, text: str) -> None:
        """A line about what goes on: a comment in a dry run, else on stderr."""
        if self.dry_run:
            print(f"# {text}", file=self._out, flush=True)
        else:
            print(f"launch: {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def tidying(self) -> Iterator[None]:
        """What runs in here is not given up for a signal."""
        self._is_tidying = True
        try:
            yield
        finally:
            self._is_tidying = False

    def check_signal(self) -> None:
        """StoppedError where a signal has come."""
        if self.received and not self._is_tidying:
            raise StoppedError(self.received)

    def sleep(self, seconds: float) -> None:
        """Waits, as far as nobody wants to stop."""
        until = time.monotonic() + (0 if self.dry_run else seconds)
        while time.monotonic() < until:
            self.check_signal()
            time.sleep(min(_TICK_S, seconds))

    def run(self, words: Words, *, stdin: Path | str | None = None) -> int:
        """Runs to its end and returns the exit code; 0 in a dry run.

        stdin: a file, or a text.
        """
        if self.dry_run:
            self._print(words, stdin)
            return 0
        with _opened(stdin) as source:
            return self._finish(_start(words, stdin=source))[0]

    def must(self, words: Words, what: str, *, stdin: Path | str | None = None) -> None:
        """As `run`; LaunchError where it fails: `what` did not work."""
        if code := self.run(words, stdin=stdin):
            raise LaunchError(f"{what} failed ({words[0]} ended with {code}); its lines are above")

    def ask(self, words: Words, *, pretend: str = "") -> Reply:
        """Runs to its end and returns what it said; in a dry run that it said `pretend`."""
        if self.dry_run:
            self._print(words, None)
            return Reply(0, pretend, "")
        return Reply(*self._finish(_start(words, stdin=subprocess.DEVNULL, is_read=True)))

    def together(
        self, commands: Sequence[Words], *, stop: Callable[[], None], patience_s: float = 120.0
    ) -> list[int]:
        """Runs all at once; their exit codes, in order.

        Where a signal comes, `stop` is called once, and is to make them end; those that are still
        there `patience_s` seconds later are killed.
        """
        if self.dry_run:
            for place, words in enumerate(commands):
                self._print(words, None, end=" &" if place < len(commands) - 1 else "")
            return [0] * len(commands)
        started = [_start(words, stdin=subprocess.DEVNULL) for words in commands]
        deadline = None
        while any(each.poll() is None for each in started):
            if self.received and deadline is None:
                deadline = time.monotonic() + patience_s
                with self.tidying():
                    stop()
            if deadline is not None and time.monotonic() > deadline:
                for each in started:
                    _end(each, signal.SIGKILL)
            time.sleep(_TICK_S)
        return [_as_shells_count(each.returncode) for each in started]

    def _finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        while True:
            try:
                out, err = process.communicate(timeout=_TICK_S)
            except subprocess.TimeoutExpired:
                if self.received and not self._is_tidying:
                    _end(process, signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.communicate(timeout=10)
                    _end(process, signal.SIGKILL)
                    process.communicate()
                    raise StoppedError(self.received) from None
            else:
                return _as_shells_count(process.returncode), out or "", err or ""

    def _print(self, words: Words, stdin: Path | str | None, end: str = "") -> None:
        line = shlex.join(words)
        if isinstance(stdin, Path):
            line += f" < {shlex.quote(str(stdin))}"
        elif stdin is not None:
            line += f" <<'END'\n{stdin.rstrip()}\nEND"
        print(line + end, file=self._out, flush=True)


def _start(
    words: Words, *, stdin: int | IO[bytes] | None, is_read: bool = False
) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE if is_read else None
    try:
        return subprocess.Popen(
            list(words), stdin=stdin, stdout=pipe, stderr=pipe, text=True, process_group=0
        )
    except FileNotFoundError:
        raise LaunchError(f"there is no {words[0]} on PATH; install it, or mend PATH") from None


@contextlib.contextmanager
def _opened(stdin: Path | str | None) -> Iterator[int | IO[bytes]]:
    if stdin is None:
        yield subprocess.DEVNULL
    elif isinstance(stdin, Path):
        with stdin.open("rb") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            file.write(stdin.encode())
            file.seek(0)
            yield file


def _end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _as_shells_count(code: int) -> int:
    """A program that a signal ended has -15 here, and 143 wherever exit codes are passed on."""
    return 128 - code if code < 0 else code
