"""What a process spends: time, memory and compiling, each of its own window."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from coderllm_jax.evaluation.usage import UsageMeter


def test_processor_time_is_work_and_no_sleep():
    with UsageMeter() as asleep:
        time.sleep(0.2)
    with UsageMeter() as busy:
        end_s = time.process_time() + 0.2
        while time.process_time() < end_s:
            sum(range(1000))
    assert asleep.usage.wall_s >= 0.2
    assert asleep.usage.cpu_s < asleep.usage.wall_s / 2
    assert busy.usage.cpu_s >= 0.2


def test_a_peak_is_seen_that_is_over_at_the_end():
    with UsageMeter() as before:
        pass
    with UsageMeter() as meter:
        block = np.ones(64 << 20, np.uint8)
        time.sleep(0.5)  # ten looks; a busy machine may miss some
        del block
    assert meter.usage.peak_memory_bytes >= before.usage.peak_memory_bytes + (48 << 20)


def test_compiling_is_counted_in_its_own_window():
    double = jax.jit(lambda x: x * 2 + jnp.sin(x))
    x = jnp.ones(7)
    with UsageMeter() as first:
        double(x)
    with UsageMeter() as second:
        double(x)
    jax.jit(lambda x: x * 3 + jnp.cos(x))(x)  # after the end: nobody listens
    assert first.usage.compile_s > 0
    assert second.usage.compile_s == 0
    assert first._compile_s == first.usage.compile_s
