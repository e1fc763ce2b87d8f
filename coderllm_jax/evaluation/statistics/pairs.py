"""Everything about two systems on the same items: `compare_pairs`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.statistics.clusters import Numbers, paired_differences, sum_clusters
from coderllm_jax.evaluation.statistics.intervals import (
    Bounds,
    bonett_price_interval,
    bootstrap_difference,
)
from coderllm_jax.evaluation.statistics.power import (
    detectable_binary_difference,
    detectable_mean_difference,
)
from coderllm_jax.evaluation.statistics.significance import (
    cohens_dz,
    mcnemar_exact,
    paired_odds_ratio,
    permutation_test,
)
from coderllm_jax.records import Estimate


class PairedComparison(NamedTuple):
    """Two systems on the same items.

    difference: mean of a - b with its interval. p_value: of no difference, not adjusted for other
    comparisons. effect_size: what `effect` names. detectable_difference: the smallest true
    difference that these items would have shown with 80 % power at 5 %; None where even the
    largest would not, or where nothing varies. num_better, num_worse: items where a is above, below
    b. num_clusters: what was independent.
    """

    difference: Estimate
    p_value: float
    test: Literal["mcnemar", "sign_flip"]
    effect_size: float | None
    effect: Literal["odds_ratio", "cohens_dz"]
    detectable_difference: float | None
    num_items: int
    num_clusters: int
    num_better: int
    num_worse: int


def compare_pairs(
    a: Numbers,
    b: Numbers,
    *,
    binary: bool,
    clusters: Sequence[Hashable] | None = None,
    bounds: Bounds | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Everything about the difference between two systems on the same items, a - b.

    binary, each item its own cluster: Bonett and Price's interval, exact McNemar, and the smallest
    difference it detects. Else, over clusters: paired bootstrap (BCa), sign-flip test, and the
    smallest difference that a t-test detects. bounds: what a score can be, see `bootstrap_mean`.

    The p-value decides; at its edge the interval, made by another method, may say otherwise.
    Without items there is no difference, and p is 1. Raises DataError where a and b are no pairs.
    """
    differences_I = paired_differences(a, b)
    if binary and not np.isin(np.concatenate([np.asarray(a), np.asarray(b)]), (0, 1)).all():
        raise DataError("binary pairs hold values besides 0 and 1; pass binary=False")
    sums_C, sizes_C = sum_clusters(differences_I, clusters)
    num_better = int(np.count_nonzero(differences_I > 0))
    num_worse = int(np.count_nonzero(differences_I < 0))
    independent = sums_C.size == differences_I.size
    if binary and independent:
        difference = bonett_price_interval(num_better, num_worse, differences_I.size)
        p_value = mcnemar_exact(num_better, num_worse)
        # One pair each way more, as for the interval: none seen is not none.
        discordance = (num_better + num_worse + 2) / (differences_I.size + 2)
        detectable = detectable_binary_difference(differences_I.size, discordance=discordance)
    else:
        difference = bootstrap_difference(
            a,
            b,
            clusters=clusters,
            bounds=(0.0, 1.0) if binary else bounds,
            num_resamples=num_resamples,
            seed=seed,
        )
        p_value = permutation_test(
            differences_I, clusters=clusters, num_resamples=num_resamples, seed=seed
        )
        detectable = detectable_mean_difference(
            sums_C.size, deviation=_cluster_deviation(sums_C, sizes_C)
        )
    return PairedComparison(
        difference=difference,
        p_value=p_value,
        test="mcnemar" if binary and independent else "sign_flip",
        effect_size=(
            paired_odds_ratio(num_better, num_worse) if binary else cohens_dz(differences_I)
        ),
        effect="odds_ratio" if binary else "cohens_dz",
        detectable_difference=detectable,
        num_items=differences_I.size,
        num_clusters=sums_C.size,
        num_better=num_better,
        num_worse=num_worse,
    )


def _cluster_deviation(sums_C: np.ndarray, sizes_C: np.ndarray) -> float:
    """Standard deviation of a cluster's contribution to the mean, as if clusters were items."""
    if sums_C.size < 2:
        return 0.0
    mean = sums_C.sum() / sizes_C.sum()
    influence_C = (sums_C - mean * sizes_C) / sizes_C.mean()
    return float(math.sqrt((influence_C**2).sum() / (sums_C.size - 1)))
