"""Untrusted Python under bubblewrap, or a reason why it is not run. There is no third way.

    start(...)  ->  nsenter or setpriv  ->  bwrap  ->  python  ->  limits  ->  the program
                    (root only: another uid)

Covers:
- files: an empty root, read-only but for /tmp (a tmpfs of limited size); this Python's own files;
  no /sys, no /proc (with libraries: cpuinfo), no devices but null, zero and urandom; no variables.
- the rest of the machine: user, pid, network, IPC, UTS, cgroup and mount namespaces of its own, no
  capability, no new privileges, a uid that owns nothing (also where root starts it), and a system
  call filter (`seccomp`): no sockets, no other process, no ptrace, mount, bpf, keyring, io_uring.
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
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coderllm_jax.evaluation import python_files
from coderllm_jax.evaluation.python_files import UNPRIVILEGED_ID
from coderllm_jax.evaluation.seccomp import filter_program, why_no_filter

_MIB = 2**20
_PACKAGE = "coderllm_jax.evaluation.inside"
_ROOT_INSIDE = "/inside"
_INSIDE_ID = 65534
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "LANG": "C.UTF-8",
    "PATH": "/nowhere",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # the order of a set must not decide a verdict
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
TRIAL_TIMEOUT_S = 10.0
_CONTAINING: set[str] = set()  # programs whose trial went well; a refusal is asked about again
# Prints what is missing. Namespaces that cannot be told from inside (net, ipc, cgroup) have nothing
# to reach them by once the filter holds.
_TRIAL = f"""
import os, socket
def is_refused(act):
    try:
        act()
    except OSError:
        return True
    return False
held = {{
    "a mount namespace": not os.path.exists("/etc"),
    "a pid namespace": os.getpid() < 4,
    "a user namespace": os.getuid() == {_INSIDE_ID},
    "a host name": os.uname().nodename == "sandbox",
    "a system-call filter": is_refused(socket.socket) and is_refused(os.fork),
}}
print(*(name for name in held if not held[name]), sep=", ")
"""
# Settings that refuse user namespaces, the value that does, and what to ask for.
_REFUSALS = (
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "an AppArmor profile for bwrap that allows userns "
        "(or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)",
    ),
)


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


class Refusal(NamedTuple):
    """Why nothing is executed here, and what would change that."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"generated code is not executed: {self.found}; {self.remedy}"


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


def find_refusal(platform: str = sys.platform) -> Refusal | None:
    """Why generated code is not executed here; None where a trial program was contained."""
    if platform != "linux":
        return Refusal("Linux only", "evaluate on Linux")
    if reason := why_no_filter():
        return Refusal(reason, "evaluate on one of these")
    program = shutil.which("bwrap")
    if program is None:
        return Refusal("not installed (no bwrap on PATH)", "apt-get install bubblewrap")
    if program in _CONTAINING:
        return None
    refusal = _try(program)
    if refusal is None:
        _CONTAINING.add(program)
    return refusal


def why_refused() -> str | None:
    """`find_refusal` as one line, None where generated code runs."""
    refusal = find_refusal()
    return None if refusal is None else str(refusal)


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
    kills the sandbox when that thread ends. Does not ask `find_refusal`; its callers do.
    """
    importlib.import_module(f"{_PACKAGE}.{module}")  # leaves the bytecode that it starts from
    files = python_files.find_python_files()
    cost = dataclasses.asdict(limits)
    content = json.dumps({**job, "limits": cost, "paths": _library_paths(job, files)})
    with contextlib.ExitStack() as stack:
        rules, rules_end = os.pipe()
        stack.callback(os.close, rules)
        os.write(rules_end, filter_program())
        os.close(rules_end)
        stdin = os.memfd_create("job", os.MFD_CLOEXEC)
        stack.callback(os.close, stdin)
        with open(stdin, "wb", closefd=False) as stream:
            stream.write(content.encode("ascii"))
        os.lseek(stdin, 0, os.SEEK_SET)
        code = (
            f"import sys; sys.path.insert(0, {_ROOT_INSIDE!r}); "
            f"import {_PACKAGE}.{module} as module; module.main()"
        )
        command = _command(
            files,
            ["-c", code],
            limits=limits,
            rules=rules,
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


def _library_paths(job: Mapping[str, Any], files: python_files.PythonFiles) -> list[str]:
    return list(files.libraries) if job["libraries"] else []


def _command(
    files: python_files.PythonFiles,
    arguments: Sequence[str],
    *,
    limits: Limits,
    rules: int,
    with_libraries: bool,
    program: str | None = None,
) -> list[str]:
    """The whole command line that starts this Python with `arguments` in a sandbox."""
    program = program or shutil.which("bwrap")
    assert program is not None
    inside = str(python_files.INSIDE)
    sources = (*files.shown, *files.libraries, inside, os.path.realpath(program))
    prefix, place = _hand_down(sources)
    shown_libraries = files.libraries if with_libraries else ()
    shown = files.shown + shown_libraries
    command = [
        *(*prefix, place(os.path.realpath(program))),
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
        *("--unshare-uts", "--unshare-cgroup", "--uid", str(_INSIDE_ID), "--gid", str(_INSIDE_ID)),
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--clearenv", "--seccomp", str(rules)),
    ]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for path in shown:
        command += ["--ro-bind", place(path), path]
    for path in (*files.hidden, *(set(files.other_packages) - set(shown_libraries))):
        if any(Path(parent) in Path(path).parents for parent in shown):
            command += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    for path in ("/lib", "/lib64"):  # where the dynamic loader is looked for
        if Path(path).is_symlink():
            command += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            command += ["--ro-bind", path, path]
    if with_libraries:  # XLA asks it which instructions there are, and computes nothing without
        command += ["--ro-bind", "/proc/cpuinfo", "/proc/cpuinfo"]
    for path in _DEVICES:
        command += ["--dev-bind", path, path]
    command += ["--ro-bind", place(inside), f"{_ROOT_INSIDE}/{_PACKAGE.replace('.', '/')}"]
    command += ["--size", str(limits.tmp_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]  # noqa: S108
    # -S and -P: nothing of this machine is imported at start, nothing from /tmp ever.
    return [*command, "--remount-ro", "/", files.executable, "-S", "-P", *arguments]


def _hand_down(sources: tuple[str, ...]) -> tuple[list[str], Callable[[str], str]]:
    """For root: the command that becomes somebody else, and where that one finds each source."""
    if os.geteuid() != 0:
        return [], str
    user = str(UNPRIVILEGED_ID)
    closed = python_files.out_of_reach(sources)
    if not closed:
        return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"], str
    view = python_files.open_view(closed)
    # By way of our own descriptor table, so that no sandbox inherits the namespace.
    enter = ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{view.namespace}"]
    become = ["--setuid", user, "--setgid", user, "--"]  # which drops the other groups, too
    return enter + become, lambda path: view.places.get(path, path)


def _try(program: str) -> Refusal | None:
    """Starts a trial program in a sandbox made by `program` and looks at what it sees."""
    files = python_files.find_python_files()
    rules, rules_end = os.pipe()
    os.write(rules_end, filter_program())
    os.close(rules_end)
    try:
        done = subprocess.run(
            _command(
                files,
                ["-c", _TRIAL],
                limits=Limits(),
                rules=rules,
                with_libraries=False,
                program=program,
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=(rules,),
            cwd="/",
            timeout=TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"{program} did not end within {TRIAL_TIMEOUT_S:.0f} s"
        return Refusal(found, "try it by hand: bwrap ...")
    except OSError as error:
        return Refusal(f"{program} is refused: {error}", f"ask for {_what_to_ask_for()}")
    finally:
        os.close(rules)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        found = f"{program} is refused: {reason[-1][:200]}"
        return Refusal(found, f"ask for {_what_to_ask_for()}")
    if missing := done.stdout.strip():
        remedy = "reinstall it: apt-get install --reinstall bubblewrap"
        return Refusal(f"{program} starts programs without {missing}", remedy)
    return None


def _what_to_ask_for() -> str:
    for setting, refusing, request in _REFUSALS:
        try:
            value = (Path("/proc/sys") / setting).read_text().strip()
        except OSError:
            continue
        if value == refusing:
            return request
    return (
        "unprivileged user namespaces; in a container, for a seccomp profile that allows them, "
        "or for bwrap to be run by root with CAP_SYS_ADMIN"
    )
