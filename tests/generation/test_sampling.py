"""Filters against a plain sort, draws against the distribution they are drawn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.errors import ConfigError
from coderllm_jax.generation import sampling as module
from coderllm_jax.generation.sampling import SamplingArrays, choose_tokens
from coderllm_jax.records import GREEDY, Sampling

VOCABULARY = 700  # more than the candidates that are looked at first


# Compiled once: a bare call would compile its branches every time.
choose, threshold_of = jax.jit(choose_tokens), jax.jit(module._threshold)


def arrays(*each: Sampling) -> SamplingArrays:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(SamplingArrays.of, each))


def kept_by_sorting(probability, sampling):
    """Which tokens all filters let through, one after another, as their papers say."""
    order = np.argsort(-probability, kind="stable")
    kept = order[: sampling.top_k or len(order)]
    if sampling.top_p < 1:
        share = probability[kept] / probability[kept].sum()
        before = np.cumsum(share) - share
        kept = kept[before < sampling.top_p]
    return {int(i) for i in kept if probability[i] >= sampling.min_p * probability.max()}


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0, 1, 5, 300]),
    st.sampled_from([1.0, 0.9, 0.3, 0.999]),
    st.sampled_from([0.0, 0.1, 0.6]),
    st.sampled_from([0.3, 1.0, 30.0]),
)
def test_filters_keep_what_sorting_would(seed, top_k, top_p, min_p, spread):
    asked = Sampling(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = np.random.default_rng(seed).normal(size=VOCABULARY) * spread
    probability = jax.nn.softmax(jnp.asarray(logits[None], jnp.float32))
    threshold = float(threshold_of(probability, arrays(asked))[0])
    # What has underflowed to 0 is never drawn, kept or not.
    drawable = np.asarray(probability[0]) > 0
    found = set(np.flatnonzero(drawable & (np.asarray(probability[0]) >= threshold)).tolist())
    expected = kept_by_sorting(np.asarray(probability[0], np.float64), asked)
    expected = {token for token in expected if drawable[token]}
    # A sum in float32 may put one token on the other side of top_p.
    assert len(found ^ expected) <= (asked.top_p < 1)


def test_a_threshold_is_the_row_s_own():
    """To the bit, beside a neighbour that needs more candidates than are looked at first."""
    logits = np.random.default_rng(0).normal(size=(40, VOCABULARY)) * 6
    peaked = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    flat = jnp.full_like(peaked, 1 / VOCABULARY)
    asked, wide = Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=1.0, top_p=0.99)
    alone = threshold_of(peaked, arrays(*[asked] * 40))
    rows = jnp.concatenate([peaked, flat])
    beside = threshold_of(rows, arrays(*[asked] * 40, *[wide] * 40))
    np.testing.assert_array_equal(beside[:40], alone)


def test_a_greedy_row_asks_for_no_candidates():
    """Whatever else it says: its neighbours would pay for them."""
    flat = jnp.full((1, VOCABULARY), 1 / VOCABULARY)
    assert threshold_of(flat, arrays(Sampling(temperature=0.0, top_k=3, top_p=0.5)))[0] == 0


def test_draws_follow_the_distribution():
    weights = np.array([0.0, 0.1, 0.0, 0.4, 0.2, 0.0, 0.3, 0.0], np.float32)
    uniform = (np.arange(20_000) + 0.5) / 20_000
    drawn = module._draw(jnp.broadcast_to(weights, (len(uniform), 8)), jnp.asarray(uniform))
    share = np.bincount(np.asarray(drawn), minlength=8) / len(uniform)
    np.testing.assert_allclose(share, weights, atol=1e-3)


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))])
@pytest.mark.parametrize("size", [1, 2, 700, 1025])
def test_what_has_no_weight_is_never_drawn(uniform, size):
    weights = np.zeros((1, size), np.float32)
    weights[0, size // 2] = 0.3
    assert int(module._draw(jnp.asarray(weights), jnp.array([uniform]))[0]) == size // 2


def test_greedy_takes_the_likeliest_and_the_penalty_what_was_not_said():
    logits = jnp.array([[1.0, 3.0, 2.5, -1.0]] * 2)
    seen = jnp.array([[False, True, False, False]] * 2)
    asked = arrays(GREEDY, Sampling(repetition_penalty=1.5))
    found = choose(logits, seen, jnp.zeros(2, jnp.int32), asked)
    assert found.tolist() == [1, 2]


def test_each_token_of_an_answer_is_drawn_anew_and_repeats_with_the_seed():
    logits = jnp.zeros((1, VOCABULARY))
    seen = jnp.zeros((1, VOCABULARY), bool)

    def draw(index, seed):
        asked = arrays(Sampling(temperature=1.0, seed=seed))
        return int(choose(logits, seen, jnp.array([index]), asked)[0])

    tokens = [draw(index, 3) for index in range(20)]
    assert tokens == [draw(index, 3) for index in range(20)]
    assert len(set(tokens)) > 15
    assert tokens != [draw(index, 4) for index in range(20)]


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=rf"^{name} is .*; expected "):
        Sampling(**changes)
