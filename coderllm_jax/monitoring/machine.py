"""This computer, looked at every few seconds: processors, memory, disks, temperatures, and itself.

    psutil       CPU, memory, swap, disks, thermal zones, the monitor's own cost
    NVML, TPU    monitoring.accelerators

A figure that a machine does not expose (a container without sensors, the first look at a CPU, whose
use is between two looks) is None, and `notes` says why. Nothing is ever 0 for want of a figure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from coderllm_jax.monitoring.accelerators import Accelerators
from coderllm_jax.monitoring.columns import Columns
from coderllm_jax.monitoring.views import DiskView, MachineView

ID = "machine"
_MAX_SENSORS = 32


class MachineWatch:
    """`look` takes the figures, `view` and `columns` give them; a look's number is its step."""

    def __init__(
        self, folders: Sequence[str], *, max_rows: int, accelerators: Accelerators | None = None
    ) -> None:
        """`folders`: those whose volumes matter."""
        self._folders = list(dict.fromkeys(folders))
        self._accelerators = accelerators or Accelerators()
        self._process = psutil.Process()
        self._cpu_times: Any = None
        self._own_time: tuple[float, float] | None = None
        self._num_looks = 0
        self.columns = Columns(max_rows=max_rows)
        self._view = MachineView(
            time=None,
            hostname=socket.gethostname(),
            num_cores=_num_cores(),
            cpu_fraction=None,
            load_1min=None,
            memory_total_bytes=None,
            memory_used_bytes=None,
            memory_used_fraction=None,
            swap_used_bytes=None,
            disks=[],
            accelerators=[],
            temperatures_c={},
            own_memory_bytes=None,
            own_cpu_fraction=None,
            notes=["nothing has been looked at yet"],
            series=[],
        )

    def look(self, now: float) -> None:
        """Takes every figure once."""
        notes: list[str] = []
        total, used = _memory()
        temperatures = _temperatures()
        if not temperatures:
            notes.append("temperatures are not exposed here")
        accelerators, more = self._accelerators.look()
        notes += more
        self._view = MachineView(
            time=now,
            hostname=self._view.hostname,
            num_cores=self._view.num_cores,
            cpu_fraction=self._cpu_fraction(),
            load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_used_fraction=used / total if total and used is not None else None,
            swap_used_bytes=_swap_used_bytes(),
            disks=_disks(self._folders),
            accelerators=accelerators,
            temperatures_c=temperatures,
            own_memory_bytes=self._process.memory_info().rss,
            own_cpu_fraction=self._own_cpu_fraction(now),
            notes=notes,
            series=[],
        )
        # Not the number of rows, which falls as old ones thin out.
        self.columns.append(self._num_looks, now, self._figures())
        self._num_looks += 1

    def view(self) -> MachineView:
        """The latest look."""
        return dataclasses.replace(self._view, series=self.columns.names)

    def close(self) -> None:
        """Lets go of the accelerators' libraries."""
        self._accelerators.close()

    def _figures(self) -> dict[str, float]:
        view = self._view
        figures: dict[str, float | None] = {
            "cpu_fraction": view.cpu_fraction,
            "memory_used_fraction": view.memory_used_fraction,
            "own_cpu_fraction": view.own_cpu_fraction,
            "own_memory_bytes": view.own_memory_bytes,
            "temperature_c": max(view.temperatures_c.values(), default=None),
        }
        for disk in view.disks:
            figures[f"disk_used_fraction:{disk.path}"] = disk.used_fraction
        for chip in view.accelerators:
            for name in ("use_fraction", "memory_used_bytes", "temperature_c", "power_w"):
                figures[f"{chip.kind}{chip.index}_{name}"] = getattr(chip, name)
        return {name: float(value) for name, value in figures.items() if value is not None}

    def _cpu_fraction(self) -> float | None:
        """Of all cores together, since the look before."""
        times = psutil.cpu_times()
        before, self._cpu_times = self._cpu_times, times
        if before is None:
            return None
        # guest times are counted in user's already; a counter that ran back counts as still.
        spent = {
            name: max(0.0, getattr(times, name) - getattr(before, name))
            for name in times._fields
            if name not in ("guest", "guest_nice")
        }
        total = sum(spent.values())
        idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
        return (total - idle) / total if total > 0 else None

    def _own_cpu_fraction(self, now: float) -> float | None:
        """Of one core, since the look before."""
        times = self._process.cpu_times()
        spent = times.user + times.system
        before, self._own_time = self._own_time, (now, spent)
        if before is None or now <= before[0]:
            return None
        return (spent - before[1]) / (now - before[0])


def _num_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> tuple[int | None, int | None]:
    """All of it, and what programs cannot get: the machine's, or the container's where it is less.

    A container that is at its limit is killed although the machine has plenty.
    """
    memory = psutil.virtual_memory()
    total, used = int(memory.total), int(memory.total - memory.available)
    limit, in_use = _container_memory()
    if limit is not None and in_use is not None and limit < total:
        return limit, in_use
    return total, used


def _container_memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int | None]:
    """Limit and use of the control group (version 2); caches that can be dropped are no use."""
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        with (root / "memory.stat").open() as file:
            fields = dict(line.split() for line in file)
        return limit, max(0, used - int(fields.get("inactive_file", 0)))
    except (OSError, ValueError):  # no limit is the word "max"
        return None, None


def _swap_used_bytes() -> int | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        swap = psutil.swap_memory()
        return int(swap.used) if swap.total else None
    return None


def _disks(folders: Sequence[str]) -> list[DiskView]:
    """The volumes of the folders, each once; of a folder that is yet to come, its parent's."""
    found: dict[int, DiskView] = {}
    for folder in folders:
        path = Path(folder).absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        with contextlib.suppress(OSError):
            device = path.stat().st_dev
            if device not in found:
                usage = psutil.disk_usage(str(path))
                # What root alone may use is full for everybody else.
                seen = usage.used + usage.free
                used = usage.used / seen if seen else 0.0
                found[device] = DiskView(str(folder), usage.total, usage.free, used)
    return list(found.values())


def _temperatures() -> dict[str, float]:
    """Sensors by name, degrees Celsius."""
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return {}
    found: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError):
        for chip, sensors in read().items():
            for i, sensor in enumerate(sensors):
                # 0 and below is what a sensor gives that is not wired.
                if sensor.current and sensor.current > 0 and len(found) < _MAX_SENSORS:
                    found[f"{chip}/{sensor.label or i}"] = float(sensor.current)
    return found
