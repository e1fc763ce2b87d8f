"""TPU slices, against figures of Google's pages that were looked up by hand."""

from __future__ import annotations

import pytest

from launch.accelerators import find_slice
from launch.errors import LaunchError


@pytest.mark.parametrize(
    ("name", "chips", "topology", "hosts", "label", "runtime"),
    [
        ("v5litepod-1", 1, "1x1", 1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", 8, "2x4", 1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 16, "4x4", 4, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", 256, "16x16", 64, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v6e-8", 8, "2x4", 1, "tpu-v6e-slice", "v2-alpha-tpuv6e"),
        ("v6e-32", 32, "4x8", 8, "tpu-v6e-slice", "v2-alpha-tpuv6e"),
        ("v4-8", 4, "2x2x1", 1, "tpu-v4-podslice", "tpu-ubuntu2204-base"),
        ("v5p-16", 8, "2x2x2", 2, "tpu-v5p-slice", "v2-alpha-tpuv5"),
        ("v5p-128", 64, "4x4x4", 16, "tpu-v5p-slice", "v2-alpha-tpuv5"),
    ],
)
def test_slices(name: str, chips: int, topology: str, hosts: int, label: str, runtime: str) -> None:
    found = find_slice(name)
    assert (found.num_chips, found.topology, found.num_hosts) == (chips, topology, hosts)
    assert (found.gke_label, found.runtime) == (label, runtime)
    assert found.chips_per_host * found.num_hosts == chips


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("v5e-8", "did you mean 'v5litepod-8'?"),
        ("v5litpod-16", "did you mean 'v5litepod-16'?"),
        ("h100", "expected one of v4-N, v5p-N, v5litepod-N, v6e-N"),
        ("v6e", "v6e- goes with one of 1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p-7", "v5p- goes with one of 8, 16, 32"),
        ("v5litepod-16 ", "v5litepod- goes with one of"),
    ],
)
def test_what_is_none_is_named_with_what_is(name: str, remedy: str) -> None:
    with pytest.raises(LaunchError) as raised:
        find_slice(name)
    assert str(raised.value).startswith(f"cloud.accelerator is {name!r}")
    assert remedy in str(raised.value)
