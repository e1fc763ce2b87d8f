"""What every export is asked: long enough to see windows, and answered as the model answers."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.export.probes import Probes, make_probes, own_logits
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from tests.export.small_model import SMALL, small_adapters, small_tokenizer, small_weights


@pytest.mark.parametrize(("changes", "window"), [({}, 16), ({"global_every": 1}, 512)])
def test_one_prompt_is_longer_than_the_window_and_is_looked_at_beyond_it(
    small_vocabulary, changes, window
):
    architecture = dataclasses.replace(SMALL, **changes)
    tokenizer = small_tokenizer(small_vocabulary)
    probes = make_probes(tokenizer, architecture)
    longest = probes.prompts[-1]
    assert len(longest) == 1 + window + window // 4
    for prompt, positions in zip(probes.prompts, probes.positions, strict=True):
        assert prompt[0] == tokenizer.bos_id
        assert not (prompt[1:] == tokenizer.bos_id).any()
        # From the first to the last, apart from one another.
        assert (positions[0], positions[-1]) == (0, len(prompt) - 1)
        assert (np.diff(positions) > 0).all()
        assert len(positions) == min(12, len(prompt))
    assert (probes.positions[-1] >= window).sum() >= 2


def test_logits_are_those_of_each_prompt_by_itself_and_capped(small_vocabulary):
    architecture = dataclasses.replace(SMALL, num_layers=2, global_every=2, final_soft_cap=3.0)
    weights = small_weights(architecture)
    adapters = small_adapters(architecture=architecture)
    made = make_probes(small_tokenizer(small_vocabulary), architecture)
    # The longest, and a short one that is looked at in fewer places.
    probes = Probes(
        (made.prompts[0][:5], made.prompts[-1]), (np.array([0, 3], np.int32), made.positions[-1])
    )
    options = ForwardOptions(lora_scale=2.0)
    model = SimpleNamespace(
        architecture=architecture, weights=weights, adapters=adapters, options=options
    )
    found = own_logits(model, probes)
    forward = jax.jit(functools.partial(hidden_states, architecture=architecture, options=options))
    for prompt, positions, logits in zip(probes.prompts, probes.positions, found, strict=True):
        row = jnp.asarray(prompt)[None]
        counted = jnp.arange(len(prompt), dtype=jnp.int32)[None]
        hidden = forward(weights, adapters, row, counted, jnp.ones_like(row))
        expected = np.asarray(hidden[0], np.float32)[positions] @ weights["embedding"].T
        assert np.abs(expected).max() > 3
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, 3 * np.tanh(expected / 3), atol=1e-4)
