"""Intervals cover, tests keep their promise, and each equals what others compute."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.statistics import (
    adjust_holm,
    bonett_price_interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_totals,
    cliffs_delta,
    cohens_dz,
    compare_pairs,
    detectable_binary_difference,
    detectable_mean_difference,
    mcnemar_exact,
    paired_odds_ratio,
    permutation_test,
    significance,
    wilson_interval,
)
from coderllm_jax.records import Estimate


def draw_scores(generator: np.random.Generator, size: int) -> np.ndarray:
    """Like fact F1: many 0, many 1, some between; mean 0.425 by the numbers below."""
    kind = generator.random(size)
    return np.where(kind < 0.4, 0.0, np.where(kind < 0.65, 1.0, generator.choice([0.4, 0.6], size)))


SCORES_MEAN = 0.25 + 0.35 * 0.5


# ------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize("num_trials", [1, 10, 164])
def test_wilson_equals_scipy(num_trials):
    for num_successes in range(num_trials + 1):
        theirs = stats.binomtest(num_successes, num_trials).proportion_ci(method="wilson")
        ours = wilson_interval(num_successes, num_trials)
        assert ours.value == num_successes / num_trials
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand():
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10).high == pytest.approx(z2 / (10 + z2))  # 0.2775
    assert wilson_interval(0, 0) == Estimate(None)
    with pytest.raises(DataError, match="11 successes of 10 trials"):
        wilson_interval(11, 10)


def test_the_bootstrap_equals_scipys():
    values = np.random.default_rng(0).exponential(size=150)
    for method in ("percentile", "bca"):
        ours = bootstrap_mean(values, method=method)
        theirs = stats.bootstrap(
            (values,), np.mean, method=method, n_resamples=9999, rng=np.random.default_rng(1)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert ours.value == pytest.approx(values.mean())
        # Expanding percentiles for 150 items widens by 1.1 %; the rest is the draws' noise.
        assert abs(ours.low - theirs.low) < 0.03 * width
        assert abs(ours.high - theirs.high) < 0.03 * width


def test_bca_leans_to_the_long_tail():
    values = np.random.default_rng(0).exponential(size=40)
    plain, leaning = bootstrap_mean(values, method="percentile"), bootstrap_mean(values)
    assert leaning.low > plain.low
    assert leaning.high > plain.high


def test_a_seed_decides_the_draws():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(list(values), seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    shifted = values - 0.4
    assert permutation_test(shifted, seed=1) == permutation_test(shifted, seed=1)
    assert permutation_test(shifted, seed=1) != permutation_test(shifted, seed=2)


def test_copies_in_a_cluster_add_nothing():
    values = np.random.default_rng(0).random(40)
    once = bootstrap_mean(values)
    copied, clusters = np.repeat(values, 5), np.repeat(np.arange(40), 5)
    clustered = bootstrap_mean(copied, clusters=clusters)
    assert clustered[:3] == pytest.approx(once[:3])
    assert clustered.num_items == 200
    taken_for_items = bootstrap_mean(copied)
    assert taken_for_items.high - taken_for_items.low < 0.6 * (once.high - once.low)


def test_clusters_of_unequal_sizes_weigh_by_their_items():
    found = bootstrap_mean([1.0, 1.0, 1.0, 0.0], clusters=["a", "a", "a", "b"])
    assert found.value == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # twice the one, or twice the other


def test_weights_make_a_ratio_of_sums():
    nats, tokens = np.array([10.0, 3.0, 8.0]), np.array([5.0, 3.0, 2.0])
    weighted = bootstrap_mean(nats / tokens, weights=tokens)
    assert weighted.value == pytest.approx(21 / 10)
    totals = bootstrap_totals(
        np.stack([nats, tokens], axis=1), lambda t: t[:, 0] / t[:, 1], num_resamples=10_000
    )
    assert totals.value == pytest.approx(21 / 10)
    plain = bootstrap_mean(nats / tokens, weights=tokens, method="percentile")
    assert (totals.low, totals.high) == pytest.approx((plain.low, plain.high))


def test_what_never_varies_is_not_certain():
    assert bootstrap_mean([0.0] * 20) == Estimate(0.0, None, None, 20)
    of_bounded = bootstrap_mean([0.0] * 20, bounds=(0, 1))
    assert of_bounded.low == 0
    assert of_bounded.high == pytest.approx(wilson_interval(0, 20).high)
    certain = bootstrap_difference([0.4] * 20, [0.4] * 20, bounds=(0, 1))
    assert -certain.low == certain.high == pytest.approx(wilson_interval(0, 20).high)
    # Copies are one thing that was seen, not twenty.
    assert bootstrap_mean([0.0] * 20, bounds=(0, 1), clusters=[1] * 20).high > 0.75
    # Means of clusters that never vary, of items that do.
    assert bootstrap_mean([0.0, 1.0, 0.0, 1.0], clusters=[1, 1, 2, 2]).low is None
    with pytest.raises(DataError, match="as its bounds say"):
        bootstrap_mean([2.0] * 5, bounds=(0, 1))


def test_nothing_and_one():
    assert bootstrap_mean([]) == Estimate(None)
    assert bootstrap_mean([3.0]) == Estimate(3.0, num_items=1)
    assert bootstrap_mean([3.0, 4.0], clusters=["a", "a"]) == Estimate(3.5, num_items=2)
    assert bootstrap_totals(np.zeros((0, 2)), lambda t: t[:, 0]) == Estimate(None)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.2, 1.0], [0.0, 0.0, 1.0]])
def test_two_or_three_items_say_little_but_something(values):
    found = bootstrap_mean(values)
    assert min(values) <= found.low < found.value < found.high <= max(values)


@pytest.mark.parametrize("values", [[1.0, math.nan], [[1.0]], [math.inf]])
def test_what_is_no_score_is_refused(values):
    with pytest.raises(DataError, match="leave out what has no score"):
        bootstrap_mean(values)


def test_everything_has_to_pair():
    with pytest.raises(DataError, match="2 values against 1"):
        bootstrap_difference([1, 2], [1])
    with pytest.raises(DataError, match="1 clusters for 2"):
        bootstrap_mean([1, 2], clusters=["a"])
    with pytest.raises(DataError, match="3 weights for 2"):
        bootstrap_mean([1, 2], weights=[1, 1, 1])
    with pytest.raises(DataError, match="not above 0"):
        bootstrap_mean([1, 2], weights=[1, 0])


def test_intervals_of_means_cover():
    generator = np.random.default_rng(1)
    num_covered, num_runs = 0, 1500
    for run in range(num_runs):
        found = bootstrap_mean(draw_scores(generator, 60), num_resamples=600, seed=run)
        num_covered += found.low <= SCORES_MEAN <= found.high
    assert 0.93 <= num_covered / num_runs <= 0.97


def test_intervals_of_clustered_differences_cover_and_unclustered_do_not():
    """40 questions in 4 paraphrases each: a question's paraphrases share most of what they are."""
    generator = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), 4)
    num_covered, num_taken_for_items, num_runs = 0, 0, 1000
    for run in range(num_runs):
        shared, noise = generator.normal(size=40), generator.normal(size=160)
        differences = 0.1 + np.repeat(shared, 4) + 0.5 * noise
        b = generator.random(160)
        a = b + differences
        of_clusters = bootstrap_difference(a, b, clusters=clusters, num_resamples=600, seed=run)
        num_covered += of_clusters.low <= 0.1 <= of_clusters.high
        if run < 200:
            of_items = bootstrap_difference(a, b, num_resamples=200, seed=run)
            num_taken_for_items += of_items.low <= 0.1 <= of_items.high
    assert 0.93 <= num_covered / num_runs <= 0.97
    assert num_taken_for_items / 200 < 0.8


@pytest.mark.parametrize(
    ("only_a", "only_b", "num_pairs"), [(0.2, 0.1, 100), (0.05, 0.05, 300), (0.3, 0.2, 50)]
)
def test_intervals_of_paired_proportions_cover(only_a, only_b, num_pairs):
    table = np.random.default_rng(3).multinomial(
        num_pairs, [only_a, only_b, 1 - only_a - only_b], size=4000
    )
    found = [bonett_price_interval(int(a), int(b), num_pairs) for a, b, _ in table]
    covered = np.mean([each.low <= only_a - only_b <= each.high for each in found])
    assert 0.93 <= covered <= 0.97


def test_bonett_price_by_hand():
    found = bonett_price_interval(3, 1, 18)  # (3 + 1) / 20 and (1 + 1) / 20
    half = 1.959963984540054 * math.sqrt((0.3 - 0.1**2) / 20)
    assert found == pytest.approx((2 / 18, 0.1 - half, 0.1 + half, 18))
    none_differ = bonett_price_interval(0, 0, 300)
    assert none_differ.low < 0 < none_differ.high
    assert bonett_price_interval(2, 0, 2).high == 1  # no difference is larger
    assert bonett_price_interval(0, 0, 0) == Estimate(None)
    with pytest.raises(DataError, match="2 and 1 of 2 pairs"):
        bonett_price_interval(2, 1, 2)


# ---------------------------------------------------------------------------------------- tests


def test_mcnemar_equals_the_binomial_test():
    for only_a, only_b in itertools.product(range(13), repeat=2):
        both = only_a + only_b
        expected = stats.binomtest(only_a, both).pvalue if both else 1.0
        assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_by_hand():
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(1, 0) == 1
    assert mcnemar_exact(6, 0) == 2 / 64
    assert mcnemar_exact(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)


def test_sign_flips_by_hand():
    assert permutation_test([1, 1, 1]) == 2 / 8
    assert permutation_test([1, -1]) == 1
    assert permutation_test([2, 1]) == 2 / 4
    assert permutation_test([0.0, 0.0]) == permutation_test([]) == 1
    assert permutation_test([1, 1, 1, 0, 0]) == 2 / 8  # flipping 0 changes nothing
    # a flips as a whole and is 0; b is 4, alone, and may be -4.
    assert permutation_test([1, -1, 2, 2], clusters=["a", "a", "b", "b"]) == 1


def test_sign_flips_equal_all_of_them_counted():
    generator = np.random.default_rng(0)
    for _ in range(20):
        values = generator.normal(0.4, size=9).round(1)
        sums = [np.dot(signs, values) for signs in itertools.product((1, -1), repeat=9)]
        expected = np.mean(np.abs(sums) >= abs(values.sum()) - 1e-9)
        assert permutation_test(values) == pytest.approx(expected)


def test_rounding_does_not_decide_a_tie():
    assert sum([0.1, 0.2, -0.3]) != 0
    assert permutation_test([0.1, 0.2, -0.3]) == 1


def test_random_flips_agree_with_all_flips(monkeypatch):
    values = np.random.default_rng(0).normal(0.3, size=18)
    exact = permutation_test(values)
    monkeypatch.setattr(significance, "_MOST_EXACT_FLIPS", 5)
    drawn = permutation_test(values, num_resamples=40_000)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 40_000))
    assert permutation_test([1.0] * 300, num_resamples=999) == 1 / 1000  # never 0


def test_holm_by_hand():
    assert adjust_holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx(
        (0.04, 0.09, 0.09, 0.025, 0.5)
    )
    assert adjust_holm([0.6, 0.7]) == (1.0, 1.0)
    assert adjust_holm([]) == ()
    with pytest.raises(DataError, match=r"a p-value is 1\.5"):
        adjust_holm([0.1, 1.5])
    with pytest.raises(DataError):
        adjust_holm([math.nan])


def test_equal_systems_are_rarely_told_apart():
    """1,000 comparisons of a system with itself, in four figures each, adjusted as a family."""
    generator = np.random.default_rng(5)
    plain, adjusted, num_runs = 0, 0, 1000
    for run in range(num_runs):
        p_values = []
        for _ in range(2):
            differ = generator.multinomial(80, [0.15, 0.15, 0.7])
            p_values.append(mcnemar_exact(int(differ[0]), int(differ[1])))
        for _ in range(2):
            a, b = draw_scores(generator, 50), draw_scores(generator, 50)
            p_values.append(permutation_test(a - b, num_resamples=499, seed=run))
        plain += min(p_values) <= 0.05
        adjusted += min(adjust_holm(p_values)) <= 0.05
    assert plain / num_runs > 0.1  # what looking four times costs
    assert adjusted / num_runs < 0.05


# -------------------------------------------------------------------------------- effects, power


def test_effect_sizes_by_hand():
    assert cohens_dz([1, 2, 3]) == 2
    assert cohens_dz([1, 1]) is None
    assert cohens_dz([1]) is None
    assert paired_odds_ratio(10, 2) == 10.5 / 2.5
    assert paired_odds_ratio(0, 0) == 1
    assert cliffs_delta([3, 4], [1, 3]) == 3 / 4  # three of four pairs above, one equal
    assert cliffs_delta([], [1]) is None
    a, b = np.random.default_rng(0).integers(0, 6, size=(2, 30))
    assert cliffs_delta(a, b) == pytest.approx(np.sign(a[:, None] - b[None, :]).mean())


@pytest.mark.parametrize(
    ("num_pairs", "deviation", "expected"),
    # statsmodels 0.15.0, TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * deviation
    [
        (34, 1.0, 0.4950291315),
        (100, 0.3, 0.0848735136),
        (20, 2.0, 1.3208833089),
        (300, 0.4, 0.0649084866),
        (5, 1.0, 1.6819970833),
    ],
)
def test_detectable_means_equal_statsmodels(num_pairs, deviation, expected):
    found = detectable_mean_difference(num_pairs, deviation=deviation)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_detectable_difference_is_detected():
    generator = np.random.default_rng(0)
    for discordance in (0.0, 0.3):
        difference = detectable_binary_difference(300, discordance=discordance)
        share = max(discordance, difference)
        table = generator.multinomial(
            300, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=3000
        )
        power = np.mean([mcnemar_exact(int(a), int(b)) <= 0.05 for a, b, _ in table])
        assert power == pytest.approx(0.8, abs=0.03)


def test_more_pairs_detect_smaller_differences():
    by_size = [detectable_binary_difference(n, discordance=0.2) for n in (10, 50, 200, 1000)]
    assert by_size == sorted(by_size, reverse=True)
    by_discordance = [detectable_binary_difference(200, discordance=d) for d in (0.0, 0.1, 0.5, 1)]
    assert by_discordance == sorted(by_discordance)
    # Even five of five is p = 2 / 32; six of six is 2 / 64.
    assert detectable_binary_difference(5, discordance=1) is None
    assert detectable_binary_difference(6, discordance=0) == pytest.approx(0.8 ** (1 / 6))
    assert detectable_binary_difference(0, discordance=0) is None
    assert detectable_mean_difference(1, deviation=1) is None
    assert detectable_mean_difference(10, deviation=0) is None


# --------------------------------------------------------------------------------------- a pair


def test_binary_pairs():
    a, b = [1] * 40 + [0] * 10 + [1] * 10, [1] * 40 + [0] * 10 + [0] * 10
    found = compare_pairs(a, b, binary=True)
    assert found.difference == bonett_price_interval(10, 0, 60)
    assert found.p_value == 2 / 1024
    assert (found.test, found.effect, found.effect_size) == ("mcnemar", "odds_ratio", 21.0)
    assert (found.num_items, found.num_clusters) == (60, 60)
    assert (found.num_better, found.num_worse) == (10, 0)
    assert found.detectable_difference == pytest.approx(
        detectable_binary_difference(60, discordance=12 / 62)
    )


def test_scores_in_pairs():
    generator = np.random.default_rng(0)
    b = draw_scores(generator, 80)
    a = np.clip(b + generator.choice([0, 0, 0.2], 80), 0, 1)
    found = compare_pairs(a, b, binary=False, bounds=(0, 1), seed=3)
    assert found.difference == bootstrap_difference(a, b, seed=3)
    assert found.p_value == permutation_test(a - b, seed=3)
    assert found.effect_size == pytest.approx(cohens_dz(a - b))
    assert found.detectable_difference == pytest.approx(
        detectable_mean_difference(80, deviation=(a - b).std(ddof=1))
    )
    assert (found.test, found.effect) == ("sign_flip", "cohens_dz")


@pytest.mark.parametrize("binary", [True, False])
def test_the_other_way_round_is_the_opposite(binary):
    a, b = np.random.default_rng(0).integers(0, 2, size=(2, 60)).astype(float)
    one, other = compare_pairs(a, b, binary=binary), compare_pairs(b, a, binary=binary)
    assert one.difference.value == -other.difference.value
    assert one.difference.low == pytest.approx(-other.difference.high, abs=0.01)
    assert one.p_value == other.p_value
    assert one.num_better == other.num_worse


def test_clusters_are_what_is_independent():
    """Ten samples of each of 12 problems: that is 12 pieces of evidence, not 120."""
    generator = np.random.default_rng(0)
    a = np.repeat(generator.integers(0, 2, size=12), 10)
    b = np.repeat(generator.integers(0, 2, size=12), 10)
    problems = np.repeat(np.arange(12), 10)
    found = compare_pairs(a, b, binary=True, clusters=problems)
    assert (found.test, found.num_items, found.num_clusters) == ("sign_flip", 120, 12)
    assert found.p_value == permutation_test((a - b)[::10])
    one_each = compare_pairs(a[::10], b[::10], binary=False)
    assert found.detectable_difference == pytest.approx(one_each.detectable_difference)
    assert found.detectable_difference > compare_pairs(a, b, binary=True).detectable_difference


def test_a_system_and_itself():
    answers = [1, 0, 1, 1] * 25
    found = compare_pairs(answers, answers, binary=True)
    assert found.p_value == 1
    assert found.difference.low < 0 == found.difference.value < found.difference.high
    # 100 pairs of which none differ could still have missed a difference of several points.
    assert 0.02 < found.detectable_difference < 0.15
    scores = compare_pairs(answers, answers, binary=False, bounds=(0, 1))
    assert (scores.p_value, scores.effect_size) == (1, None)
    assert scores.difference.high == pytest.approx(wilson_interval(0, 100).high)
    assert compare_pairs(answers, answers, binary=False).difference.low is None


def test_no_pairs():
    for binary in (True, False):
        found = compare_pairs([], [], binary=binary)
        assert found.difference == Estimate(None)
        assert (found.p_value, found.detectable_difference, found.num_items) == (1, None, 0)


def test_pairs_that_are_none():
    with pytest.raises(DataError, match="besides 0 and 1"):
        compare_pairs([0.5], [1], binary=True)
    with pytest.raises(DataError, match="expected pairs"):
        compare_pairs([1, 0], [1], binary=True)


def test_a_planted_drop_is_found_and_none_is_not():
    """Ten points on 300 items, of which a fifth come out differently anyway."""
    generator = np.random.default_rng(0)
    found = {0.1: 0, 0.0: 0}
    for drop in found:
        for _ in range(300):
            table = generator.multinomial(300, [(0.2 - drop) / 2, (0.2 + drop) / 2, 0.8])
            found[drop] += mcnemar_exact(int(table[0]), int(table[1])) <= 0.05
    assert found[0.1] / 300 > 0.9
    assert found[0.0] / 300 < 0.06


def test_a_thousand_items_take_no_time():
    values = np.random.default_rng(0).random(1000)
    start = time.perf_counter()
    bootstrap_mean(values)
    permutation_test(values - 0.5)
    assert time.perf_counter() - start < 5  # about 0.2 s; a Python loop over resamples is minutes
