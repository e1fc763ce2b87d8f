"""Everything that is watched, behind one object: `poll` reads what is new, the rest only looks.

    watch = Watch(config)
    watch.poll()               reads what runs, logs and the machine have added; evaluates the rules
    watch.overview()           Overview: everything at this moment (monitoring.views)
    watch.series("lora-1f0c", ["loss"], since_step=400)
                               {"revision": 0,
                                "loss": {"step": [...], "time": [...], "value": [...]}}

Writes to none of what it reads. Not thread-safe: one thread polls and looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.monitoring.views import (
    MachineView,
    Overview,
    QualityView,
)


class Watch:
    """Runs, request logs, the machine and the rules over them."""

    def __init__(
        self,
        config: MonitoringConfig,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._clock = config, clock

    def poll(self) -> None:
        """Reads what is new and evaluates the rules; cheap where nothing is."""

    def close(self) -> None:
        """Ends what was started; the state is on disk already."""

    def overview(self) -> Overview:
        """Everything at this moment."""
        machine = MachineView(
            time=None,
            hostname="",
            num_cores=None,
            cpu_fraction=None,
            load_1min=None,
            memory_total_bytes=None,
            memory_used_bytes=None,
            memory_used_fraction=None,
            swap_used_bytes=None,
            disks=(),
            accelerators=(),
            temperatures_c={},
            own_memory_bytes=None,
            own_cpu_fraction=None,
            notes=(),
            series=(),
        )
        return Overview(
            self._clock(),
            runs=(),
            traffic=(),
            machine=machine,
            quality=QualityView((), ()),
            alerts=(),
            rules=(),
            problems=(),
        )

    def series(
        self, id: str, names: Sequence[str], *, since_step: int = -1, max_points: int = 2000
    ) -> dict[str, Any]:
        """Points after `since_step`, at most about `max_points` of each series.

        `id` is a run's, a log's, or `machine`. Thinned so that the smallest and largest value of
        every stretch stay: a spike is never lost. Values that are not finite are null. Series that
        are not there are empty. {"revision": n, name: {"step": [...], "time": [...],
        "value": [...]}}. Raises KeyError where nothing has that id.
        """
        raise KeyError(id)
