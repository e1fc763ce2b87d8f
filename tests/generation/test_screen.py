"""The screen finds the token that all logits would give, and knows when it cannot."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.generation import screen as module
from coderllm_jax.generation.network import DecodeWeights, head_logits
from coderllm_jax.generation.sampling import likeliest
from coderllm_jax.generation.screen import make_screen, screened_likeliest
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.precision import PRECISIONS

VOCABULARY, WIDTH, ROWS = 6_000, 64, 4
GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
TABLE *= GENERATOR.uniform(0.2, 3.0, size=(VOCABULARY, 1)).astype(np.float32)
EVERYBODY = np.ones(ROWS, bool)


def weights_of(table, precision):
    return DecodeWeights(jnp.asarray(table, precision.weights), jnp.zeros(WIDTH), (), ())


@functools.cache
def programs(name, cap=0.0):
    arguments = {
        "architecture": dataclasses.replace(TINY, final_soft_cap=cap),
        "options": ForwardOptions(precision=PRECISIONS[name]),
    }
    whole = jax.jit(lambda w, h: likeliest(head_logits(w, h, **arguments)))
    return whole, jax.jit(functools.partial(screened_likeliest, **arguments))


def peaked(count, seed, sharpness):
    """Hidden states that point at a token, more or less, with a few large entries."""
    generator = np.random.default_rng(seed)
    states = (
        generator.normal(size=(count, WIDTH))
        + sharpness * TABLE[generator.integers(0, VOCABULARY, count)]
    )
    states[:, :2] *= 10
    return states.astype(np.float32)


@pytest.mark.parametrize(("name", "cap"), [("float32", 0.0), ("float32", 1e3), ("mixed", 0.0)])
def test_the_same_token_as_from_all_logits(name, cap):
    weights = weights_of(TABLE, PRECISIONS[name])
    screen = make_screen(weights.embedding, precision=PRECISIONS[name])
    whole, screened = programs(name, cap)
    for seed in range(30):
        hidden = peaked(ROWS, seed, sharpness=(0.0, 0.3, 2.0)[seed % 3])
        found = screened(weights, screen, hidden, EVERYBODY)
        assert found.tolist() == whole(weights, hidden).tolist()


def test_bounds_hold_for_every_token():
    screen = make_screen(jnp.asarray(TABLE), precision=PRECISIONS["float32"])
    hidden = peaked(50, 1, 1.0)
    high, best_low = jax.jit(module._bounds)(screen, hidden)
    exact = hidden.astype(np.float64) @ TABLE.T.astype(np.float64)
    assert (exact <= np.asarray(high)).all()
    assert (np.asarray(best_low) <= exact.max(axis=1)).all()
    # And they are worth having: a bound that lets everything through would screen nothing.
    assert np.median((np.asarray(high) >= np.asarray(best_low)[:, None]).sum(axis=1)) < 20


def fallbacks(monkeypatch, table, hidden, active):
    """The tokens found, and how often all logits were computed for them."""
    calls = []

    def counted(*arguments, **options):
        jax.debug.callback(lambda: calls.append(1))
        return head_logits(*arguments, **options)

    monkeypatch.setattr(module, "head_logits", counted)
    options = ForwardOptions()
    weights = weights_of(table, options.precision)
    screen = make_screen(weights.embedding, precision=options.precision)
    found = jax.jit(
        lambda h, a: screened_likeliest(weights, screen, h, a, architecture=TINY, options=options)
    )(hidden, active)
    jax.effects_barrier()
    return found.tolist(), len(calls)


def test_more_tokens_that_could_win_than_are_looked_at_make_it_compute_all(monkeypatch):
    alike = TABLE.copy()
    alike[1_000:3_000] = 4 * np.abs(TABLE[7])
    hidden = np.abs(peaked(ROWS, 2, 1.0))
    found, num_whole = fallbacks(monkeypatch, alike, hidden, EVERYBODY)
    assert found == [1_000] * ROWS  # the first of equals
    assert num_whole == 1


def test_idle_rows_decide_nothing(monkeypatch):
    hidden = peaked(ROWS, 3, 3.0)
    hidden[1] = 0.0  # every token could win
    assert fallbacks(monkeypatch, TABLE, hidden, EVERYBODY)[1] == 1
    found, num_whole = fallbacks(monkeypatch, TABLE, hidden, np.array([True, False, True, True]))
    assert num_whole == 0
    expected = (hidden @ TABLE.T).argmax(axis=1)
    assert [found[row] for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]


def test_tokens_that_are_nothing_stay_nothing():
    table = TABLE.copy()
    table[5_000:] = 0.0
    screen = make_screen(jnp.asarray(table), precision=PRECISIONS["float32"])
    assert all(np.isfinite(leaf).all() for leaf in screen)
    whole, screened = programs("float32")
    weights = weights_of(table, PRECISIONS["float32"])
    hidden = -np.abs(peaked(ROWS, 4, 0.0))
    assert screened(weights, screen, hidden, EVERYBODY).tolist() == whole(weights, hidden).tolist()
