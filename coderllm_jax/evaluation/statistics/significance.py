"""p-values of paired differences, adjusted for being several, and how large a difference is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.statistics.clusters import Numbers, as_numbers, sum_clusters

_MOST_EXACT_FLIPS = 20  # 2**19 sums: 4 MB and some milliseconds
_BLOCK_DRAWS = 1 << 15  # what stays in a core's cache is drawn and summed three times as fast


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """p-value of McNemar's exact test: the pairs that differ fall either way with equal chance.

    McNemar 1947 (Psychometrika 12), with the binomial distribution instead of its approximation;
    1 where no pair differs. Covers: any number of pairs; it errs on the careful side. Does not
    cover: pairs that depend on one another (`permutation_test` by cluster does).
    """
    from scipy.special import bdtr

    if min(only_a, only_b) < 0:
        raise DataError(f"{only_a} and {only_b} pairs differ; expected counts")
    if only_a == only_b:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def permutation_test(
    differences: Numbers,
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """p-value of the sign-flip test of a mean difference of 0 (Fisher 1935; Good 2005).

    All flips of whole clusters where at most 20 of them are not 0, else `num_resamples` random
    ones, with the one that was seen among them (Phipson and Smyth 2010), so p is never 0.

    Covers: any distribution; the two systems are exchangeable within a pair. Does not cover: a
    difference in spread alone, which does not move the mean.
    """
    sums_C, _ = sum_clusters(as_numbers(differences, "differences"), clusters)
    sums_C = sums_C[sums_C != 0]  # flipping 0 changes nothing
    if sums_C.size == 0:
        return 1.0
    # What differs from the seen sum by rounding alone counts as equal to it.
    seen = abs(float(sums_C.sum())) - 1e-12 * float(np.abs(sums_C).sum())
    if sums_C.size <= _MOST_EXACT_FLIPS:
        flipped = sums_C[:1]  # by symmetry the first need not be flipped
        for value in sums_C[1:]:
            flipped = np.concatenate([flipped + value, flipped - value])
        return float(np.mean(np.abs(flipped) >= seen))
    generator = np.random.default_rng(seed)
    block_size = max(1, _BLOCK_DRAWS // sums_C.size)
    num_extreme = 0
    for start in range(0, num_resamples, block_size):
        size = min(block_size, num_resamples - start)
        keeps = generator.integers(0, 2, size=(size, sums_C.size), dtype=np.uint8)
        flipped = 2 * (keeps.astype(np.float64) @ sums_C) - sums_C.sum()
        num_extreme += int(np.count_nonzero(np.abs(flipped) >= seen))
    return (num_extreme + 1) / (num_resamples + 1)


def adjust_holm(p_values: Iterable[float]) -> tuple[float, ...]:
    """The p-values, in their order, adjusted for being several (Holm 1979, Scand. J. Stat. 6).

    Rejecting where an adjusted value is at most 5 % keeps the chance of any false alarm in the
    family at 5 %. Covers: any dependence between the tests. Does not cover: tests left out of it.
    """
    p_F = as_numbers(list(p_values), "p-values")
    if np.any((p_F < 0) | (p_F > 1)):
        raise DataError(f"a p-value is {p_F[(p_F < 0) | (p_F > 1)][0]:g}; expected 0 to 1")
    order = np.argsort(p_F, kind="stable")
    scaled = p_F[order] * (p_F.size - np.arange(p_F.size))
    adjusted = np.empty_like(p_F)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return tuple(float(p) for p in adjusted)


def cohens_dz(differences: Numbers) -> float | None:
    """Mean difference in standard deviations of the differences (Cohen 1988); None if none vary."""
    differences_I = as_numbers(differences, "differences")
    if differences_I.size < 2 or np.ptp(differences_I) == 0:
        return None
    return float(differences_I.mean() / differences_I.std(ddof=1))


def paired_odds_ratio(only_a: int, only_b: int) -> float:
    """Odds that a pair that differs does so in favour of a; half a pair added to each side.

    Conditional odds ratio of McNemar's table (Haldane 1956, Anscombe 1956 for the half): 1 is even.
    """
    return (only_a + 0.5) / (only_b + 0.5)


def cliffs_delta(a: Numbers, b: Numbers) -> float | None:
    """P(a > b) - P(a < b) over all pairs of a value of a and one of b (Cliff 1993); unpaired."""
    a_I, b_I = as_numbers(a, "a"), np.sort(as_numbers(b, "b"))
    if a_I.size == 0 or b_I.size == 0:
        return None
    below = np.searchsorted(b_I, a_I, side="left").sum()
    above = b_I.size * a_I.size - np.searchsorted(b_I, a_I, side="right").sum()
    return float(below - above) / (a_I.size * b_I.size)
