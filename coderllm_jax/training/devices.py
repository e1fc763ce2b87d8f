"""The process before the first computation: environment, compilation cache, and which device.

JAX falls back to the CPU without a word where an accelerator is busy or its plug-in is missing.
A run that was meant for an accelerator would then take a hundred times as long: it is refused,
unless `mesh.platform=cpu` says that this is what is wanted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from coderllm_jax.errors import DeviceError

# What an accelerator looks like to a process that cannot load its driver.
_ACCELERATOR_FILES = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*", "kfd")


def prepare_process(*, platform: str, cache_dir: str) -> None:
    """Sets what must be set before jax, keras and TensorFlow are first imported, or first used."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform in ("cpu", "tpu") and "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", platform)
    import jax

    # Compiled programs are loaded as they are, so nobody else may write them.
    compiled = Path(cache_dir).expanduser() / "compiled"
    compiled.mkdir(mode=0o700, parents=True, exist_ok=True)
    compiled.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(compiled))


def check_platform(wanted: str) -> str:
    """The platform JAX computes on; DeviceError where it is not the one that was meant."""
    import jax

    found = jax.default_backend()
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


def find_accelerators(devices: Path = Path("/dev")) -> list[Path]:
    """Device files of accelerators, whether or not JAX can use them."""
    return sorted(path for pattern in _ACCELERATOR_FILES for path in devices.glob(pattern))
