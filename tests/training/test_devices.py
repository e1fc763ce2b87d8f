"""Which device a run may use, and what is found without its driver."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from coderllm_jax.errors import DeviceError
from coderllm_jax.training import devices


@pytest.fixture
def with_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_accelerators", lambda: [Path("/dev/nvidia0")])


def test_finds_nvidia_by_its_files_and_tpus_by_their_pci_ids(tmp_path: Path) -> None:
    files, pci = tmp_path / "dev", tmp_path / "pci"
    (files / "vfio").mkdir(parents=True)
    assert devices.find_accelerators(files, pci) == []
    # A passed-through disk, an AMD card and an Intel NPU are nothing that a run could be meant for.
    for name in ("nvidia0", "nvidiactl", "vfio/0", "kfd", "accel0", "null"):
        (files / name).touch()
    for slot, vendor, device in (
        ("tpu", "0x1ae0", "0x0063"),
        ("network", "0x1ae0", "0x0042"),
        ("disk", "0x8086", "0x0063"),
    ):
        (pci / slot).mkdir(parents=True)
        (pci / slot / "vendor").write_text(vendor + "\n")
        (pci / slot / "device").write_text(device + "\n")
    found = [path.name for path in devices.find_accelerators(files, pci)]
    assert found == ["nvidia0", "tpu"]


@pytest.mark.usefixtures("with_accelerator")
def test_the_cpu_is_refused_beside_an_accelerator_unless_it_is_asked_for() -> None:
    with pytest.raises(DeviceError, match=r"/dev/nvidia0 is here.*mesh\.platform=cpu"):
        devices.check_platform("auto")
    assert devices.check_platform("cpu") == "cpu"


def test_another_platform_than_asked_for_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"mesh\.platform is tpu and JAX found cpu"):
        devices.check_platform("tpu")


@pytest.fixture
def compiled_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("compiled_before")
def test_the_compilation_cache_is_private(tmp_path: Path) -> None:
    devices.prepare_process(platform="cpu", cache_dir=str(tmp_path / "cache"))
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder == tmp_path / "cache" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("compiled_before")
def test_a_compilation_cache_that_the_environment_names_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "named"))
    devices.prepare_process(platform="cpu", cache_dir=str(tmp_path / "cache"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "named")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("compiled_before")
def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"cannot be made.*name another model\.cache_dir"):
        devices.prepare_process(platform="cpu", cache_dir=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("NVIDIA H200", 989e12), ("NVIDIA L40S", None), ("TPU v5 lite", 197e12), ("cpu", None)],
)
def test_peak_rates_go_by_whole_words(
    kind: str, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Device:
        device_kind = kind

    monkeypatch.setattr(jax, "devices", lambda: [Device(), Device()])
    assert devices.peak_flops() == (rate and 2 * rate)


def test_describes_the_cores_this_process_may_use() -> None:
    described = devices.describe_devices()
    assert described["platform"] == "cpu"
    assert 1 <= described["cpu_cores"] <= (os.cpu_count() or 1)


def test_a_compiled_program_that_was_cut_is_dropped(tmp_path: Path) -> None:
    whole = zlib.compress(b"program" * 1000)
    for name, data in (("whole", whole), ("cut", whole[:-9]), ("other", b"(zstandard")):
        (tmp_path / f"{name}-cache").write_bytes(data)
    devices._drop_cut_programs(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["other-cache", "whole-cache"]


def test_compiled_programs_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, age_s: float) -> None:
        path = tmp_path / f"{name}-cache"
        path.write_bytes(zlib.compress(b"program"))
        os.utime(path, (time.time() - age_s,) * 2)

    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    write("old", age_s=3600)
    devices._drop_cut_programs(tmp_path)
    write("while-it-looked", age_s=1)
    write("new", age_s=0)
    devices._drop_cut_programs(tmp_path)
    assert sorted(read) == ["new-cache", "old-cache", "while-it-looked-cache"]
