"""What rules look at: the figures of everything that is watched, as Subjects of `alerts`."""

from __future__ import annotations

from collections.abc import Iterator

from coderllm_jax.monitoring.alerts import Subject
from coderllm_jax.monitoring.runs import Watched
from coderllm_jax.monitoring.traffic import TrafficWatch
from coderllm_jax.monitoring.views import AcceleratorView, DriftView, MachineView

# What holds a card back and is a fault; its power cap is how it is meant to run.
_FAULTY_THROTTLING = ("temperature", "slowdown", "brake")


def run_subject(run: Watched, now: float) -> Subject | None:
    """A run's figures; None where it is over."""
    figures = run.figures(now)
    if figures is None:
        return None
    judgement = run.judgement(now)
    reason = judgement.reason
    sayings = {"stalled": reason, "failed": reason} if reason else {}
    if figures.get("not_finite"):
        sayings["not_finite"] = f"at step {run.step(now)}"
    return Subject(
        "run",
        run.found.id,
        run.found.name,
        figures,
        run.columns.last_time,
        sayings,
        is_over=judgement.status == "failed",
    )


def traffic_subjects(traffic: TrafficWatch, now: float) -> Iterator[Subject]:
    """A log's figures, and one subject for each that may drift and has something to drift from.

    While a reference is gathered there is none, and a drift from the one before it is over.
    """
    yield Subject("traffic", traffic.id, traffic.name, traffic.figures(now), traffic.updated)
    for drift in traffic.drifts():
        if drift.state == "gathering":
            continue
        yield Subject(
            "drift",
            f"{traffic.id}/{drift.name}",
            f"{traffic.name}: {drift.name}",
            {"drifted": float(drift.state == "drifted"), "psi": drift.psi, "ks": drift.ks},
            traffic.updated,
            {"drifted": _drift_in_words(drift)},
            parent=traffic.id,
        )


def machine_subjects(machine: MachineView, parent: str) -> Iterator[Subject]:
    """This computer, its disks and its accelerators."""
    name = machine.hostname or "machine"
    figures = {
        "cpu_fraction": machine.cpu_fraction,
        "load_1min": machine.load_1min,
        "memory_used_fraction": machine.memory_used_fraction,
        "swap_used_bytes": machine.swap_used_bytes,
        "temperature_c": max(machine.temperatures_c.values(), default=None),
        "own_memory_bytes": machine.own_memory_bytes,
        "own_cpu_fraction": machine.own_cpu_fraction,
    }
    yield Subject("machine", parent, name, figures, machine.time)
    for disk in machine.disks:
        yield Subject(
            "disk",
            f"disk:{disk.path}",
            f"{name}: disk of {disk.path}",
            {"used_fraction": disk.used_fraction, "free_bytes": disk.free_bytes},
            machine.time,
            parent=parent,
        )
    for chip in machine.accelerators:
        yield Subject(
            "accelerator",
            f"{chip.kind}{chip.index}",
            f"{name}: {chip.kind.upper()} {chip.index} ({chip.name})",
            _accelerator_figures(chip),
            machine.time,
            {"throttled": ", ".join(chip.throttling or ())},
            parent=parent,
        )


def _accelerator_figures(chip: AcceleratorView) -> dict[str, float | None]:
    used, total = chip.memory_used_bytes, chip.memory_total_bytes
    throttled = None
    if chip.throttling is not None:
        throttled = float(
            any(word in reason for reason in chip.throttling for word in _FAULTY_THROTTLING)
        )
    return {
        "use_fraction": chip.use_fraction,
        "memory_used_fraction": used / total if used is not None and total else None,
        "temperature_c": chip.temperature_c,
        "power_w": chip.power_w,
        "throttled": throttled,
    }


def _drift_in_words(drift: DriftView) -> str:
    if drift.current_mean is None or drift.reference_mean is None:
        return drift.message
    return f"{drift.message}: mean {drift.current_mean:.4g}, usually {drift.reference_mean:.4g}"
