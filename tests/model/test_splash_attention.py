"""Splash attention, interpreted: equal to the dense one, outputs and gradients, on any packing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.attention import attend, packed_masks
from coderllm_jax.model.precision import PRECISIONS
from coderllm_jax.model.splash_attention import attend_splash, can_splash
from tests.model.test_fused_attention import packed

# Float32 operands, which the kernels take where they are interpreted: the algebra is compared.
EXACT = PRECISIONS["float32"]
LENGTH = 256
ARCHITECTURE = dataclasses.replace(
    TINY, num_heads=4, num_kv_heads=2, head_size=128, window=40, query_scale=0.1
)
# One long example; short ones and an end of padding.
PACKINGS = ([LENGTH], [3, 1, 120, 90])


def inputs(architecture, *, seed=0):
    size, rows = architecture.head_size, len(PACKINGS)
    chance = np.random.default_rng(seed)
    heads = (architecture.num_heads, architecture.num_kv_heads, architecture.num_kv_heads)
    q, k, v = (chance.standard_normal((rows, LENGTH, h, size), np.float32) for h in heads)
    return q, k, v


def both(architecture, is_global):
    """(ours, dense): value and gradients of the same weighted sum over real positions."""
    positions, segments = packed(PACKINGS, length=LENGTH)
    mask = packed_masks(positions, segments, window=architecture.window)[is_global]
    q, k, v = inputs(architecture)
    counted = (segments > 0)[..., None, None] * np.cos(np.arange(q.size)).reshape(q.shape)

    def ours(q, k, v):
        return attend_splash(
            q, k, v, segments, is_global, architecture=architecture, precision=EXACT
        )

    def dense(q, k, v):
        return attend(q, k, v, mask, architecture=architecture, precision=EXACT)

    found = []
    for function in (ours, dense):

        def loss(q, k, v, function=function):
            mixed = function(q, k, v)
            return jnp.sum(mixed * counted), mixed * (counted != 0)

        (_, mixed), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        found.append((mixed, *grads))
    return found


@pytest.mark.parametrize("is_global", [False, True])
@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "attention_soft_cap": 5.0}])
def test_outputs_and_gradients_are_the_dense_ones(is_global, changes):
    ours, dense = both(dataclasses.replace(ARCHITECTURE, **changes), is_global)
    for name, mine, other in zip(("mixed", "q", "k", "v"), ours, dense, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-4, err_msg=name)


def test_where_it_applies():
    short = PRECISIONS["bfloat16"]

    def applies(*, precision=short, length=LENGTH, tensor=1, **changes):
        architecture = dataclasses.replace(ARCHITECTURE, **changes)
        return can_splash(architecture, precision, length=length, mesh={"tensor": tensor})

    assert applies()
    assert applies(tensor=2)
    assert applies(tensor=4, num_kv_heads=1)
    assert not applies(tensor=4)  # two key heads over four devices
    assert not applies(tensor=8, num_kv_heads=1)  # four query heads over eight
    assert not applies(head_size=64)
    assert not applies(length=200)
    assert not applies(precision=EXACT)
    assert not applies(keys_are_values=True)


SHARDED = """
import dataclasses, jax, numpy as np
from jax.sharding import AxisType, Mesh
from coderllm_jax.model.sharding import MESH_AXES
from coderllm_jax.model.splash_attention import attend_splash
from tests.model.test_fused_attention import packed
from tests.model.test_splash_attention import ARCHITECTURE, EXACT, LENGTH, PACKINGS, inputs

segments = packed(PACKINGS, length=LENGTH)[1]
mesh = Mesh(np.array(jax.devices()).reshape(2, 1, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
for kv_heads in (2, 1):
    architecture = dataclasses.replace(ARCHITECTURE, num_kv_heads=kv_heads)
    def run(q, k, v):
        return attend_splash(q, k, v, segments, False, architecture=architecture, precision=EXACT)
    alone = jax.jit(run)(*inputs(architecture))
    with jax.set_mesh(mesh):
        split = jax.jit(run)(*inputs(architecture))
    assert len(split.sharding.device_set) == 4, split.sharding
    np.testing.assert_allclose(alone, split, rtol=1e-6, atol=1e-6)
"""


def test_rows_and_heads_may_lie_on_different_devices():
    """Four devices: two rows, two pairs of heads, each with the keys that belong to it, or all."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
