"""Ways of rounding: the one that models have is the library's, and others are what they say."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.quantization_levers import (
    INT8,
    LEVERS,
    NF4,
    Lever,
    Rounder,
    Rounding,
    kept,
    round_kernel,
    sensitivity,
)
from coderllm_jax.model.quantization import dequantize, quantize

GENERATOR = np.random.default_rng(0)
KERNEL = (GENERATOR.standard_t(4, (2, 3, 128, 5))).astype(np.float32)


def squared_error(how):
    return float(((round_kernel(KERNEL, how) - KERNEL) ** 2).sum())


@pytest.mark.parametrize("base", ["int8", "int4", "nf4"])
def test_what_models_have_is_what_the_library_makes(base):
    expected = dequantize(quantize(jnp.asarray(KERNEL), base=base), jnp.dtype("float32"))
    np.testing.assert_array_equal(round_kernel(KERNEL, Rounding(base)), expected)


def test_bits_count_scales():
    assert INT8.bits == 8.25
    assert NF4.bits == 4.25
    assert Rounding(block=16).bits == 5.0
    assert Rounding(twice=True).bits == pytest.approx(4.127, abs=1e-3)  # QLoRA, section 3


def test_shorter_blocks_and_chosen_scales_lose_less():
    assert squared_error(Rounding(block=16)) < squared_error(Rounding(block=32))
    assert squared_error(Rounding(block=32)) < squared_error(NF4)
    assert squared_error(Rounding(scales="error")) < squared_error(NF4)
    assert squared_error(NF4) < 1.2 * squared_error(Rounding(twice=True))
    assert squared_error(Rounding(twice=True)) < 1.2 * squared_error(NF4)


def test_a_lever_rounds_kernels_by_name_and_leaves_layers_as_they_are():
    kernels = {name: KERNEL.astype(np.float32) for name in ("query", "value")}
    rounder = Rounder(kernels)
    found = rounder(kept("value")._replace(float_layers=(1,)))
    np.testing.assert_array_equal(found["query"][0], round_kernel(KERNEL, NF4)[0])
    np.testing.assert_array_equal(found["value"][0], round_kernel(KERNEL, INT8)[0])
    for name in kernels:
        np.testing.assert_array_equal(found[name][1], KERNEL[1])
    assert rounder.bits(kept("value")) == (8.25 + 4.25) / 2
    assert rounder.error(kernels) == 0
    assert rounder.error(rounder(Lever())) > rounder.error(rounder(kept("value"))) > 0


def test_every_kernel_and_layer_has_its_turn():
    assert len(sensitivity(18)) == 7 + 18
    assert not set(sensitivity(18)) & set(LEVERS)
