"""Whether this machine can contain a program: found out by trying, not by asking for versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.evaluation.bubblewrap import INSIDE_ID, open_rules, sandbox_command
from coderllm_jax.evaluation.seccomp import why_no_filter

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
    "a user namespace": os.getuid() == {INSIDE_ID},
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


class Refusal(NamedTuple):
    """Why nothing is executed here, and what would change that."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"generated code is not executed: {self.found}; {self.remedy}"


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


def _try(program: str) -> Refusal | None:
    """Starts a trial program in a sandbox made by `program` and looks at what it sees."""
    try:
        with open_rules() as rules:
            done = subprocess.run(
                sandbox_command(["-c", _TRIAL], program=program, rules=rules, tmp_bytes=2**20),
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
