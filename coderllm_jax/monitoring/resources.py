"""What a process takes from its machine, and what the machine could give.

Memory is the devices' where they report it (GPU, TPU), and the process's resident memory
otherwise. Peak arithmetic rates are the makers' dense bfloat16 figures, a device.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import jax
import psutil

# Dense bfloat16 FLOP/s from the makers' data sheets; keys are parts of jax's `device_kind`.
PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def memory_bytes() -> int:
    """In use now: the fullest local device, or this process where devices do not say."""
    return _device_memory("bytes_in_use") or psutil.Process().memory_info().rss


def peak_memory_bytes() -> int:
    """The most that was ever in use: the fullest local device, or this process."""
    return _device_memory("peak_bytes_in_use") or peak_host_memory_bytes()


def peak_host_memory_bytes() -> int:
    """This process's largest resident set."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_memory(key: str) -> int:
    return max((device.memory_stats() or {}).get(key, 0) for device in jax.local_devices())


def peak_flops() -> float | None:
    """All devices' dense bfloat16 rate together; None where the kind is not in the table."""
    kinds = [device.device_kind for device in jax.devices()]
    rate = next((rate for name, rate in PEAK_BF16_FLOPS.items() if name in kinds[0]), None)
    return rate * len(kinds) if rate else None


def describe_devices() -> dict[str, Any]:
    """For the manifest: what the run was computed on. Bits depend on all of it."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
        "cpu_cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "host_memory_bytes": psutil.virtual_memory().total,
    }
