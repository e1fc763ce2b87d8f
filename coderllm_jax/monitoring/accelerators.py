"""GPUs through NVML and TPUs through tpu-info, each only where its device is in the machine.

    look() → [AcceleratorView(kind="gpu", index=0, use_fraction=0.93, power_w=None, …)],
             ["NVIDIA H100: power is not exposed (NotSupported)"]

Every figure is asked for by itself: what a card, a driver or a container does not expose is None,
with a sentence that says so, and the rest is shown. A driver that appears later is found later.
"""

from __future__ import annotations

import concurrent.futures
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from coderllm_jax.monitoring.views import AcceleratorView
from coderllm_jax.training.devices import find_accelerators

T = TypeVar("T")
# A metrics service of libtpu that does not answer must not hold up the watch.
_TPU_TIMEOUT_S = 2.0
# NVML's bits that mean a card is held back; idle clocks and a user's own setting are neither.
_THROTTLE_REASONS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "temperature (software)",
    0x0000000000000040: "temperature (hardware)",
    0x0000000000000080: "power brake",
}


class Accelerators:
    """`look` gives figures and notes; libraries are loaded when a device of theirs is there."""

    def __init__(
        self,
        *,
        nvml: Any = None,
        tpu_info: Any = None,
        find: Callable[[], Sequence[Path]] = find_accelerators,
    ) -> None:
        """`nvml` and `tpu_info` stand in for the modules pynvml and tpu_info."""
        self._nvml, self._tpu_info, self._find = nvml, tpu_info, find
        self._is_started = False
        self._asking: concurrent.futures.Future[Any] | None = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def look(self) -> tuple[list[AcceleratorView], list[str]]:
        """Every chip's figures now, and a sentence for each part that is not exposed."""
        devices = list(self._find())
        notes: list[str] = []
        views = []
        if any(path.name.startswith("nvidia") for path in devices):
            views += self._look_at_gpus(notes)
        if any(not path.name.startswith("nvidia") for path in devices):
            views += self._look_at_tpus(notes)
        return views, notes

    def close(self) -> None:
        """Lets go of NVML."""
        if self._is_started:
            self._try(self._nvml.nvmlShutdown)
            self._is_started = False
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _look_at_gpus(self, notes: list[str]) -> list[AcceleratorView]:
        if not self._is_started:
            try:
                self._nvml = self._nvml or importlib.import_module("pynvml")
                self._nvml.nvmlInit()
                self._is_started = True
            except Exception as error:  # noqa: BLE001 - no package, no driver, another version of it
                notes.append(f"GPU figures are not exposed ({_reason(error)})")
                return []
        count, why = self._try(self._nvml.nvmlDeviceGetCount)
        if count is None:
            notes.append(f"GPU figures are not exposed ({why})")
            return []
        return [self._gpu(index, notes) for index in range(count)]

    def _gpu(self, index: int, notes: list[str]) -> AcceleratorView:
        nvml = self._nvml
        handle, error = self._try(nvml.nvmlDeviceGetHandleByIndex, index)
        name = f"GPU {index}"
        if handle is None:
            notes.append(f"{name} is not exposed ({error})")
            return AcceleratorView("gpu", index, name, *[None] * 7)
        given, _ = self._try(nvml.nvmlDeviceGetName, handle)
        if given:
            name = given.decode(errors="replace") if isinstance(given, bytes) else str(given)

        def ask(what: str, call: Callable[..., T], *arguments: Any) -> T | None:
            value, error = self._try(call, handle, *arguments)
            if value is None:
                notes.append(f"GPU {index} ({name}): {what} is not exposed ({error})")
            return value

        use = ask("use", nvml.nvmlDeviceGetUtilizationRates)
        memory = ask("memory", nvml.nvmlDeviceGetMemoryInfo)
        power_mw = ask("power", nvml.nvmlDeviceGetPowerUsage)
        limit_mw, _ = self._try(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        temperature = ask("temperature", nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        reasons = ask("throttling", nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return AcceleratorView(
            kind="gpu",
            index=index,
            name=name,
            use_fraction=None if use is None else use.gpu / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_c=None if temperature is None else float(temperature),
            power_w=None if power_mw is None else power_mw / 1000,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            throttling=None
            if reasons is None
            else [word for bit, word in _THROTTLE_REASONS.items() if reasons & bit],
        )

    def _look_at_tpus(self, notes: list[str]) -> list[AcceleratorView]:
        try:
            if self._tpu_info is None:
                self._tpu_info = importlib.import_module("tpu_info")
                for part in ("device", "metrics"):
                    importlib.import_module(f"tpu_info.{part}")
            chip, count = self._tpu_info.device.get_local_chips()
        except Exception as error:  # noqa: BLE001 - no package, or a kernel that shows no chips
            notes.append(f"TPU figures are not exposed ({_reason(error)})")
            return []
        try:
            usages = self._ask_tpus(chip)
        except Exception as error:  # noqa: BLE001 - gRPC's errors, none of which may end the watch
            notes.append(
                f"TPU figures are not exposed ({_reason(error)}): "
                "no program on this host serves libtpu's metrics"
            )
            return [AcceleratorView("tpu", index, str(chip), *[None] * 7) for index in range(count)]
        notes.append("TPU temperature, power and throttling are not exposed")
        return [
            AcceleratorView(
                kind="tpu",
                index=usage.device_id,
                name=str(chip),
                use_fraction=usage.duty_cycle_pct / 100,
                memory_used_bytes=int(usage.memory_usage),
                memory_total_bytes=int(usage.total_memory),
                temperature_c=None,
                power_w=None,
                power_limit_w=None,
                throttling=None,
            )
            for usage in usages
        ]

    def _ask_tpus(self, chip: Any) -> Sequence[Any]:
        """In a thread of its own, one at a time: libtpu may answer late, or never."""
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, "tpu-info")
        if self._asking is None:
            self._asking = self._pool.submit(self._tpu_info.metrics.get_chip_usage, chip)
        try:
            usages: Sequence[Any] = self._asking.result(timeout=_TPU_TIMEOUT_S)
        except TimeoutError:
            if self._asking.done():  # its own, not ours
                self._asking = None
            raise
        except Exception:
            self._asking = None
            raise
        self._asking = None
        return usages

    def _try(self, call: Callable[..., T], *arguments: Any) -> tuple[T | None, str]:
        try:
            return call(*arguments), ""
        except Exception as error:  # noqa: BLE001 - NVML's errors are made by the library's code
            return None, _reason(error)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120]
    return text or type(error).__name__
