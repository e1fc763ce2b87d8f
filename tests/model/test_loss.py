"""The one-pass loss against the textbook one that holds every logit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.model import loss
from coderllm_jax.model.loss import HeadOptions, cross_entropy
from coderllm_jax.model.precision import FLOAT32, PRECISIONS

B, L, D, V = 3, 11, 16, 96


def inputs(seed=0, supervised=0.4):
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden = jax.random.normal(keys[0], (B, L, D))
    embedding = jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (B, L), 0, V)
    weights = (jax.random.uniform(keys[3], (B, L)) < supervised).astype(jnp.float32)
    return hidden, embedding, targets, weights


def textbook(hidden, embedding, targets, weights, *, soft_cap=0.0):
    logits = jnp.einsum("bld,vd->blv", hidden, embedding, precision="highest")
    if soft_cap:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    correct = (jnp.argmax(logits, -1) == targets) * (weights > 0)
    return -jnp.sum(picked * weights), jnp.sum(correct), jnp.sum(weights)


@pytest.mark.parametrize(
    ("supervised", "chunk", "block", "soft_cap"),
    [
        (0.4, 512, 1024, 0.0),  # one chunk, one block
        (0.4, 5, 32, 0.0),  # a last chunk that is not full
        (1.0, 11, 7, 0.0),  # a block size that does not divide the vocabulary
        (0.0, 5, 32, 0.0),  # nothing to learn from
        (0.4, 5, 32, 5.0),
    ],
)
def test_equals_the_textbook_and_its_gradient(supervised, chunk, block, soft_cap):
    check_against_the_textbook(
        supervised, soft_cap=soft_cap, tokens_per_chunk=chunk, vocabulary_block=block
    )


@pytest.mark.parametrize("supervised", [0.1, 0.3, 1.0])
def test_small_chunks_at_the_end_change_nothing(supervised):
    check_against_the_textbook(
        supervised, tokens_per_chunk=8, tokens_per_last_chunk=2, vocabulary_block=32
    )


def test_every_supervised_position_is_walked_once_in_few_chunks():
    options = HeadOptions(FLOAT32, tokens_per_chunk=8, tokens_per_last_chunk=2)

    @jax.jit
    def walk(weights):
        def count(rows, carry):
            seen, walked = carry
            return seen.at[rows].add(1, mode="drop"), walked + len(rows)

        nothing = jnp.zeros((3, 11), jnp.int32)
        chunks = loss._compact(jnp.zeros((3, 11, 4)), nothing, weights, options)
        return chunks.walk(count, (jnp.zeros(33, jnp.int32), 0))

    for number in range(34):
        weights = np.zeros(33, np.float32)
        weights[np.random.default_rng(number).permutation(33)[:number]] = 1
        seen, walked = walk(weights.reshape(3, 11))
        assert (np.asarray(seen)[weights > 0] == 1).all()
        # Up to half a chunk that is left costs what it needs; more costs one whole chunk.
        left = number % 8
        assert walked == number - left + (8 if left > 4 else 2 * ((left + 1) // 2))


def test_a_last_size_that_does_not_fit_is_left_out():
    arrays = jnp.zeros((1, 12, 4)), jnp.zeros((1, 12), jnp.int32), jnp.ones((1, 12))
    for last in (0, 4, 8, 12):
        options = HeadOptions(FLOAT32, tokens_per_chunk=12, tokens_per_last_chunk=last)
        assert loss._compact(*arrays, options).last_size == 12


def check_against_the_textbook(supervised, *, soft_cap=0.0, **sizes):
    args = inputs(supervised=supervised)
    options = HeadOptions(FLOAT32, soft_cap=soft_cap, train_embedding=True, **sizes)
    ours = functools.partial(cross_entropy, options=options)
    expected = textbook(*args, soft_cap=soft_cap)
    np.testing.assert_allclose(ours(*args), expected, rtol=1e-5, atol=1e-5)

    def gradients(loss):
        return jax.jit(jax.grad(lambda h, e: loss(h, e, *args[2:])[0], argnums=(0, 1)))(*args[:2])

    reference = gradients(functools.partial(textbook, soft_cap=soft_cap))
    for found, wanted in zip(gradients(ours), reference, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_right_tokens_are_counted():
    _, embedding, targets, _ = inputs()
    hidden = 50.0 * embedding[targets] / jnp.sum(jnp.square(embedding[targets]), -1, keepdims=True)
    hidden = jnp.where(jnp.arange(L)[None, :, None] < 6, hidden, -hidden)
    found = cross_entropy(
        hidden, embedding, targets, jnp.ones((B, L)), options=HeadOptions(FLOAT32)
    )
    assert float(found.correct) == float(textbook(hidden, embedding, targets, jnp.ones((B, L)))[1])
    assert 0 < float(found.correct) < B * L


def test_positions_without_weight_owe_no_gradient():
    hidden, embedding, targets, weights = inputs()
    options = HeadOptions(FLOAT32)
    gradient = jax.grad(
        lambda h: cross_entropy(h, embedding, targets, weights, options=options).loss
    )(hidden)
    assert not np.asarray(gradient)[np.asarray(weights) == 0].any()
    assert np.abs(np.asarray(gradient)[np.asarray(weights) > 0]).min(axis=-1).max() > 0


def test_fractional_weights_scale_their_position():
    hidden, embedding, targets, weights = inputs()
    options = HeadOptions(FLOAT32)
    half = cross_entropy(hidden, embedding, targets, weights * 0.5, options=options)
    whole = cross_entropy(hidden, embedding, targets, weights, options=options)
    np.testing.assert_allclose(half.loss * 2, whole.loss, rtol=1e-6)


def test_huge_logits_stay_finite():
    hidden, embedding, targets, weights = inputs()
    options = HeadOptions(FLOAT32, vocabulary_block=8)
    value, gradient = jax.value_and_grad(
        lambda h: cross_entropy(h, embedding, targets, weights, options=options).loss
    )(hidden * 1e4)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_mixed_operands_stay_near_float32():
    args = inputs(supervised=1.0)
    exact, short = (
        jax.value_and_grad(lambda h, p=p: cross_entropy(h, *args[1:], options=HeadOptions(p)).loss)(
            args[0]
        )
        for p in (FLOAT32, PRECISIONS["mixed"])
    )
    np.testing.assert_allclose(short[0], exact[0], rtol=5e-3)
    cosine = jnp.vdot(short[1], exact[1]) / jnp.linalg.norm(short[1]) / jnp.linalg.norm(exact[1])
    assert cosine > 0.9995


def test_never_holds_batch_by_length_by_vocabulary():
    vocabulary = 8192
    hidden = jax.ShapeDtypeStruct((4, 256, D), jnp.float32)
    embedding = jax.ShapeDtypeStruct((vocabulary, D), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 256), jnp.int32)
    weights = jax.ShapeDtypeStruct((4, 256), jnp.float32)
    options = HeadOptions(FLOAT32, tokens_per_chunk=128, vocabulary_block=512)
    gradient = jax.grad(lambda *args: cross_entropy(*args, options=options).loss)
    compiled = jax.jit(gradient).lower(hidden, embedding, targets, weights).compile()
    all_logits = 4 * 256 * vocabulary * 4
    assert compiled.memory_analysis().temp_size_in_bytes < all_logits / 8
