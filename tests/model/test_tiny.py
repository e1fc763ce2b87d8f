"""Random weights are a function of the seed, of sensible size, and independent of one another."""

from __future__ import annotations

import dataclasses

import numpy as np

from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import leaf_shapes


def test_shapes_and_seed():
    first, again = dict(random_leaves(TINY, seed=3)), dict(random_leaves(TINY, seed=3))
    other = dict(random_leaves(TINY, seed=4))
    assert {path: leaf.shape for path, leaf in first.items()} == leaf_shapes(TINY)
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, again[path])
        assert not np.array_equal(leaf, other[path])


def test_products_keep_their_size():
    """Unit inputs give outputs near one: no layer of a random model drowns the others."""
    leaves = dict(random_leaves(dataclasses.replace(TINY, width=256, feed_forward=512), seed=0))
    for path, fan_in in {"blocks/query": 256, "blocks/ffw_linear": 512, "embedding": 256}.items():
        assert 0.9 < leaves[path].std() * fan_in**0.5 < 1.1


def test_no_norm_scale_is_forgotten_by_being_zero():
    for path, leaf in random_leaves(TINY, seed=0):
        if path.endswith("norm"):
            assert np.abs(leaf).min() > 0


def test_a_leaf_does_not_depend_on_the_others():
    plain = dataclasses.replace(TINY, query_key_norm=False)
    with_norms, without = dict(random_leaves(TINY, seed=0)), dict(random_leaves(plain, seed=0))
    np.testing.assert_array_equal(with_norms["blocks/ffw_linear"], without["blocks/ffw_linear"])
