"""What this process spends while something runs: processor, memory, compiling.

    with UsageMeter() as meter:
        ...
    meter.usage  →  Usage(wall_s=12.0, cpu_s=22.7, peak_memory_bytes=1_400_000_000, compile_s=0.0)

Covers: this process with all its threads; programs that JAX lowers and compiles here.
Does not cover: children, a server behind a URL, and the memory of accelerators. Memory is looked at
twenty times a second: a peak between two looks is missed.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, NamedTuple

import psutil

_EVERY_S = 0.05
# Tracing is left out: its events lie in one another and would be counted twice.
_COMPILING = frozenset(
    {
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    }
)


class Usage(NamedTuple):
    """wall_s: how long it took. compile_s: 0 where JAX is not loaded."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    compile_s: float = 0.0


class UsageMeter:
    """Measures from `with` to its end; `usage` is there afterwards."""

    usage = Usage()

    def __enter__(self) -> UsageMeter:
        self._process = psutil.Process()
        self._peak_bytes = self._process.memory_info().rss
        self._compile_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage-meter", daemon=True)
        # JAX compiles only where it is loaded; a URL is measured without loading it.
        self._jax: Any = sys.modules.get("jax")
        if self._jax is not None:
            self._jax.monitoring.register_event_duration_secs_listener(self._hear)
        self._thread.start()
        self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s = time.perf_counter() - self._start_s
        cpu_s = time.process_time() - self._start_cpu_s
        self._over.set()
        self._thread.join()
        if self._jax is not None:
            self._jax.monitoring.unregister_event_duration_listener(self._hear)
        self._look()
        self.usage = Usage(wall_s, cpu_s, self._peak_bytes, self._compile_s)

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        self._peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)

    def _hear(self, event: str, duration_s: float, **_: Any) -> None:
        if event in _COMPILING:
            self._compile_s += duration_s
