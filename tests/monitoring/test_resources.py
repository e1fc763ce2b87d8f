"""Memory figures are those of the operating system."""

from __future__ import annotations

import numpy as np

from coderllm_jax.monitoring import resources


def test_a_large_array_shows_in_memory_and_stays_in_the_peak() -> None:
    before = resources.memory_bytes()
    size = 200 * 2**20
    block = np.ones(size, np.uint8)
    assert resources.memory_bytes() - before > 0.8 * size
    during = resources.memory_bytes()
    del block
    assert resources.peak_memory_bytes() >= during * 0.95
