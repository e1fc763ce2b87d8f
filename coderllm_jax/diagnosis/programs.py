"""Programs, started to see whether they work: sandbox, ScaNN, browser, git."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

from coderllm_jax.diagnosis.check import Check
from coderllm_jax.diagnosis.probe import run_probe, run_python

GROUP = "Programs"
_GENERATED_CODE = "evaluation of generated code"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_SANDBOX_TIMEOUT_S, _SCANN_TIMEOUT_S, _GIT_TIMEOUT_S = 5.0, 12.0, 5.0
_NAMESPACE_PROBE = (
    "import os; print(*(os.readlink(f'/proc/self/ns/{n}') for n in " + repr(_NAMESPACES) + "))"
)
_SCANN_PROBE = """
import numpy as np, scann
rows = np.eye(16, dtype=np.float32)
index = scann.scann_ops_pybind.builder(rows, 1, "dot_product").score_brute_force().build()
found, _ = index.search(rows[3])
print("found", int(found[0]))
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


def check_sandbox(*, platform: str = sys.platform) -> Check:
    """Whether bubblewrap starts a program that shares no namespace with this one.

    Covers: that it is there and allowed. Does not cover: limits on memory, time and processes,
    which whoever executes generated code sets and tests.
    """

    def lacking(found: str, remedy: str) -> Check:
        return Check(GROUP, "bubblewrap", "missing", found, remedy, _GENERATED_CODE)

    if platform != "linux":
        return lacking("Linux only: generated code is not executed here", "evaluate on Linux")
    program = shutil.which("bwrap")
    if program is None:
        return lacking("not installed (no bwrap on PATH)", "apt-get install bubblewrap")
    done = run_probe(
        [
            *(program, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
            *("--unshare-uts", "--unshare-cgroup", "--die-with-parent", "--new-session"),
            *("--cap-drop", "ALL", "--clearenv", "--ro-bind", "/", "/", "--proc", "/proc"),
            *("--dev", "/dev", "--tmpfs", "/tmp", sys.executable, "-I", "-S"),  # noqa: S108 - its own
            *("-c", _NAMESPACE_PROBE),
        ],
        timeout_s=_SANDBOX_TIMEOUT_S,
    )
    if done.code is None:
        return lacking(
            f"{program} did not end within {_SANDBOX_TIMEOUT_S:.0f} s", "try it by hand: bwrap ..."
        )
    if done.code:
        return lacking(f"{program} is refused: {done.reason}", f"ask for {_what_to_ask_for()}")
    shared = [
        name
        for name, inside in zip(_NAMESPACES, done.output.split(), strict=True)
        if inside == _own_namespace(name)
    ]
    if shared:
        return lacking(
            f"{program} leaves the namespaces {', '.join(shared)} shared",
            "reinstall it: apt-get install --reinstall bubblewrap",
        )
    return Check(GROUP, "bubblewrap", "ok", f"{program} starts a program in namespaces of its own")


def check_scann(*, platform: str = sys.platform) -> Check:
    """Whether ScaNN imports and finds a row; it is linked against one TensorFlow release."""
    if platform != "linux":
        return Check(GROUP, "ScaNN", "ok", "Linux only; exact search serves here")
    try:
        version = importlib.metadata.version("scann")
    except importlib.metadata.PackageNotFoundError:
        return Check(GROUP, "ScaNN", "ok", "not installed; exact search serves (extra retrieval)")
    done = run_python(_SCANN_PROBE, timeout_s=_SCANN_TIMEOUT_S, TF_CPP_MIN_LOG_LEVEL="3")
    if done.code is None:
        found = f"{version} did not answer within {_SCANN_TIMEOUT_S:.0f} s"
        return Check(GROUP, "ScaNN", "warning", found, "try again when the machine is less busy")
    if done.code or done.output.split()[-2:] != ["found", "3"]:
        return Check(
            GROUP,
            "ScaNN",
            "missing",
            f"{version} does not work: {done.reason}",
            "pip install scann==1.4.2 'tensorflow>=2.20,<2.21'; exact search serves until then",
            "approximate search",
        )
    return Check(GROUP, "ScaNN", "ok", f"{version} answers")


def check_browser() -> Check:
    """Whether the tests of the pages can open them."""
    for name in _BROWSERS:
        if path := shutil.which(name):
            return Check(GROUP, "browser", "ok", path)
    found = "not installed; only the tests that open pages want one"
    return Check(GROUP, "browser", "missing", found, "apt-get install chromium")


def check_git() -> Check:
    """Whether a run can note the commit it was made from."""
    program = shutil.which("git")
    if program is None:
        remedy = "apt-get install git"
        return Check(GROUP, "git", "warning", "not installed: runs note no commit", remedy)
    done = run_probe([program, "--version"], timeout_s=_GIT_TIMEOUT_S)
    if done.code != 0:
        return Check(GROUP, "git", "warning", f"{program} does not start: {done.reason}")
    return Check(GROUP, "git", "ok", done.output.strip().removeprefix("git version "))


def _own_namespace(name: str) -> str:
    return str(Path(f"/proc/self/ns/{name}").readlink())


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
