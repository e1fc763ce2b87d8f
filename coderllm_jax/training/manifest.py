"""manifest.json: everything needed to say later what a run was made of."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.training.devices import describe_devices

_PACKAGES = (
    "coderllm-jax",
    "jax",
    "jaxlib",
    "keras",
    "keras-hub",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "clu",
    "numpy",
    "tensorflow",
)


def build_manifest(
    *, identity: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Versions, commit, hashes and devices; `identity` is what a resume must share."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "identity": dict(identity),
        "model": dict(model),
        "data": dict(data),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": git_commit(),
        "machine": platform.platform(),
        "devices": describe_devices(),
        **more,
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run computes."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit this package runs from, with `+changes` where tracked files differ from it."""
    checkout = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run(
            [git, "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        changes = ask("status", "--porcelain", "--untracked-files=no")
        return ask("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (subprocess.SubprocessError, OSError):
        return None
