"""Quantized kernels: blocks by hand, bounds of errors, and a product that keeps no float kernel."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32, PRECISIONS
from coderllm_jax.model.quantization import (
    NF4_LEVELS,
    BaseFormat,
    Quantized,
    block_length,
    contract_quantized,
    dequantize,
    dequantize_weights,
    quantize,
    quantize_kernel,
    quantized_bytes,
)
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import LazyLeaf, place
from tests.model.tiny_model import tiny_weights

BASES = ("int8", "int4", "nf4")
# A code a digit.
QWIX_NF4 = "7e1c4600f12f22f0073a0f9f092901f45f65f10c140fef030e14ecdbddd84f00"
# Of a block's scale: half a step, or half of the widest gap between levels.
WORST = {"int8": 0.5, "int4": 0.5, "nf4": (NF4_LEVELS[1] - NF4_LEVELS[0]) / 2}
FLOAT = jnp.dtype("float32")


def column(*values):
    """A kernel of one output whose inputs are these."""
    return jnp.array(values, jnp.float32)[:, None]


def test_int8_by_hand():
    """127.5 / 127.5: the scale is 1, halves go to the even neighbour, the largest into 127."""
    found = quantize(column(127.5, -127.5, 1.0, 0.4, 0.5, 1.5, -2.5, 0.0), base="int8")
    assert found.scales.tolist() == [[1.0]]
    assert found.codes[:, 0].tolist() == [127, -128, 1, 0, 0, 2, -2, 0]
    assert found.codes.dtype == jnp.int8
    assert dequantize(found, FLOAT)[:, 0].tolist() == [127, -128, 1, 0, 0, 2, -2, 0]


def test_int4_by_hand():
    """15 / 7.5: the scale is 2. Codes are 8 above their value; even rows are the low nibbles."""
    found = quantize(column(15.0, -15.0, 2.0, 4.0, -6.0, 0.0, 8.0, -14.0), base="int4")
    assert found.scales.tolist() == [[2.0]]
    pairs = [(7, -8), (1, 2), (-3, 0), (4, -7)]
    assert found.codes[:, 0].tolist() == [(low + 8) | (high + 8) << 4 for low, high in pairs]
    assert dequantize(found, FLOAT)[:, 0].tolist() == [14, -16, 2, 4, -6, 0, 8, -14]


def test_nf4_by_hand():
    """The largest is 4: levels times 4. 0.16 lies under the midpoint of 0 and 0.0796."""
    found = quantize(column(4.0, -4.0, 0.0, 0.15, 0.17, -2.1, 2.9, 1.0), base="nf4")
    assert found.scales.tolist() == [[4.0]]
    pairs = [(15, 0), (7, 7), (8, 2), (14, 10)]
    assert found.codes[:, 0].tolist() == [low | high << 4 for low, high in pairs]
    expected = 4 * NF4_LEVELS[[15, 0, 7, 7, 8, 2, 14, 10]]
    assert dequantize(found, FLOAT)[:, 0].tolist() == expected.tolist()


def test_each_block_of_inputs_and_each_output_has_its_own_scale():
    kernel = np.ones((2, 128, 3), np.float32)
    kernel[1, 64:, 2] = 100
    found = quantize(jnp.asarray(kernel), base="nf4")
    assert found.scales.shape == (2, 2, 3)
    assert (np.asarray(found.scales, np.float32) == 100).sum() == 1
    np.testing.assert_array_equal(dequantize(found, FLOAT), kernel)


@pytest.mark.parametrize("base", BASES)
def test_errors_stay_below_half_a_step_in_every_block(base):
    generator = np.random.default_rng(0)
    # Blocks of very different size, with outliers, as real kernels have them.
    kernel = generator.standard_t(3, (3, 192, 5)) * generator.lognormal(0, 3, (3, 1, 5))
    kernel = jnp.asarray(kernel, jnp.float32)
    found = quantize(kernel, base=base)
    assert found.scales.dtype == jnp.bfloat16
    errors = np.abs(dequantize(found, FLOAT) - kernel).reshape(3, 3, 64, 5)
    bound = WORST[base] * np.asarray(found.scales, np.float32)[:, :, None]
    assert (errors <= bound * (1 + 1e-6)).all()
    assert errors.max(axis=(0, 1, 2)).min() > 0
    # No scale is more than bfloat16's rounding above what its largest weight needs.
    largest = np.abs(kernel).reshape(3, 3, 64, 5).max(axis=2)
    step = np.asarray(found.scales, np.float32) * {"int8": 127.5, "int4": 7.5, "nf4": 1}[base]
    assert (step >= largest * (1 - 1e-6)).all()
    assert (step <= largest * (1 + 2**-7)).all()


def test_nf4_levels_quantize_to_themselves():
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(64, 8)), jnp.float32)
    once = dequantize(quantize(kernel, base="nf4"), FLOAT)
    np.testing.assert_array_equal(dequantize(quantize(once, base="nf4"), FLOAT), once)


@pytest.mark.parametrize("base", BASES)
def test_a_block_of_zeros_stays_zeros(base):
    found = quantize(jnp.zeros((64, 2)), base=base)
    assert not dequantize(found, FLOAT).any()


def test_levels_are_those_of_qwix():
    """Recorded from qwix 0.1.8, quantize(x, "nf4", tiled_axes={0: 64}, channelwise_axes=(1,))."""
    x = jnp.sin(jnp.arange(64.0) ** 2)[:, None] * 2
    found = quantize(x, base="nf4")
    codes = np.asarray(found.codes)[:, 0]
    nibbles = np.stack([codes & 15, codes >> 4], axis=1).ravel()
    assert "".join(f"{code:x}" for code in nibbles) == QWIX_NF4


@pytest.mark.parametrize(("inputs", "block"), [(640, 64), (64, 64), (32, 32), (8, 8), (1184, 32)])
def test_blocks_divide_the_inputs(inputs, block):
    assert block_length(inputs) == block


def test_a_kernel_that_cannot_be_cut_is_refused():
    with pytest.raises(ModelError, match=r"kernel of 36 inputs .* multiple of 8: set lora\.base"):
        quantize(jnp.ones((36, 4)), base="int8")


@pytest.mark.parametrize("base", BASES)
def test_sizes_are_what_they_are_said_to_be(base):
    shape = (3, 4, 640, 16)
    found = quantize(jnp.zeros(shape), base=base)
    assert quantized_bytes(shape, base) == found.codes.nbytes + found.scales.nbytes
    bits = 8 * quantized_bytes(shape, base) / (3 * 4 * 640 * 16)
    assert bits == {"int8": 8.25, "int4": 4.25, "nf4": 4.25}[base]


# --- the product ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["query", "attention_output", "ffw_linear"])
def test_the_product_and_its_gradient_are_those_of_the_dequantized_kernel(base, name):
    spec, shape = PRODUCTS[name], TINY.block_shapes()[name]
    generator = np.random.default_rng(2)
    kernel = quantize(jnp.asarray(generator.normal(size=shape), jnp.float32), base=base)
    sizes = dict(zip(spec.split("->")[0].split(",")[1], shape, strict=True)) | {"b": 2, "l": 3}
    inputs = tuple(sizes[axis] for axis in spec.split(",")[0])
    x = jnp.asarray(generator.normal(size=inputs), jnp.float32)

    def quantized(x):
        return jnp.sum(jnp.sin(contract_quantized(spec, x, kernel, FLOAT32)))

    def plain(x):
        return jnp.sum(jnp.sin(jnp.einsum(spec, x, dequantize(kernel, FLOAT))))

    found, expected = jax.value_and_grad(quantized)(x), jax.value_and_grad(plain)(x)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)


def test_cotangents_have_the_format_of_what_they_belong_to():
    kernel = quantize(jnp.ones((64, 8)), base="nf4")
    mixed = PRECISIONS["mixed"]
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jnp.ones((2, 3, 64), dtype)
        y, pull = jax.vjp(lambda x: contract_quantized("bld,df->blf", x, kernel, mixed), x)
        assert y.dtype == jnp.float32
        assert pull(y)[0].dtype == dtype


# --- at loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_kernels_are_quantized_as_they_come_and_nothing_else_is(base):
    weights = tiny_weights()
    placed = place(random_leaves(TINY, seed=0), TINY, dtype="float32", base=BaseFormat(base))
    for name, leaf in placed["blocks"].items():
        if name in PRODUCTS:
            expected = quantize_kernel(weights["blocks"][name], base=base)
            assert leaf.base == base
            np.testing.assert_array_equal(leaf.codes, expected.codes)
            np.testing.assert_array_equal(leaf.scales, expected.scales)
        else:
            np.testing.assert_array_equal(leaf, weights["blocks"][name])
    np.testing.assert_array_equal(placed["embedding"], weights["embedding"])


def test_one_layer_at_a_time_is_read():
    """A stack of 5 layers: each is asked for once, in order, and none before the one before it."""
    architecture = dataclasses.replace(TINY, num_layers=5)
    asked = []

    def lazy(path, values):
        def read(i):
            asked.append((path, i))
            return values[i]

        return LazyLeaf(values.shape, read, is_stacked=True)

    leaves = [
        (path, lazy(path, values) if path == "blocks/query" else values)
        for path, values in random_leaves(architecture, seed=0)
    ]
    placed = place(leaves, architecture, dtype="float32", base=BaseFormat("nf4"))
    assert asked == [("blocks/query", i) for i in range(5)]
    assert isinstance(placed["blocks"]["query"], Quantized)


@pytest.mark.parametrize("base", BASES)
def test_only_a_base_of_4_bits_keeps_kernels_in_8(base):
    placed = place(
        random_leaves(TINY, seed=0), TINY, dtype="float32", base=BaseFormat.make(base, ("value",))
    )
    found = {name: placed["blocks"][name].base for name in PRODUCTS}
    assert found == dict.fromkeys(PRODUCTS, base) | {"value": "int8"}


@pytest.mark.parametrize("base", ["float", "int8"])
def test_beside_8_bits_or_floats_no_kernel_is_another(base):
    assert BaseFormat.make(base, ("value",)) == BaseFormat(base)


def test_a_global_layers_kernel_has_the_format_of_its_name():
    assert BaseFormat("nf4", ("value",)).of("blocks/global_value") == "int8"
    assert BaseFormat("nf4", ("value",)).of("blocks/global_query") == "nf4"


@pytest.mark.parametrize("base", BASES)
def test_codes_do_not_hang_on_the_precision_of_who_asks(base):
    """A run in float32 and one in bfloat16 train on the same kernels, which answer later."""
    wide, narrow = (
        place(random_leaves(TINY, seed=0), TINY, dtype=dtype, base=BaseFormat(base))["blocks"]
        for dtype in ("float32", "bfloat16")
    )
    for name in PRODUCTS:
        np.testing.assert_array_equal(wide[name].codes, narrow[name].codes)
        np.testing.assert_array_equal(wide[name].scales, narrow[name].scales)


def test_a_whole_model_is_made_floats_again():
    weights = place(
        random_leaves(TINY, seed=0), TINY, dtype="float32", base=BaseFormat("nf4", ("key",))
    )
    found = dequantize_weights(weights, jnp.dtype("bfloat16"))
    assert found["embedding"] is weights["embedding"]
    for name, leaf in found["blocks"].items():
        if name in PRODUCTS:
            assert leaf.dtype == jnp.bfloat16
            expected = dequantize(weights["blocks"][name], jnp.dtype("bfloat16"))
            np.testing.assert_array_equal(leaf, expected)
        else:
            assert leaf is weights["blocks"][name]


def test_layers_with_heads_of_their_own_are_refused():
    """Before a leaf is read."""
    mixed = dataclasses.replace(TINY, family="gemma4", global_head_size=32, global_kv_heads=1)
    assert not mixed.is_uniform
    with pytest.raises(ModelError, match=r"lora\.base is nf4 and .*gemma4.* set lora\.base=float"):
        place(iter(()), mixed, dtype="float32", base=BaseFormat("nf4"))
    BaseFormat("float").check(mixed)  # nothing is rounded
