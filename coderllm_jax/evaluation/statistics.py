"""How sure a figure is, and whether two differ: intervals, paired tests, effect sizes, power.

Two systems answer the same questions; each question is a pair, questions that belong together
(the paraphrases of one, the samples of one problem) are a cluster:

    item       1    2    3    4    5  ...
    a          1.0  0.5  1.0  0.0  1.0
    b          1.0  0.0  0.5  0.0  0.0      a - b is what is compared: positive means a is better
    a - b      0.0  0.5  0.5  0.0  1.0
    cluster    x    x    y    y    z        resampled and sign-flipped as wholes

Covers: sampling of items (would other questions from where these came give the same?), few items,
skewed and bounded scores, clusters, many comparisons at once (`adjust_holm`). Does not cover: how
answers vary with the seed of sampling unless each item's samples are its cluster; items that are
not a fair sample of what users ask; looking again and again while items come in; dependence between
clusters. Everything that draws is a function of `seed`. Intervals are 95 % unless `level` says
otherwise; p-values are two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from coderllm_jax.errors import DataError
from coderllm_jax.records import Estimate

Method = Literal["bca", "percentile"]
Numbers = Sequence[float] | np.ndarray
Bounds = tuple[float, float]
_MOST_EXACT_FLIPS = 20  # 2**19 sums: 4 MB and some milliseconds
_BLOCK_DRAWS = 1 << 15  # what stays in a core's cache is drawn and summed three times as fast


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


# ------------------------------------------------------------------------------------ intervals


def wilson_interval(num_successes: int, num_trials: int, *, level: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22).

    Covers: few trials, none or all successful. Does not cover: trials that depend on one another.
    """
    if not 0 <= num_successes <= num_trials:
        raise DataError(
            f"{num_successes} successes of {num_trials} trials; expected 0 to as many as trials"
        )
    if num_trials == 0:
        return Estimate(None)
    z = _normal_quantile((1 + level) / 2)
    share = num_successes / num_trials
    middle = (share + z * z / (2 * num_trials)) / (1 + z * z / num_trials)
    half = z * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    half /= 1 + z * z / num_trials
    low = 0.0 if num_successes == 0 else middle - half
    high = 1.0 if num_successes == num_trials else middle + half
    return Estimate(share, low, high, num_trials)


def bootstrap_mean(
    values: Numbers,
    *,
    weights: Numbers | None = None,
    clusters: Sequence[Hashable] | None = None,
    bounds: Bounds | None = None,
    method: Method = "bca",
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Bootstrap interval of a mean over items, whole clusters resampled.

    weights: how much each value counts (a loss per token, by its tokens); above 0.

    method: bias-corrected and accelerated (Efron 1987, JASA 82) or plain percentiles. Both are
    taken at Hesterberg's (2015, Am. Stat. 69) expanded percentiles, because the bootstrap of few
    clusters is too narrow by sqrt((n-1)/n) and knows no t. bounds: the least and the most that a
    value can be; where all values are equal, they and Wilson's limit for 0 of n say how far the
    mean may be off; without them the interval is None.

    Covers: skew, clusters of unequal sizes. Does not cover: fewer than about 10 clusters, or values
    of which hardly any differ from the rest, where intervals are too narrow.
    """
    values_I = _checked(values, "values")
    sums_C, sizes_C = _by_cluster(values_I, clusters, weights)
    if values_I.size == 0:
        return Estimate(None)
    value = float(sums_C.sum() / sizes_C.sum())
    if np.ptp(sums_C / sizes_C) <= 1e-12 * max(1.0, abs(value)):
        interval = _interval_of_constant(value, sums_C.size, bounds, level)
        return Estimate(value, *interval, num_items=values_I.size)
    columns_CS = np.stack([sums_C, sizes_C], axis=1)
    blocks = _resample_totals(columns_CS, num_resamples=num_resamples, seed=seed)
    means_R = np.concatenate([totals_RS[:, 0] / totals_RS[:, 1] for totals_RS in blocks])
    shares = _expanded_shares(sums_C.size, level)
    if method == "bca":
        shares = _bca_shares(value, means_R, _jackknife(sums_C, sizes_C), shares)
    low, high = np.quantile(means_R, shares)
    return Estimate(value, float(low), float(high), values_I.size)


def bootstrap_difference(
    a: Numbers,
    b: Numbers,
    *,
    clusters: Sequence[Hashable] | None = None,
    bounds: Bounds | None = None,
    method: Method = "bca",
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Paired bootstrap of mean(a) - mean(b); `bounds` are those of a and b. See bootstrap_mean."""
    differences_I = _differences(a, b)
    widest = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return bootstrap_mean(
        differences_I,
        clusters=clusters,
        bounds=widest,
        method=method,
        level=level,
        num_resamples=num_resamples,
        seed=seed,
    )


def bonett_price_interval(
    only_a: int, only_b: int, num_pairs: int, *, level: float = 0.95
) -> Estimate:
    """Interval of a difference of paired proportions (Bonett and Price 2012, JEBS 37).

    only_a and only_b count the pairs in which one alone succeeds. Wald's interval with one such
    pair added to each side.

    Covers: few pairs, none that differ, where a bootstrap's interval would be empty. Does not
    cover: pairs that depend on one another.
    """
    if min(only_a, only_b) < 0 or only_a + only_b > num_pairs:
        raise DataError(
            f"{only_a} and {only_b} of {num_pairs} pairs differ; expected counts within the pairs"
        )
    if num_pairs == 0:
        return Estimate(None)
    share_a, share_b = (only_a + 1) / (num_pairs + 2), (only_b + 1) / (num_pairs + 2)
    middle = share_a - share_b
    half = _normal_quantile((1 + level) / 2) * math.sqrt(
        (share_a + share_b - middle**2) / (num_pairs + 2)
    )
    value = (only_a - only_b) / num_pairs
    return Estimate(value, max(-1.0, middle - half), min(1.0, middle + half), num_pairs)


def bootstrap_totals(
    columns_IS: np.ndarray,
    function: Callable[[np.ndarray], Numbers],
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Bootstrap interval of a function of column totals: corpus BLEU of n-gram counts, a ratio.

    columns_IS: one row an item, one column a sum that the statistic needs. `function` takes totals
    [R, S] and returns R values; its value for the columns as they are is the estimate. Percentiles,
    expanded as those of `bootstrap_mean`; Koehn 2004 for BLEU.
    """
    columns_IS = np.asarray(columns_IS, dtype=np.float64)
    num_items = len(columns_IS)
    if num_items == 0:
        return Estimate(None)
    cluster_I, num_clusters = _number_clusters(clusters, num_items)
    columns_CS = np.zeros((num_clusters, columns_IS.shape[1]))
    np.add.at(columns_CS, cluster_I, columns_IS)
    value = float(np.asarray(function(columns_CS.sum(axis=0, keepdims=True)))[0])
    if num_clusters < 2:
        return Estimate(value, num_items=num_items)
    blocks = _resample_totals(columns_CS, num_resamples=num_resamples, seed=seed)
    values_R = np.concatenate([np.asarray(function(totals_RS)) for totals_RS in blocks])
    low, high = np.quantile(values_R, _expanded_shares(num_clusters, level))
    return Estimate(value, float(low), float(high), num_items)


# ---------------------------------------------------------------------------------------- tests


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
    sums_C, _ = _by_cluster(_checked(differences, "differences"), clusters)
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
    p_F = _checked(list(p_values), "p-values")
    if np.any((p_F < 0) | (p_F > 1)):
        raise DataError(f"a p-value is {p_F[(p_F < 0) | (p_F > 1)][0]:g}; expected 0 to 1")
    order = np.argsort(p_F, kind="stable")
    scaled = p_F[order] * (p_F.size - np.arange(p_F.size))
    adjusted = np.empty_like(p_F)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return tuple(float(p) for p in adjusted)


# --------------------------------------------------------------------------------- effect sizes


def cohens_dz(differences: Numbers) -> float | None:
    """Mean difference in standard deviations of the differences (Cohen 1988); None if none vary."""
    differences_I = _checked(differences, "differences")
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
    a_I, b_I = _checked(a, "a"), np.sort(_checked(b, "b"))
    if a_I.size == 0 or b_I.size == 0:
        return None
    below = np.searchsorted(b_I, a_I, side="left").sum()
    above = b_I.size * a_I.size - np.searchsorted(b_I, a_I, side="right").sum()
    return float(below - above) / (a_I.size * b_I.size)


# ---------------------------------------------------------------------------------------- power


def detectable_mean_difference(
    num_pairs: int, *, deviation: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true mean difference that a paired t-test shows with `power` (Cohen 1988).

    deviation: standard deviation of the differences. By the noncentral t distribution, both tails.
    None where nothing varies or there are fewer than two pairs.
    """
    from scipy.special import nctdtr, stdtrit

    if num_pairs < 2 or deviation <= 0:
        return None
    freedom = num_pairs - 1
    limit = float(stdtrit(freedom, 1 - alpha / 2))

    def power_at(shift: float) -> float:
        return float(1 - nctdtr(freedom, shift, limit) + nctdtr(freedom, shift, -limit))

    shift = _least(power_at, power, high=limit + 40.0)
    return None if shift is None else shift * deviation / math.sqrt(num_pairs)


def detectable_binary_difference(
    num_pairs: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference of proportions that the exact McNemar test shows with `power`.

    discordance: the share of pairs that differ; where a difference is larger than that, it is the
    share. Exact: over the number of pairs that differ, then over how they fall (Lachin 1992 has
    the large-sample form). None where even a difference of 1 would not be shown (under 6 pairs at
    5 %).
    """
    from scipy.special import bdtr

    if num_pairs < 1:
        return None
    differ_M = np.arange(num_pairs + 1)
    least_M = _largest_rejected(differ_M, alpha)

    def power_at(difference: float) -> float:
        share = min(1.0, max(discordance, difference))
        chance_M = _binomial_mass(differ_M, num_pairs, share)
        for_a = min(1.0, (1 + difference / share) / 2)
        rejected_M = np.where(
            least_M >= 0,
            bdtr(np.maximum(least_M, 0), differ_M, 1 - for_a)
            + bdtr(np.maximum(least_M, 0), differ_M, for_a),
            0.0,
        )
        return float(chance_M @ rejected_M)

    return _least(power_at, power, high=1.0)


# --------------------------------------------------------------------------------------- a pair


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

    binary, each item its own cluster: Bonett and Price's interval, exact McNemar. Else: paired
    bootstrap (BCa) and sign-flip test over clusters. The p-value decides; at its edge an interval
    made by another method may say otherwise. Without items there is no difference, and p is 1.
    """
    differences_I = _differences(a, b)
    if binary and not np.isin(np.concatenate([np.asarray(a), np.asarray(b)]), (0, 1)).all():
        raise DataError("binary pairs hold values besides 0 and 1; pass binary=False")
    sums_C, sizes_C = _by_cluster(differences_I, clusters)
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


# ------------------------------------------------------------------------------------- the parts


def _checked(values: Numbers, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataError(f"{name} are not a list of finite numbers; leave out what has no score")
    return array


def _differences(a: Numbers, b: Numbers) -> np.ndarray:
    a_I, b_I = _checked(a, "a"), _checked(b, "b")
    if a_I.size != b_I.size:
        raise DataError(f"{a_I.size} values against {b_I.size}; expected pairs of the same items")
    return a_I - b_I


def _number_clusters(clusters: Sequence[Hashable] | None, num_items: int) -> tuple[np.ndarray, int]:
    """Each item's cluster as a number, in the order in which they first come; each its own."""
    if clusters is None:
        return np.arange(num_items), num_items
    if len(clusters) != num_items:
        raise DataError(f"{len(clusters)} clusters for {num_items} items; expected one each")
    numbers: dict[Hashable, int] = {}
    cluster_I = [numbers.setdefault(name, len(numbers)) for name in clusters]
    return np.array(cluster_I, dtype=int), len(numbers)


def _by_cluster(
    values_I: np.ndarray,
    clusters: Sequence[Hashable] | None,
    weights: Numbers | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The clusters' sums of weighted values, and of weights."""
    weights_I = np.ones_like(values_I) if weights is None else _checked(weights, "weights")
    if weights_I.size != values_I.size:
        raise DataError(f"{weights_I.size} weights for {values_I.size} values; expected one each")
    if np.any(weights_I <= 0):
        raise DataError("a weight is not above 0; leave its value out")
    cluster_I, num_clusters = _number_clusters(clusters, values_I.size)
    sums_C = np.bincount(cluster_I, weights=values_I * weights_I, minlength=num_clusters)
    return sums_C, np.bincount(cluster_I, weights=weights_I, minlength=num_clusters)


def _resample_totals(
    columns_CS: np.ndarray, *, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Blocks [R, S] of column totals over C rows drawn with replacement."""
    num_rows = columns_CS.shape[0]
    generator = np.random.default_rng(seed)
    block_size = max(1, _BLOCK_DRAWS // num_rows)
    kind = np.uint16 if num_rows <= 1 << 16 else np.int64  # short integers are drawn faster
    for start in range(0, num_resamples, block_size):
        size = min(block_size, num_resamples - start)
        drawn = generator.integers(0, num_rows, size=(size, num_rows), dtype=kind)
        places = drawn + np.arange(size, dtype=np.int64)[:, None] * num_rows
        counts = np.bincount(places.ravel(), minlength=size * num_rows)
        yield counts.reshape(size, num_rows).astype(np.float64) @ columns_CS


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


def _expanded_shares(num_clusters: int, level: float) -> tuple[float, float]:
    from scipy.special import ndtr, stdtrit

    t = stdtrit(num_clusters - 1, (1 + level) / 2) * math.sqrt(num_clusters / (num_clusters - 1))
    return float(ndtr(-t)), float(ndtr(t))


def _jackknife(sums_C: np.ndarray, sizes_C: np.ndarray) -> np.ndarray:
    """The mean without each cluster in turn."""
    return (sums_C.sum() - sums_C) / (sizes_C.sum() - sizes_C)


def _bca_shares(
    value: float, means_R: np.ndarray, left_out_C: np.ndarray, shares: tuple[float, float]
) -> tuple[float, float]:
    """Which percentiles to take instead of `shares` (Efron 1987, equations 2.3 and 6.6)."""
    from scipy.special import ndtr, ndtri

    # Means of few distinct values tie with the one that was seen: half of them count as below.
    slack = 1e-12 * max(1.0, abs(value))
    below = np.mean(means_R < value - slack) + np.mean(np.abs(means_R - value) <= slack) / 2
    bias = float(ndtri(np.clip(below, 1 / means_R.size, 1 - 1 / means_R.size)))
    pull_C = left_out_C.mean() - left_out_C
    acceleration = float((pull_C**3).sum() / (6 * (pull_C**2).sum() ** 1.5))
    # Of two or three clusters the percentiles are beyond what a double tells from 1.
    z = bias + ndtri(np.clip(shares, 1e-16, 1 - 1e-16))
    low, high = ndtr(bias + z / (1 - acceleration * z))
    return float(low), float(high)


def _interval_of_constant(
    value: float, num_clusters: int, bounds: Bounds | None, level: float
) -> tuple[float | None, float | None]:
    """Of values that are all equal: up to Wilson's limit for 0 of n may be anything else."""
    if bounds is None:
        return None, None
    least, most = bounds
    if not least <= value <= most:
        raise DataError(f"a value is {value:g}; expected {least:g} to {most:g}, as its bounds say")
    share = wilson_interval(0, num_clusters, level=level).high
    assert share is not None
    return value - share * (value - least), value + share * (most - value)


def _cluster_deviation(sums_C: np.ndarray, sizes_C: np.ndarray) -> float:
    """Standard deviation of a cluster's contribution to the mean, as if clusters were items."""
    if sums_C.size < 2:
        return 0.0
    mean = sums_C.sum() / sizes_C.sum()
    influence_C = (sums_C - mean * sizes_C) / sizes_C.mean()
    return float(math.sqrt((influence_C**2).sum() / (sums_C.size - 1)))


def _largest_rejected(differ_M: np.ndarray, alpha: float) -> np.ndarray:
    """For each number of pairs that differ, the largest smaller side that is significant, or -1."""
    from scipy.special import bdtr

    least_M = np.full(differ_M.size, -1)
    side = 0
    for place, differ in enumerate(differ_M):
        while side <= differ and 2 * bdtr(side, differ, 0.5) <= alpha:
            side += 1
        least_M[place] = side - 1
    return least_M


def _binomial_mass(successes: np.ndarray, trials: int, share: float) -> np.ndarray:
    from scipy.special import gammaln, xlog1py, xlogy

    log_mass = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
    return np.exp(log_mass + xlogy(successes, share) + xlog1py(trials - successes, -share))


def _least(power_at: Callable[[float], float], power: float, *, high: float) -> float | None:
    """The least argument up to `high` at which a rising function reaches `power`."""
    if power_at(high) < power:
        return None
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if power_at(middle) < power:
            low = middle
        else:
            high = middle
    return high
