"""The command line that starts this Python in a sandbox; what it grants is here, line by line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from coderllm_jax.evaluation import python_files
from coderllm_jax.evaluation.python_files import UNPRIVILEGED_ID
from coderllm_jax.evaluation.seccomp import filter_program

PACKAGE = "coderllm_jax.evaluation.inside"
ROOT_INSIDE = "/inside"
INSIDE_ID = 65534
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own, a tmpfs
_ENVIRONMENT = {
    "HOME": _SCRATCH,
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


@contextlib.contextmanager
def open_rules() -> Iterator[int]:
    """The system-call filter, to be read once from the descriptor."""
    rules, rules_end = os.pipe()
    try:
        os.write(rules_end, filter_program())  # a pipe holds it whole
        os.close(rules_end)
        yield rules
    finally:
        os.close(rules)


def sandbox_command(
    arguments: Sequence[str],
    *,
    program: str,
    rules: int,
    tmp_bytes: int,
    with_libraries: bool = False,
) -> list[str]:
    """Starts this Python with `arguments` under `program`, bubblewrap's path.

    `rules` is a descriptor that the system-call filter is read from (`open_rules`).
    """
    files = python_files.find_python_files()
    program, inside = os.path.realpath(program), str(python_files.INSIDE)
    prefix, place = _hand_down((*files.shown, *files.libraries, inside, program))
    shown_libraries = files.libraries if with_libraries else ()
    shown = files.shown + shown_libraries
    command = [
        *(*prefix, place(program)),
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
        *("--unshare-uts", "--unshare-cgroup", "--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID)),
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--clearenv", "--seccomp", str(rules)),
    ]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    # Before the binds: what is shown may itself lie below /tmp.
    command += ["--size", str(tmp_bytes), "--tmpfs", _SCRATCH, "--chdir", _SCRATCH]
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
    command += ["--ro-bind", place(inside), f"{ROOT_INSIDE}/{PACKAGE.replace('.', '/')}"]
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
