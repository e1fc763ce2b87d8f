"""Processes of one run on several hosts: started together, started again, stopped together.

    attempt 1    host 0 → 42    host 1 → 137    one was killed, the other left alone: again
    attempt 2    host 0 → 0     host 1 → 0      finished: 0

    codes of one attempt            the run's   and then
    all 0                           0           done
    one of 1 to 127, but not 42     that one    stop: a retry would fail alike
    else (42, 128 and more)         42          again, `max_restarts` times

A host's program that ends with neither 0 nor 42 may have lost its connection only: its `result` is
asked for, and where that says no code either, a retry may do better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from launch.commands import Commands, Words
from launch.errors import LaunchError

RESUMABLE = 42
KILLED = 128
_PAUSE_S = 5.0


@dataclasses.dataclass(frozen=True)
class Processes:
    """The commands for one run's processes.

    run: one a process, which ends with its code. stop: end whatever is left of it, on all hosts.
    result: one a process, each printing what `host.sh result` does.
    """

    run: tuple[Words, ...]
    stop: tuple[Words, ...]
    result: tuple[Words, ...]


def supervise(
    commands: Commands,
    processes: Processes,
    *,
    max_restarts: int,
    is_lost: Callable[[], bool] = lambda: False,
) -> int | None:
    """Runs it until it is done; its exit code, or None where the hosts are gone (`is_lost`).

    Raises StoppedError where a signal came and the run has saved, LaunchError after too many
    restarts.
    """
    for restarts_left in range(max_restarts, -1, -1):
        code = _attempt(commands, processes)
        if code != RESUMABLE:
            return code
        commands.check_signal()
        if is_lost():
            return None
        if restarts_left:
            commands.note(f"exit code 42: starting again ({restarts_left} restarts left)")
            commands.sleep(_PAUSE_S)
    raise LaunchError(
        f"the run ended with 42 {max_restarts + 1} times; its lines above say why; "
        "mend that, or raise max_restarts, and launch again: it goes on"
    )


def decide(codes: Sequence[int]) -> int:
    """One exit code for all processes."""
    final = [code for code in codes if code not in (0, RESUMABLE) and code < KILLED]
    if final:
        return final[0]
    return RESUMABLE if any(codes) else 0


def _attempt(commands: Commands, processes: Processes) -> int:
    def stop() -> None:
        commands.together(processes.stop, stop=lambda: None)

    stop()  # what a lost connection has left running
    commands.check_signal()
    codes = commands.together(processes.run, stop=stop)
    with commands.tidying():
        settled = [
            code if code in (0, RESUMABLE) else _ask_for_code(commands, words)
            for code, words in zip(codes, processes.result, strict=True)
        ]
    return decide(settled)


def _ask_for_code(commands: Commands, words: Words) -> int:
    lines = commands.ask(words).out.split()
    return int(lines[-1]) if lines and lines[-1].isdecimal() else KILLED + 127
