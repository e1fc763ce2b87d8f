"""Rounding for what goes through a kernel: by hand, against the textbook, and on a model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.calibration import factor_of, round_kernel, round_layers, walk_layer
from coderllm_jax.model.forward import ForwardOptions, embed, hidden_states, rms_norm
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32
from coderllm_jax.model.quantization import (
    NF4_LEVELS,
    BaseFormat,
    dequantize,
    nearest_codes,
    quantize,
    quantize_kernel,
    quantized_shapes,
)
from coderllm_jax.model.quantization import (
    pack as pack_codes,
)
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import OpenedModel
from tests.model.tiny_model import pack, random_sequences, tiny_weights

FLOAT = jnp.dtype("float32")
FORMAT = BaseFormat.make("nf4", ("value",))
# [inputs, outputs]-like kernels of every layout, heads that share inputs and heads that add up.
SHAPES = {"query": (2, 24, 6), "attention_output": (3, 8, 10), "ffw_linear": (40, 12)}
SEQUENCES = random_sequences([9, 14, 7, 11, 5, 12])
BATCH = pack([SEQUENCES[:3], SEQUENCES[3:]], length=32, supervised_from=3)


def operand(name, kernel, *, alike=3.0, seed=0, rows=64):
    """x of the product, [rows, 1, …]: inputs that are `alike` times more common than their own."""
    left, letters = PRODUCTS[name].split("->")[0].split(",")
    sizes = dict(zip(letters, kernel.shape, strict=True))
    generator = np.random.default_rng(seed)
    shape = (rows, 1, *(sizes[letter] for letter in left[2:]))
    common = generator.normal(size=(rows, 1, *(1 for _ in left[2:])))
    return jnp.asarray(generator.normal(size=shape) + alike * common, jnp.float32)


def products_of(x):
    flat = x.reshape(x.shape[0], -1)
    return flat.T @ flat


def a_kernel(name, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPES[name]), jnp.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_products_over_the_texts_change_less_than_by_nearest_levels(name):
    kernel = a_kernel(name)
    x = operand(name, kernel)
    exact = jnp.einsum(PRODUCTS[name], x, kernel)

    def error(found):
        return float(
            jnp.abs(jnp.einsum(PRODUCTS[name], x, dequantize(found, FLOAT)) - exact).mean()
        )

    mended = round_kernel(name, kernel, factor_of(products_of(x)), base="nf4")
    nearest = quantize(kernel, base="nf4")
    assert mended.codes.shape == nearest.codes.shape
    assert (mended.scales.shape, mended.scales.dtype) == (nearest.scales.shape, jnp.bfloat16)
    assert error(mended) < 0.5 * error(nearest)


@pytest.mark.parametrize("base", ["int8", "int4", "nf4"])
def test_inputs_that_no_other_resembles_have_nothing_to_mend(base):
    """X'X has a diagonal alone: every code is the nearest one, and no block's scale costs more than
    that of its largest weight, where inputs count by how large they are."""
    kernel = a_kernel("ffw_linear")
    sizes = jnp.asarray(np.random.default_rng(2).lognormal(0, 2, 40), jnp.float32)
    found = round_kernel("ffw_linear", kernel, factor_of(jnp.diag(sizes)), base=base)
    scales = jnp.repeat(found.scales.astype(jnp.float32), 8, axis=0)
    expected = pack_codes(nearest_codes(kernel / scales, base), base)
    np.testing.assert_array_equal(found.codes, expected)

    def blocks_cost(other):
        cost = (sizes + 0.02 * sizes.mean())[:, None] * jnp.square(
            dequantize(other, FLOAT) - kernel
        )
        return cost.reshape(5, 8, 12).sum(axis=1)

    assert np.all(blocks_cost(found) <= 1.0001 * blocks_cost(quantize(kernel, base=base)))


def test_inputs_that_are_always_alike_keep_their_sum():
    """Eight inputs with one value: what counts is the sum of their weights. Nearest levels lose up
    to half a gap at each; here each owes the next, and only the last's error is left."""
    kernel = jnp.concatenate([jnp.full((7, 1), 0.2), jnp.ones((1, 1))])
    x = jnp.ones((16, 8))
    found = round_kernel("ffw_linear", kernel, factor_of(x.T @ x), base="nf4")
    nearest = dequantize(quantize(kernel, base="nf4"), FLOAT)
    assert abs(float(nearest.sum() - kernel.sum())) > 0.2
    assert abs(float(dequantize(found, FLOAT).sum() - kernel.sum())) < 0.08


def textbook(kernel, products, scales):
    """Optimal brain quantization in the order of the inputs, float64 (Frantar et al., eq. 2, 3)."""
    left = np.array(kernel, np.float64)
    damped = products + 0.02 * np.diag(products).mean() * np.eye(len(products))
    inverse = np.linalg.inv(damped)
    block = len(kernel) // len(scales)
    found = np.zeros_like(left)
    for i in range(len(left)):
        scale = scales[i // block]
        level = NF4_LEVELS[np.abs(left[i] / scale - NF4_LEVELS[:, None]).argmin(axis=0)]
        found[i] = level * scale
        left -= np.outer(inverse[:, i] / inverse[i, i], left[i] - found[i])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return found


def test_it_is_the_textbook_s_rounding():
    kernel = jnp.asarray(np.random.default_rng(5).normal(size=(128, 9)), jnp.float32)
    products = products_of(operand("ffw_linear", kernel, alike=1.0, rows=400))
    found = round_kernel("ffw_linear", kernel, factor_of(products), base="nf4")
    scales = np.asarray(found.scales, np.float64)
    assert scales.shape == (2, 9)
    expected = textbook(kernel, np.asarray(products, np.float64), scales)
    np.testing.assert_allclose(dequantize(found, FLOAT), expected, atol=1e-6)


@pytest.mark.parametrize("base", ["int8", "int4", "nf4"])
def test_zeros_stay_zeros(base):
    zeros = jnp.zeros((40, 12))
    found = round_kernel("ffw_linear", zeros, factor_of(jnp.eye(40)), base=base)
    np.testing.assert_array_equal(found.codes, quantize(zeros, base=base).codes)
    assert not np.any(dequantize(found, FLOAT))


def test_inputs_without_any_text_are_rounded_as_they_are():
    kernel = a_kernel("ffw_linear")
    found = round_kernel("ffw_linear", kernel, factor_of(jnp.zeros((40, 40))), base="nf4")
    unlike = round_kernel("ffw_linear", kernel, factor_of(jnp.eye(40)), base="nf4")
    np.testing.assert_array_equal(found.codes, unlike.codes)


# --- a model -------------------------------------------------------------------------------------


def opened():
    return OpenedModel(TINY, random_leaves(TINY, seed=0), ByteTokenizer(), "random", "0" * 64)


def rounded(batches, base=FORMAT, precision=FLOAT32):
    return list(round_layers(opened(), batches, base=base, precision=precision))


@pytest.fixture(scope="module")
def layers():
    """As a run with value in 8 bits would round them."""
    return rounded([BATCH])


def test_every_kernel_of_every_layer_in_its_format(layers):
    assert len(layers) == TINY.num_layers
    for layer in layers:
        assert set(layer) == set(PRODUCTS)
        for name, kernel in layer.items():
            assert kernel.base == ("int8" if name == "value" else "nf4")
            shapes = quantized_shapes(TINY.block_shapes()[name], kernel.base)
            assert (kernel.codes.shape, kernel.scales.shape) == shapes


def test_texts_go_through_the_layers_as_through_the_model():
    """Through local and global ones; what lies behind the last is the model's, before its norm."""
    weights, options = tiny_weights(), ForwardOptions()
    x = embed(weights, BATCH.inputs, options=options)
    for i in range(TINY.num_layers):
        layer = {name: stack[i] for name, stack in weights["blocks"].items()}
        x, seen = walk_layer(
            x, BATCH, layer, architecture=TINY, options=options, is_global=TINY.is_global(i)
        )
        assert set(seen) == {"query", "attention_output", "ffw_gating", "ffw_linear"}
    expected = hidden_states(
        weights,
        {},
        BATCH.inputs,
        BATCH.positions,
        BATCH.segments,
        architecture=TINY,
        options=options,
    )
    found = rms_norm(x, weights["final_norm"], epsilon=TINY.norm_epsilon)
    is_text = BATCH.segments > 0
    np.testing.assert_allclose(found[is_text], expected[is_text], atol=1e-5)


def test_padding_counts_nothing(layers):
    noisy = BATCH._replace(inputs=np.where(BATCH.segments > 0, BATCH.inputs, 77))
    assert np.any(noisy.inputs != BATCH.inputs)
    jax.tree.map(np.testing.assert_array_equal, rounded([noisy]), layers)


def test_texts_in_one_batch_or_in_two_are_the_same_texts(layers):
    halves = [type(BATCH)(*(part[i : i + 1] for part in BATCH)) for i in range(2)]
    for one, two in zip(layers, rounded(halves), strict=True):
        for name, kernel in one.items():  # sums in another order: a code in a hundred may differ
            assert np.mean(kernel.codes == two[name].codes) > 0.99


def test_the_model_s_hidden_states_stay_nearer_than_by_nearest_levels(layers):
    """On the texts it was rounded on, of global and local layers, through every layer at once."""
    weights = tiny_weights()

    @jax.jit
    def states(blocks):
        return hidden_states(
            {**weights, "blocks": blocks},
            {},
            BATCH.inputs,
            BATCH.positions,
            BATCH.segments,
            architecture=TINY,
            options=ForwardOptions(),
        )

    exact = states(weights["blocks"])
    mended = {
        name: jnp.stack([dequantize(layer[name], FLOAT) for layer in layers]) for name in PRODUCTS
    }
    nearest = {
        name: dequantize(quantize_kernel(weights["blocks"][name], base=FORMAT.of(name)), FLOAT)
        for name in PRODUCTS
    }
    is_text = BATCH.segments > 0
    lost = [
        float(jnp.linalg.norm((states({**weights["blocks"], **kernels}) - exact)[is_text]))
        for kernels in (mended, nearest)
    ]
    assert lost[0] < 0.75 * lost[1]


def test_numbers_that_are_not_finite_are_no_kernels():
    """They would become the first level of every block, and nobody would hear of it."""
    leaves = dict(random_leaves(TINY, seed=0))
    leaves["blocks/ffw_gating"][1] = np.inf
    broken = opened()._replace(leaves=tuple(leaves.items()))
    layers = round_layers(broken, [BATCH], base=FORMAT, precision=FLOAT32)
    next(layers)
    with pytest.raises(ModelError, match=r"layer 1 .*not finite in float32.*base_rounding=nearest"):
        next(layers)


def test_mixed_layers_are_refused():

    mixed = dataclasses.replace(TINY, family="gemma4", global_head_size=32, global_kv_heads=1)
    strange = opened()._replace(architecture=mixed)
    with pytest.raises(ModelError, match=r"set lora\.base=float"):
        list(round_layers(strange, [BATCH], base=FORMAT, precision=FLOAT32))
