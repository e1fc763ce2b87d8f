"""Which kernels a traced step spends its time in, by the profiler's own record (xplane)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_KERNELS_TOLD = 100


class Event(NamedTuple):
    """One run of one kernel; nanoseconds. `op`: the instruction of the program it came from."""

    kernel: str
    op: str
    begin: float
    duration: float


def kernel_seconds(
    folder: str | Path, *, plane: str = "/device:GPU", line: str = "Stream"
) -> dict[str, Any]:
    """Sums of the newest trace under `folder`, the dearest kernels first.

    plane, line: how the names begin of those that hold kernels; others tell the same time again,
    by step and module.
    """
    import jax

    traces = sorted(Path(folder).rglob("*.xplane.pb"))
    if not traces:
        raise FileNotFoundError(f"{folder} holds no trace")
    data = jax.profiler.ProfileData.from_file(str(traces[-1]))
    lines = (
        each
        for holder in data.planes
        if holder.name.startswith(plane)
        for each in holder.lines
        if (each.name or "").startswith(line)
    )
    return summarize(
        Event(event.name, _op(event), event.start_ns, event.duration_ns)
        for each in lines
        for event in each.events
    )


def _op(event: Any) -> str:
    return str(dict(event.stats).get("hlo_op", ""))


def summarize(events: Iterable[Event]) -> dict[str, Any]:
    """Seconds by kernel and instruction, the span of all, and how much of it anything ran."""
    events = sorted(events, key=lambda event: event.begin)
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    busy, end = 0.0, float("-inf")
    for event in events:
        seconds, number = sums.get((event.kernel, event.op), (0.0, 0))
        sums[event.kernel, event.op] = (seconds + event.duration / 1e9, number + 1)
        finish = event.begin + event.duration
        busy += max(0.0, finish - max(end, event.begin))
        end = max(end, finish)
    dearest = sorted(sums.items(), key=lambda item: -item[1][0])
    return {
        "span_s": (end - events[0].begin) / 1e9 if events else 0.0,
        "busy_s": busy / 1e9,
        "kernels": [
            {"kernel": kernel[:120], "op": op, "seconds": seconds, "runs": number}
            for (kernel, op), (seconds, number) in dearest[:_KERNELS_TOLD]
        ],
    }
