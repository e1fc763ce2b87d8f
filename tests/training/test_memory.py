"""What a step is thought to hold, by hand and beside what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coderllm_jax.model.architecture import TINY, Architecture
from coderllm_jax.model.precision import PRECISIONS
from coderllm_jax.training.memory import Work, bytes_with_projections, projections_fit

SHORT, EXACT = PRECISIONS["bfloat16"], PRECISIONS["float32"]
GEMMA3_4B = Architecture(
    family="gemma3",
    num_layers=34,
    vocabulary=262_144,
    width=2560,
    feed_forward=10_240,
    num_heads=8,
    num_kv_heads=4,
    head_size=256,
    window=1024,
    global_every=6,
    query_scale=1 / 16,
)
WORK = Work(4, 2048, SHORT, "fused", ("query", "value"), 16)


class FakeGpu:
    platform, device_kind = "gpu", "NVIDIA H200"

    def __init__(self, limit):
        self.limit = limit

    def memory_stats(self):
        return self.limit and {"bytes_limit": self.limit}


def test_as_much_as_was_measured():
    """An H200 held 28.0 GB (4 x 2,048) and 28.4 (1 x 8,192): benchmarks/gpu.md."""
    for rows, length in ((4, 2048), (1, 8192)):
        found = bytes_with_projections(GEMMA3_4B, WORK._replace(rows=rows, length=length))
        assert 26e9 < found < 28.4e9


def test_kept_numbers_by_hand():
    """One more row: a layer's stream, seven products, and attention's output where fused."""
    short = WORK._replace(length=16)
    row = 16 * GEMMA3_4B.num_layers * (3 * 2560 + 2048 + 2 * 1024 + 2 * 10_240) * 2
    scores = 3 * 16 * 16 * 8 * 4
    for attention, wanted in (
        ("dense", row + scores),
        ("fused", row + 16 * GEMMA3_4B.num_layers * 2048 * 2),
    ):
        one, two = (
            bytes_with_projections(GEMMA3_4B, short._replace(rows=n, attention=attention))
            for n in (1, 2)
        )
        assert two - one == wanted


def test_full_fine_tuning_holds_four_copies_in_float32():
    nothing = Work(0, 16, EXACT, "dense", None, 8)
    shapes = TINY.weight_shapes()
    blocks = sum(int(np.prod(shape)) for shape in shapes["blocks"].values())
    others = sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "blocks")
    assert bytes_with_projections(TINY, nothing) == 16 * (blocks + others)
    assert bytes_with_projections(TINY, nothing._replace(weight_parts=4)) == 4 * (blocks + others)


def test_a_quarter_of_the_limit_is_left():
    needed = bytes_with_projections(GEMMA3_4B, WORK)
    assert projections_fit(GEMMA3_4B, WORK, device=FakeGpu(int(needed / 0.75) + 1))
    assert not projections_fit(GEMMA3_4B, WORK, device=FakeGpu(int(needed / 0.75) - 1))


@pytest.mark.parametrize("limit", [None, 0])
def test_a_device_that_does_not_tell_keeps_nothing(limit):
    assert not projections_fit(dataclasses.replace(TINY), WORK, device=FakeGpu(limit))
