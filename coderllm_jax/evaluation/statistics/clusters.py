"""Values, weights and clusters as arrays, checked; what belongs together, summed.

values     1.0  0.0  1.0      weights  1  1  1      clusters  x  x  y
sums       1.0  1.0           sizes    2  1         in the order x, y
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from coderllm_jax.errors import DataError

Numbers = Sequence[float] | np.ndarray


def as_numbers(values: Numbers, name: str) -> np.ndarray:
    """The values [I] as float64; raises DataError for what is no list of finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataError(f"{name} are not a list of finite numbers; leave out what has no score")
    return array


def paired_differences(a: Numbers, b: Numbers) -> np.ndarray:
    """a - b [I], item by item."""
    a_I, b_I = as_numbers(a, "a"), as_numbers(b, "b")
    if a_I.size != b_I.size:
        raise DataError(f"{a_I.size} values against {b_I.size}; expected pairs of the same items")
    return a_I - b_I


def number_clusters(clusters: Sequence[Hashable] | None, num_items: int) -> tuple[np.ndarray, int]:
    """Each item's cluster as a number, in the order in which they first come; each its own."""
    if clusters is None:
        return np.arange(num_items), num_items
    if len(clusters) != num_items:
        raise DataError(f"{len(clusters)} clusters for {num_items} items; expected one each")
    numbers: dict[Hashable, int] = {}
    cluster_I = [numbers.setdefault(name, len(numbers)) for name in clusters]
    return np.array(cluster_I, dtype=int), len(numbers)


def sum_clusters(
    values_I: np.ndarray,
    clusters: Sequence[Hashable] | None,
    weights: Numbers | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The clusters' sums of weighted values, and of weights."""
    weights_I = np.ones_like(values_I) if weights is None else as_numbers(weights, "weights")
    if weights_I.size != values_I.size:
        raise DataError(f"{weights_I.size} weights for {values_I.size} values; expected one each")
    if np.any(weights_I <= 0):
        raise DataError("a weight is not above 0; leave its value out")
    cluster_I, num_clusters = number_clusters(clusters, values_I.size)
    sums_C = np.bincount(cluster_I, weights=values_I * weights_I, minlength=num_clusters)
    return sums_C, np.bincount(cluster_I, weights=weights_I, minlength=num_clusters)
