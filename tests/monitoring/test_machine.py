"""What a machine does not expose is said, and never a zero."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coderllm_jax.monitoring import accelerators, columns, machine
from coderllm_jax.monitoring.accelerators import Accelerators
from coderllm_jax.monitoring.machine import MachineWatch
from tests.fakes import FakeNvml, FakeTpuInfo

GPU = [Path("/dev/nvidia0")]
TPU = [Path("/sys/bus/pci/devices/0000:00:05.0")]


def test_this_machine(tmp_path):
    watch = MachineWatch(
        [str(tmp_path), str(tmp_path / "later" / "on")],
        max_rows=100,
        accelerators=Accelerators(find=list),
    )
    assert watch.view().time is None
    watch.look(100.0)
    first = watch.view()
    assert first.cpu_fraction is None  # use is between two looks
    assert first.own_cpu_fraction is None
    assert 0 < first.memory_used_fraction < 1
    (disk,) = first.disks
    assert 0 < disk.free_bytes < disk.total_bytes
    assert first.own_memory_bytes > 10e6
    sum(i * i for i in range(200_000))
    watch.look(105.0)
    assert watch.view().cpu_fraction is None or 0 <= watch.view().cpu_fraction <= 1
    assert watch.view().own_cpu_fraction > 0
    assert len(watch.columns.points("memory_used_fraction").values) == 2


def test_looks_are_numbered_upwards_although_old_ones_thin_out(monkeypatch):
    monkeypatch.setattr(columns, "_FIRST_CAPACITY", 16)
    watch = MachineWatch([], max_rows=16, accelerators=Accelerators(find=list))
    for i in range(40):
        watch.look(float(i))
    points = watch.columns.points("memory_used_fraction")
    assert len(points.steps) < 30
    assert points.steps.tolist() == sorted(set(points.steps.tolist()))
    assert points.steps[-1] == 39
    newest = watch.columns.points("memory_used_fraction", since_step=37)
    assert newest.times.tolist() == [38.0, 39.0]


def test_no_sensors_is_said(monkeypatch):
    monkeypatch.setattr(machine.psutil, "sensors_temperatures", dict, raising=False)
    watch = MachineWatch([], max_rows=100, accelerators=Accelerators(find=list))
    watch.look(1.0)
    assert watch.view().temperatures_c == {}
    assert "temperatures are not exposed here" in watch.view().notes
    assert "temperature_c" not in watch.columns.names


def test_a_containers_limit_counts_as_the_memory(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    assert machine._container_memory(tmp_path) == (1000, 600)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._container_memory(tmp_path) == (None, None)


def test_a_card():
    nvml = FakeNvml()
    found = Accelerators(nvml=nvml, find=lambda: GPU)
    (card,), notes = found.look()
    assert notes == []
    assert (card.name, card.use_fraction, card.temperature_c) == ("Fake H0", 0.93, 61.0)
    assert (card.power_w, card.power_limit_w) == (412.5, 700.0)
    assert card.memory_used_bytes / card.memory_total_bytes == 0.75
    assert card.throttling == []
    nvml.reasons = 0x1 | 0x4 | 0x40  # idle is no fault
    assert found.look()[0][0].throttling == ["power cap", "temperature (hardware)"]
    found.close()
    assert nvml.num_shutdowns == 1


@pytest.mark.parametrize(
    ("hidden", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "use_fraction"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttling"),
    ],
)
def test_one_figure_that_is_not_exposed_leaves_the_others(hidden, field):
    (card,), notes = Accelerators(nvml=FakeNvml(hidden=[hidden]), find=lambda: GPU).look()
    values = {
        name: getattr(card, name)
        for name in (
            "use_fraction",
            "memory_used_bytes",
            "power_w",
            "temperature_c",
            "throttling",
        )
    }
    assert values.pop(field) is None
    assert None not in values.values()
    (note,) = notes
    assert "is not exposed (Not Supported)" in note


def test_no_driver_is_said_and_looked_for_again():
    nvml = FakeNvml(starts=False)
    found = Accelerators(nvml=nvml, find=lambda: GPU)
    assert found.look() == ([], ["GPU figures are not exposed (Driver Not Loaded)"])
    nvml.starts = True
    assert len(found.look()[0]) == 1


def test_without_a_device_no_library_is_asked():
    assert Accelerators(nvml=FakeNvml(starts=False), find=list).look() == ([], [])


def test_chips_of_a_tpu():
    info = FakeTpuInfo(lambda: [FakeTpuInfo.usage(0), FakeTpuInfo.usage(1)])
    chips, notes = Accelerators(tpu_info=info, find=lambda: TPU).look()
    assert [(chip.index, chip.use_fraction, chip.temperature_c) for chip in chips] == [
        (0, 0.875, None),
        (1, 0.875, None),
    ]
    assert notes == ["TPU temperature, power and throttling are not exposed"]


def test_a_tpu_that_nobody_uses_exposes_nothing():
    def refuse():
        raise ConnectionError("connection refused")

    chips, notes = Accelerators(tpu_info=FakeTpuInfo(refuse), find=lambda: TPU).look()
    assert [chip.use_fraction for chip in chips] == [None, None]
    assert "connection refused" in notes[0]


def test_a_metrics_service_that_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(accelerators, "_TPU_TIMEOUT_S", 0.05)
    release = threading.Event()

    def hang():
        release.wait(20)
        return [FakeTpuInfo.usage(0)]

    found = Accelerators(tpu_info=FakeTpuInfo(hang, num_chips=1), find=lambda: TPU)
    for _ in range(3):  # one question at a time, however often it is looked
        (chip,), notes = found.look()
        assert chip.use_fraction is None
        assert "not exposed" in notes[0]
    release.set()
    found._asking.result(20)
    assert found.look()[0][0].use_fraction == 0.875
    found.close()
