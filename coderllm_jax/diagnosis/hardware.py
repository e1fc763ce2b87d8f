"""What computes, and how much memory it has: JAX's devices, cores, limits, other hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.diagnosis.check import TRAINING, Check
from coderllm_jax.diagnosis.probe import run_python
from coderllm_jax.training.devices import find_accelerators, usable_cores

GROUP = "Devices and memory"

# The default run's peak was 3.3 GiB (README.md); float32, on a CPU without bfloat16, takes more.
_DEFAULT_RUN_BYTES = 4 << 30
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 has no word for it and names the largest page count
_JAX_TIMEOUT_S = 12.0
_JAX_PROBE = """
import json, jax
from coderllm_jax.model.precision import resolve_precision
devices = jax.devices()
precision = resolve_precision("auto", devices[0].platform)
print(json.dumps({
    "platform": devices[0].platform,
    "kind": devices[0].device_kind,
    "count": len(devices),
    "memory_bytes": (devices[0].memory_stats() or {}).get("bytes_limit", 0),
    "precision": precision.name,
    "weights": precision.weights.name,
}))
"""
_HOST_VARIABLES = {
    "Cloud TPU": (
        "TPU_WORKER_ID",
        "TPU_WORKER_HOSTNAMES",
        "CLOUD_TPU_TASK_ID",
        "MEGASCALE_NUM_SLICES",
    ),
    "Slurm": ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "JOBSET_NAME"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "addresses": ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
}


class Devices:
    """What JAX says of its devices, asked in a process of its own.

    So an accelerator is held for a moment only, and a driver that hangs costs a time limit.
    """

    def __init__(self, *, timeout_s: float = _JAX_TIMEOUT_S) -> None:
        done = run_python(
            _JAX_PROBE,
            timeout_s=timeout_s,
            KERAS_BACKEND="jax",
            TF_CPP_MIN_LOG_LEVEL="3",
            XLA_PYTHON_CLIENT_PREALLOCATE="false",
        )
        self.failure = ""
        self.found: dict[str, Any] = {}
        if done.code is None:
            self.failure = f"JAX did not answer within {timeout_s:.0f} s"
        elif done.code:
            self.failure = f"JAX does not start ({done.reason})"
        else:
            self.found = json.loads(done.output.splitlines()[-1])

    @property
    def weights(self) -> str:
        """The format of a run's weights: bfloat16 or float32; empty where JAX does not say."""
        return self.found.get("weights", "")

    def check(self, accelerators: list[Path] | None = None) -> Check:
        """Whether training finds the device that it was meant for."""
        seen = find_accelerators() if accelerators is None else accelerators
        if self.failure:
            remedy = "run `make train`; where a device is meant, free it and check its driver"
            return Check(GROUP, "JAX", "missing", self.failure, remedy, TRAINING)
        found = self.found
        memory = f", {_gib(found['memory_bytes'])} each" if found["memory_bytes"] else ""
        text = f"{found['platform']}: {found['count']} x {found['kind']}{memory}"
        if found["platform"] == "cpu" and seen:
            asked = " as JAX_PLATFORMS says" if os.environ.get("JAX_PLATFORMS") else ""
            return Check(
                GROUP,
                "JAX",
                "missing",
                f"{text}{asked}, although {seen[0]} is here; training would refuse",
                "pip install 'coderllm-jax[cuda]' or '[tpu]' and free the device, "
                "or train with --config.mesh.platform=cpu",
                TRAINING,
            )
        return Check(GROUP, "JAX", "ok", text)

    def check_precision(self) -> Check:
        """Cores, their bfloat16 instructions, and what step.precision=auto makes of them."""
        flags = _cpu_flags()
        known = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
        text = f"{usable_cores()} of {os.cpu_count()} cores"
        text += f" with {', '.join(known)}" if known else ", no bfloat16 instructions"
        if self.found:
            text += f"; step.precision=auto is {self.found['precision']}"
        return Check(GROUP, "processor", "ok", text)


def check_memory(
    *, total_bytes: int | None = None, available_bytes: int | None = None, limit: int | None = None
) -> Check:
    """Physical memory, what is free of it, and the limit of this process's control group.

    The arguments stand in for what this machine says.
    """
    if total_bytes is None or available_bytes is None:
        try:
            import psutil
        except ImportError:
            return Check(GROUP, "memory", "warning", "cannot be told without psutil")
        memory = psutil.virtual_memory()
        total_bytes, available_bytes = memory.total, memory.available
        limit = cgroup_memory_limit()
    text = f"{_gib(total_bytes)}, {_gib(available_bytes)} available"
    usable = available_bytes
    if limit is not None and limit < total_bytes:
        text += f"; control group limits it to {_gib(limit)}"
        usable = min(usable, limit)
    if usable >= _DEFAULT_RUN_BYTES:
        return Check(GROUP, "memory", "ok", text)
    return Check(
        GROUP,
        "memory",
        "warning",
        text,
        f"a default run takes up to {_gib(_DEFAULT_RUN_BYTES)}: free some, raise the limit, or "
        "lower batch_size",
    )


def cgroup_memory_limit(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The lowest limit of this process's control group and those above it; None: no limit."""
    limits: list[int] = []
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, file = [mounted, mounted / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, file = [mounted / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for root in roots:
            # Inside a container the path may be the host's: the mounted root is then ours.
            own = root / path.lstrip("/")
            while own.is_relative_to(root):
                limits += _read_limit(own / file)
                own = own.parent
    return min(limits, default=None)


def check_hosts(environment: Mapping[str, str] = os.environ) -> Check:
    """Who seems to have started this process among others; names of variables only."""
    seen = {
        launcher: [name for name in names if environment.get(name)]
        for launcher, names in _HOST_VARIABLES.items()
    }
    parts = [f"{launcher} ({', '.join(names)})" for launcher, names in seen.items() if names]
    return Check(GROUP, "hosts", "ok", "; ".join(parts) or "no launcher seen: one process")


def _read_limit(file: Path) -> list[int]:
    try:
        value = int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return []
    return [value] if value < _UNLIMITED_BYTES else []


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return set(next(lines, "").split())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
