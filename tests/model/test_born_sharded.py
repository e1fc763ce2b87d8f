"""No host and no device ever holds a whole unsharded copy of a large model, or of a large leaf.

A model of 400 MB is loaded over eight simulated devices in a process of its own, whose resident
memory is bounded: what was there before, what is placed, one layer's tensor, and a margin. The same
cases with whole leaves on the host, as loading was before, must break that bound, or it is none.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.born_sharded import FEED_FORWARD, MIB, NUM_LAYERS, VOCABULARY, WIDTH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

LAYER_BYTES = FEED_FORWARD * WIDTH * 2
LARGE_LEAF_BYTES = NUM_LAYERS * LAYER_BYTES
# Small leaves are put whole (up to 32 MiB), and XLA compiles: far below one large leaf (96 MiB).
MARGIN_BYTES = 48 * MIB
FOUR_DEVICES, EIGHT_DEVICES = 4, 8


def start(*arguments: str, devices: int) -> subprocess.Popen[str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # glibc would keep freed blocks for itself, and a case be charged for the one before.
        "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
        # Three programs that move gigabytes: optimized, they take a third of the time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.model.born_sharded", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def finish(process: subprocess.Popen[str]) -> dict:
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return json.loads(printed or "null")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    finish(start("write", str(path), devices=1))
    return path


@pytest.fixture(scope="module")
def cases(folder, tmp_path_factory) -> dict:
    cache = tmp_path_factory.mktemp("cache")
    return finish(start("load", str(folder), str(cache), devices=EIGHT_DEVICES))


def placed_bytes(case: dict) -> int:
    return sum(leaf["bytes"] for leaf in case["leaves"].values())


@pytest.mark.parametrize("source", ["huggingface", "cache"])
@pytest.mark.parametrize("mesh", ["1x8x1", "2x2x2"])
def test_memory_stays_at_what_is_placed_and_one_layer(cases, source, mesh):
    case = cases[f"{source} {mesh}"]
    assert case["peak"] < placed_bytes(case) + LAYER_BYTES + MARGIN_BYTES
    assert case["wrong"] == []


@pytest.mark.parametrize("source", ["huggingface", "cache"])
def test_whole_leaves_break_the_bound(cases, source):
    case = cases[f"{source} 1x8x1, whole leaves"]
    assert case["peak"] > placed_bytes(case) + LAYER_BYTES + MARGIN_BYTES


def test_conversion_holds_one_tensor(cases):
    assert cases["convert"]["peak"] < LAYER_BYTES + MARGIN_BYTES
    assert cases["convert, whole leaves"]["peak"] > LAYER_BYTES + MARGIN_BYTES


@pytest.mark.parametrize("source", ["huggingface", "cache"])
def test_shards_are_those_of_the_rule_and_lie_once_on_each_data_axis(cases, source):
    """Expected by hand: width over fsdp; heads, feed-forward and vocabulary over tensor."""
    n, d, f, v, heads, size = NUM_LAYERS, WIDTH, FEED_FORWARD, VOCABULARY, 8, 128
    expected = {
        "1x8x1": {
            "embedding": [v, d // 8],
            "blocks/query": [n, heads, d // 8, size],
            "blocks/attention_output": [n, heads, size, d // 8],
            "blocks/ffw_gating": [n, d // 8, f],
            "blocks/ffw_linear": [n, f, d // 8],
        },
        "2x2x2": {
            "embedding": [v // 2, d // 2],
            "blocks/query": [n, heads // 2, d // 2, size],
            "blocks/attention_output": [n, heads // 2, size, d // 2],
            "blocks/ffw_gating": [n, d // 2, f // 2],
            "blocks/ffw_linear": [n, f // 2, d // 2],
        },
    }
    for mesh, shapes in expected.items():
        leaves = cases[f"{source} {mesh}"]["leaves"]
        copies = int(mesh[0])
        for name, shape in shapes.items():
            assert leaves[name]["shapes"] == [shape], name
            assert leaves[name]["bytes"] == copies * leaves[name]["whole"], name


def test_each_of_two_processes_holds_its_half(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [start("join", str(folder), port, str(i), devices=FOUR_DEVICES) for i in (0, 1)]
    for case in map(finish, both):
        whole = sum(leaf["whole"] for leaf in case["leaves"].values())
        assert placed_bytes(case) == pytest.approx(whole / 2, rel=0.01)
        assert case["peak"] < whole / 2 + LAYER_BYTES + MARGIN_BYTES
        assert case["wrong"] == []
