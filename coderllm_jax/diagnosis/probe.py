"""Programs that may hang (a driver, a sandbox), run beside this one and ended in time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_CHECKOUT = Path(__file__).resolve().parents[2]
_UNKILLABLE_S = 1.0  # A process inside a driver may not even die; then it is left behind.


class ProbeResult(NamedTuple):
    """How it ended; `code` is None where it did not, within its time."""

    code: int | None
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """The last line it said about its failure."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {self.code}"


def run_probe(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> ProbeResult:
    """Runs `command` with nothing to read, for no longer than `timeout_s`."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=dict(os.environ if environment is None else environment),
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_UNKILLABLE_S)
        return ProbeResult(None, "", "")
    return ProbeResult(process.returncode, output, errors)


def run_python(code: str, *, timeout_s: float, **variables: str) -> ProbeResult:
    """Runs Python code as this process would, with this package in reach."""
    path = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return run_probe([sys.executable, "-c", code], timeout_s=timeout_s, environment=environment)
