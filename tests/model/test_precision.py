"""The product every layer is made of: its derivative, its formats, its choice by device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.model import precision
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32, PRECISIONS, contract, resolve_precision

SIZES = {"b": 2, "l": 5, "d": 6, "h": 3, "k": 4, "f": 7, "g": 2, "m": 5}
ATTENTION = ("blghk,bmgk->bghlm", "bghlm,bmgk->blghk")


def operands(spec):
    left, right = spec.split("->")[0].split(",")
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], [SIZES[axis] for axis in left])
    y = jax.random.normal(keys[1], [SIZES[axis] for axis in right])
    ct = jax.random.normal(keys[2], [SIZES[axis] for axis in spec.split("->")[1]])
    return x, y, ct


@pytest.mark.parametrize("spec", sorted({*PRODUCTS.values(), *ATTENTION}))
def test_value_and_both_cotangents_equal_einsums(spec):
    x, y, ct = operands(spec)
    expected, expected_vjp = jax.vjp(lambda x, y: jnp.einsum(spec, x, y, precision="highest"), x, y)
    found, found_vjp = jax.vjp(lambda x, y: contract(spec, x, y, FLOAT32), x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found_vjp(ct), expected_vjp(ct), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_mixed_rounds_operands_and_carries_float32():
    x = jnp.full((1, 1, 256), 1.0 + 2**-10)  # bfloat16 drops the 2**-10
    y = jnp.ones((256, 1), jnp.bfloat16)
    found, vjp = jax.vjp(lambda x, y: contract("bld,df->blf", x, y, PRECISIONS["mixed"]), x, y)
    assert found.dtype == jnp.float32
    assert float(found[0, 0, 0]) == 256.0
    ct_x, ct_y = vjp(jnp.full((1, 1, 1), 3.0))
    assert (ct_x.dtype, ct_y.dtype) == (jnp.float32, jnp.bfloat16)
    # 257 ones: a sum carried in bfloat16 would stay at 256.
    long = contract("bld,df->blf", jnp.ones((1, 1, 257)), jnp.ones((257, 1)), PRECISIONS["mixed"])
    assert float(long[0, 0, 0]) == 257.0


def test_auto_follows_the_device(monkeypatch):
    for has_instructions, name in ((True, "mixed"), (False, "float32")):
        monkeypatch.setattr(precision, "_cpu_multiplies_bfloat16", lambda has=has_instructions: has)
        assert resolve_precision("auto", "cpu").name == name
    assert resolve_precision("auto", "tpu").name == "bfloat16"
    assert resolve_precision("float32", "gpu") is FLOAT32
