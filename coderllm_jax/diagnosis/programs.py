"""Programs, started to see whether they work: sandbox, ScaNN, browser, git."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys

from coderllm_jax.diagnosis.check import Check
from coderllm_jax.diagnosis.probe import run_probe, run_python
from coderllm_jax.evaluation.trial import find_refusal

GROUP = "Programs"
_GENERATED_CODE = "evaluation of generated code"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SCANN_TIMEOUT_S, _GIT_TIMEOUT_S = 12.0, 5.0
_SCANN_PROBE = """
import numpy as np, scann
rows = np.eye(16, dtype=np.float32)
index = scann.scann_ops_pybind.builder(rows, 1, "dot_product").score_brute_force().build()
found, _ = index.search(rows[3])
print("found", int(found[0]))
"""


def check_sandbox(*, platform: str = sys.platform) -> Check:
    """Whether the sandbox for generated code starts a trial program and contains it."""
    refusal = find_refusal(platform)
    if refusal is None:
        return Check(GROUP, "bubblewrap", "ok", "contains a trial program")
    return Check(GROUP, "bubblewrap", "missing", refusal.found, refusal.remedy, _GENERATED_CODE)


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
