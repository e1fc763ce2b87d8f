"""How much memory a process takes: the devices' where they report it (GPU, TPU), else its own."""

from __future__ import annotations

import resource
import sys

import jax
import psutil


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
