"""Untrusted Python under bubblewrap, or a reason why it is not run. There is no third way.

    start(...)  ->  nsenter or setpriv  ->  bwrap  ->  python  ->  limits  ->  the program
                    (root only: another uid)

Covers:
- files: an empty root, read-only but for /tmp (a tmpfs of limited size); this Python's own files;
  no /sys, no /proc (with libraries: cpuinfo), no devices but null, zero and urandom; no variables.
- the rest of the machine: user, pid, network, IPC, UTS, cgroup and mount namespaces of its own, no
  capability, no new privileges, and a system call filter (`seccomp`): no sockets, no other process,
  no ptrace, mount, bpf, keyring, io_uring. Never as root: where root starts it, it belongs to a uid
  that owns nothing, otherwise to whoever started it.
- time: CPU seconds by the kernel's count; wall-clock time by a clock outside; everything in it is
  killed at either, and when the process that started it dies.
- memory, threads, open files, size of a file and of /tmp: limits that the program cannot raise. As
  it cannot start processes, the limit of one process is the limit of all.
- output: read up to a limit, after which the program is ended.
- a machine that cannot do this (no Linux, no bubblewrap, namespaces refused, an architecture
  without a filter): nothing is executed, and `why_refused` says why.

Does not cover:
- errors in the Linux kernel, in bubblewrap, or in the processor (Spectre and its kin).
- the machine's name for its processor, its load and the time of day, which a program can measure.
- programs that need what is missing: a second process, a socket, /proc. They see an error.
- before Linux 5.14, how many threads a program may start: its user's other processes count there.
- how busy it makes the processor meanwhile: a program may use all cores, for its CPU seconds.
- memory of the kernel itself (pipes, page tables), beyond what those limits bound.
- without cgroups, the sum over sandboxes running at once: workers x (memory + /tmp).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from coderllm_jax.evaluation import python_files
from coderllm_jax.evaluation.bubblewrap import PACKAGE, ROOT_INSIDE, open_rules, sandbox_command
from coderllm_jax.evaluation.trial import why_refused

_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one sandboxed program may use."""

    cpu_s: int = 3
    wall_s: float = 15.0
    memory_bytes: int = 1024 * _MIB
    tmp_bytes: int = 32 * _MIB
    file_bytes: int = 16 * _MIB
    files: int = 64
    threads: int = 64
    output_bytes: int = 64 * 1024


class Execution(NamedTuple):
    """How a program ended. `output` is what it printed, to its limit.

    `ended`: `exited` (with `exit_code`, negative for a signal), `timeout` (CPU or wall clock),
    `output` (too much of it), or `refused` (not executed; `output` says why).
    """

    ended: Literal["exited", "timeout", "output", "refused"]
    exit_code: int | None
    output: str
    wall_s: float


class Sandboxed:
    """A started program: what it may be waited for, and killed, by."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.exit_code: int | None = None

    def wait(self, deadline_s: float = 0.0) -> int:
        """The exit code (negative: a signal), after killing what runs at `deadline_s` (monotonic).

        The kernel ends the rest of the sandbox with it.
        """
        if self.exit_code is None:
            ended = os.pidfd_open(self._process.pid)
            if not wait_readable(ended, deadline_s):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            os.close(ended)
            code = self._process.wait()
            # bubblewrap reports the signal that ended the program as a shell does.
            self.exit_code = 128 - code if code > 128 else code
        return self.exit_code


def run_program(
    source: str, *, limits: Limits | None = None, libraries: Sequence[str] = ()
) -> Execution:
    """Runs `source` as a program of its own and returns what it printed and how it ended.

    `libraries` are top-level names of installed packages that it may import.
    """
    if reason := why_refused():
        return Execution("refused", None, reason, 0.0)
    return _run(source, limits or Limits(), libraries)


def start(
    module: str,
    job: Mapping[str, Any],
    *,
    limits: Limits,
    descriptors: Sequence[int] = (),
    output: int = subprocess.DEVNULL,
    errors: int = subprocess.DEVNULL,
) -> Sandboxed:
    """Starts `inside/<module>.py` with `job` on its standard input.

    `descriptors` stay open in it. The thread that calls this has to outlive the program: the kernel
    kills the sandbox when that thread ends. Does not ask `why_refused`; its callers do.
    """
    importlib.import_module(f"{PACKAGE}.{module}")  # leaves the bytecode that it starts from
    program = shutil.which("bwrap")
    assert program is not None, "whoever starts has asked why_refused()"
    paths = python_files.find_python_files().libraries if job["libraries"] else ()
    content = {**job, "limits": dataclasses.asdict(limits), "paths": paths}
    code = (
        f"import sys; sys.path.insert(0, {ROOT_INSIDE!r}); "
        f"import {PACKAGE}.{module} as module; module.main()"
    )
    with contextlib.ExitStack() as stack:
        rules = stack.enter_context(open_rules())
        stdin = os.memfd_create("job", os.MFD_CLOEXEC)
        stack.callback(os.close, stdin)
        with open(stdin, "w", encoding="ascii", closefd=False) as stream:
            json.dump(content, stream)
        os.lseek(stdin, 0, os.SEEK_SET)
        command = sandbox_command(
            ["-c", code],
            program=program,
            rules=rules,
            tmp_bytes=limits.tmp_bytes,
            with_libraries=bool(job["libraries"]),
        )
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=errors,
            pass_fds=(rules, *descriptors),
            cwd="/",
        )
    return Sandboxed(process)


def wait_readable(descriptor: int, deadline_s: float) -> bool:
    """Whether there is something to read, or an end, before `deadline_s` (monotonic)."""
    poll = select.poll()  # select() refuses the high descriptors of a busy process
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))


def is_out_of_time(exit_code: int, wall_s: float, limits: Limits) -> bool:
    """Whether the kernel ended the program for its CPU time.

    It sends SIGXCPU, and SIGKILL a second later to what ignores that; SIGKILL before that time is
    somebody else's (the program's own, or the out-of-memory killer's).
    """
    return exit_code == -signal.SIGXCPU or (exit_code == -signal.SIGKILL and wall_s > limits.cpu_s)


def _run(source: str, limits: Limits, libraries: Sequence[str]) -> Execution:
    started_s = time.monotonic()
    job = {"program": source, "libraries": list(libraries)}
    output, output_end = os.pipe()
    deadline_s = started_s + limits.wall_s
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, output)
        try:
            sandboxed = start("program", job, limits=limits, output=output_end, errors=output_end)
        finally:
            os.close(output_end)
        stack.callback(sandboxed.wait)
        data, stopped_by = _read(output, limits, deadline_s)
        # A program that closes its output may go on, for as long as it has.
        code = sandboxed.wait(deadline_s if stopped_by is None else 0.0)
    wall_s = time.monotonic() - started_s
    if stopped_by is None and (wall_s >= limits.wall_s or is_out_of_time(code, wall_s, limits)):
        stopped_by = "timeout"
    text = data[: limits.output_bytes].decode(errors="replace")
    return Execution(stopped_by or "exited", code, text, wall_s)


def _read(
    descriptor: int, limits: Limits, deadline_s: float
) -> tuple[bytes, Literal["timeout", "output"] | None]:
    """What comes until the end, and what else stopped it."""
    data = b""
    while len(data) <= limits.output_bytes:
        if not wait_readable(descriptor, deadline_s):
            return data, "timeout"
        part = os.read(descriptor, 65536)
        if not part:
            return data, None
        data += part
    return data, "output"
