"""Eight simulated devices: the same numbers, no copy by accident, no hidden state on the wire."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.training.sharded_steps import LENGTH

# Over 1 MB in a real model; the tiny one's variables are scaled down with it.
LARGE = 512


@pytest.fixture(scope="module")
def results():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.sharded_steps"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", ["8x1x1", "2x4x1", "2x2x2", "full 2x2x2"])
def test_losses_equal_one_devices(results, mesh):
    alone = results["full 1x1x1" if mesh.startswith("full") else "1x1x1"]["losses"]
    np.testing.assert_allclose(results[mesh]["losses"], alone, atol=1e-4, rtol=0)
    assert len(set(alone)) == len(alone) == 20


def test_a_mesh_larger_than_the_batch_is_filled_up_with_empty_rows(results):
    filled, alone = results["4 rows 8x1x1"]["losses"], results["4 rows 1x1x1"]["losses"]
    np.testing.assert_allclose(filled, alone, atol=1e-4, rtol=0)
    assert alone != results["1x1x1"]["losses"]


@pytest.mark.parametrize(("mesh", "parts"), [("8x1x1", 1), ("2x4x1", 4), ("2x2x2", 4)])
def test_no_large_variable_is_copied_by_accident(results, mesh, parts):
    """Every large variable is split over fsdp x tensor; over data it is a copy by design.

    B of an adapter [N, R, K] has no width to split for query and value; it is small in any model.
    """
    checked = 0
    for path, (shape, shard) in results[mesh]["placed"].items():
        if math.prod(shape) < LARGE or path.endswith("['b']"):
            assert math.prod(shape) <= 1024, path
            continue
        checked += 1
        assert math.prod(shape) == parts * math.prod(shard), f"{path} {shape} lies as {shard}"
    assert checked >= 9  # embedding, seven kernels, A of query


@pytest.mark.parametrize("mesh", ["8x1x1", "2x4x1", "2x2x2", "full 2x2x2"])
def test_no_collective_carries_hidden_states_over_data_or_fsdp(results, mesh):
    """LENGTH is a prime that no weight has, so a shape with a multiple of it holds positions."""
    across_tensor = 0
    for kind, shape, groups in results[mesh]["collectives"]:
        if any(size and size % LENGTH == 0 for size in shape):
            # In 2x2x2 the tensor axis is the last: devices 2i and 2i + 1.
            pairs = all(len({device // 2 for device in group}) == 1 for group in groups)
            assert mesh.endswith("2x2x2"), f"{kind} {shape} over {groups}"
            assert pairs, f"{kind} {shape} over {groups}"
            across_tensor += 1
    assert bool(across_tensor) == mesh.endswith("2x2x2")
    assert results[mesh]["collectives"]
