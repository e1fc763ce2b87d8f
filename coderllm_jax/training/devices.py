"""The process before the first computation: environment, compilation cache, and which device.

JAX falls back to the CPU without a word where an accelerator is busy or its plug-in is missing.
A run that was meant for an accelerator would then take a hundred times as long: it is refused,
unless `mesh.platform=cpu` says that this is what is wanted.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any

from coderllm_jax.errors import DeviceError

# Google's TPUs by PCI id, as jax tells them from Google's network cards of the same vendor.
# Their device files (accel0, vfio/0) say nothing: any passed-through device has such a name.
_GOOGLE_PCI_VENDOR = "0x1ae0"
_TPU_PCI_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}

# Longer than a program takes to be written.
_WRITING_S = 60.0

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


def prepare_process(*, platform: str, cache_dir: str) -> None:
    """Sets what must be set before jax, keras and TensorFlow are first imported, or first used."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform in ("cpu", "tpu") and "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", platform)
    import jax

    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # JAX's own variable is obeyed
        compiled = Path(named)
    else:
        # Compiled programs are loaded as they are, so nobody else may write them.
        compiled = Path(cache_dir).expanduser() / "compiled"
        try:
            compiled.mkdir(mode=0o700, parents=True, exist_ok=True)
            compiled.chmod(0o700)
        except OSError as error:
            raise DeviceError(
                f"{compiled}: cannot be made ({error.strerror}); name another model.cache_dir"
            ) from None
    _drop_cut_programs(compiled)
    jax.config.update("jax_compilation_cache_dir", str(compiled))


def _drop_cut_programs(folder: Path) -> None:
    """Removes compiled programs that a killed process left half-written.

    JAX neither replaces such a file nor can it read it: every later start would warn and compile
    anew. Those of zlib are known by their first byte; where zstandard is installed, JAX uses that,
    which checks itself. What was whole once is not read again: a folder of years costs no start.
    """
    seen = folder / ".whole_until"
    # Another process may have been writing while the last one looked.
    whole_until = seen.stat().st_mtime - _WRITING_S if seen.exists() else 0.0
    for path in folder.glob("*-cache"):
        try:
            if path.stat().st_mtime < whole_until:
                continue
            data = path.read_bytes()
            if data[:1] == b"\x78":
                zlib.decompress(data)
        except zlib.error:
            path.unlink(missing_ok=True)
        except OSError:
            continue
    with contextlib.suppress(OSError):  # read-only, or not made yet
        seen.touch()


def check_platform(wanted: str) -> str:
    """The platform JAX computes on; DeviceError where it is not the one that was meant."""
    import jax

    try:
        found = jax.default_backend()
    except RuntimeError as error:  # JAX_PLATFORMS names one that cannot be started
        raise DeviceError(
            f"JAX cannot start {os.environ.get('JAX_PLATFORMS', wanted)} "
            f"({' '.join(str(error).split())[:200]}); install its extra and free the device, "
            "or set mesh.platform=cpu"
        ) from error
    if wanted not in ("auto", found):
        raise DeviceError(
            f"mesh.platform is {wanted} and JAX found {found}; install the extra for {wanted} "
            f"and free the device, or set mesh.platform={found}"
        )
    seen = find_accelerators()
    if wanted == "auto" and found == "cpu" and seen:
        raise DeviceError(
            f"JAX would compute on the CPU although {seen[0]} is here; install the extra for it "
            "(pip install 'coderllm-jax[cuda]' or '[tpu]') and free the device, "
            "or set mesh.platform=cpu"
        )
    return found


def find_accelerators(
    devices: Path = Path("/dev"), pci: Path = Path("/sys/bus/pci/devices")
) -> list[Path]:
    """NVIDIA's device files and TPUs on the PCI bus, whether or not JAX can use them."""
    return sorted(devices.glob("nvidia[0-9]*")) + sorted(filter(_is_tpu, pci.glob("*")))


def _is_tpu(slot: Path) -> bool:
    try:
        vendor, device = ((slot / name).read_text().strip() for name in ("vendor", "device"))
    except OSError:
        return False
    return vendor == _GOOGLE_PCI_VENDOR and device in _TPU_PCI_DEVICES


def peak_flops() -> float | None:
    """All devices' dense bfloat16 rate together; None where the kind is not in the table."""
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    rate = rated_flops(kinds[0])
    return rate * len(kinds) if rate else None


def rated_flops(kind: str) -> float | None:
    """One device's dense bfloat16 rate by what its driver calls it; None where it is not known."""
    rates = PEAK_BF16_FLOPS.items()
    return next((rate for name, rate in rates if re.search(rf"\b{name}\b", kind)), None)


def describe_devices() -> dict[str, Any]:
    """For the manifest: what a run was computed on. Its bits depend on all of it."""
    import jax
    import psutil

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
        "cpu_cores": usable_cores(),
        "host_memory_bytes": psutil.virtual_memory().total,
    }


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
