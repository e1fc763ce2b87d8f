"""The `tiny` model: random weights of real shape, for tests and dry runs. Answers nonsense."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.weights import leaf_shapes


def random_leaves(architecture: Architecture, *, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, float32 array) for every leaf, a function of architecture and seed alone.

    Matrices have a standard deviation of 1/sqrt(fan-in), the embedding of 1/sqrt(width), and norm
    scales are small but not zero, so that a test sees a scale that was forgotten.
    """
    for path, shape in leaf_shapes(architecture).items():
        # A leaf's values hang on its name, not on its place: adding a leaf changes no other.
        generator = np.random.default_rng([seed, zlib.crc32(path.encode())])
        values = generator.standard_normal(shape, np.float32)
        yield path, values * np.float32(_deviation(path, architecture))


def _deviation(path: str, architecture: Architecture) -> float:
    if path.endswith("norm"):
        return 0.1
    fan_in = {
        "blocks/attention_output": architecture.num_heads * architecture.head_size,
        "blocks/ffw_linear": architecture.feed_forward,
    }.get(path, architecture.width)
    return 1 / math.sqrt(fan_in)
