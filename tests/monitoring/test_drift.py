"""Drift: statistics by hand and against scipy, shifts found soon, rhythm and noise left alone."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from coderllm_jax.monitoring.drift import Detector, DriftSettings, Reference, _smirnov

SETTINGS = DriftSettings(
    num_reference=2000, num_window=300, smallest=0.5, false_alarms=0.005, num_figures=7
)


def watched(values, *, is_rate=False, settings=SETTINGS):
    detector = Detector(is_rate=is_rate)
    detector.update(values, np.arange(len(values)), settings)
    return detector


def alike(generator, count, correlation):
    """Standard normal, each like the one before."""
    values = generator.standard_normal(count)
    for i in range(1, count):
        values[i] = correlation * values[i - 1] + math.sqrt(1 - correlation**2) * values[i]
    return values


def test_psi_by_hand():
    reference = Reference(np.array([0.0] * 50 + [1.0] * 50), is_rate=True)
    values = np.array([0.0] * 9 + [1.0] * 1)
    p = (9.5 / 11, 1.5 / 11)
    expected = sum((each - 0.5) * math.log(each / 0.5) for each in p)
    assert reference.psi(values) == pytest.approx(expected)
    assert reference.psi(reference.values) == pytest.approx(0.0)


def test_ks_is_scipys():
    generator = np.random.default_rng(0)
    reference = np.round(generator.exponential(50, 500))  # with ties
    values = np.round(generator.exponential(80, 100))
    ours = Reference(reference, is_rate=False).ks(values)
    assert ours == pytest.approx(scipy.stats.ks_2samp(reference, values).statistic)


@pytest.mark.parametrize("x", [0.1, 0.3, 0.8, 1.3, 2.5])
def test_kolmogorovs_tail_is_scipys(x):
    assert _smirnov(x) == pytest.approx(scipy.special.kolmogorov(x), abs=1e-9)


def test_the_limit_of_psi_is_a_quantile_of_the_noncentral_chi_square():
    reference = Reference(np.random.default_rng(0).standard_normal(2000), is_rate=False)
    reference.dependence = 1.0
    size = 1 / (1 / 300 + 1 / 2000)
    exact = scipy.stats.ncx2.isf(SETTINGS.look_p_value, 9, 0.25**2 * size) / size
    assert reference.psi_limit(300, SETTINGS) == pytest.approx(exact, rel=0.02)


def test_a_shift_by_half_a_standard_deviation_is_a_psi_of_a_quarter():
    generator = np.random.default_rng(0)
    reference = Reference(generator.standard_normal(50_000), is_rate=False)
    assert reference.psi(generator.standard_normal(50_000) + 0.5) == pytest.approx(0.25, abs=0.02)


def test_scores_are_normal_whatever_the_figure():
    generator = np.random.default_rng(0)
    values = np.exp(3 * generator.standard_normal(2000))
    scores = Reference(values, is_rate=False).scores(np.exp(3 * generator.standard_normal(2000)))
    assert scores.mean() == pytest.approx(0, abs=0.06)
    assert scores.std() == pytest.approx(1, abs=0.06)
    assert abs(Reference(values, is_rate=False).scores(np.array([1e30, -1e30]))).tolist() == [3, 3]


@pytest.mark.parametrize(("correlation", "truth"), [(0.0, 1.0), (0.5, 3.0)])
def test_dependence_is_the_long_run_variance(correlation, truth):
    """(1 + r) / (1 - r), and a standard error on top."""
    generator = np.random.default_rng(0)
    found = [
        Reference(alike(generator, 2000, correlation), is_rate=False).dependence for _ in range(10)
    ]
    assert truth * 0.95 <= np.mean(found) <= truth * 1.5


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_one_standard_deviation_is_found_within_500_requests(sign, correlation):
    generator = np.random.default_rng(1)
    delays = []
    for _ in range(10):
        values = alike(generator, 3000, correlation)
        values[2300:] += sign
        detector = watched(np.exp(values))
        assert detector.state == "drifted"
        delays.append(detector.since - 2300)
    assert min(delays) > 0
    assert max(delays) <= 500


def test_a_change_of_shape_is_found_although_the_mean_stays():
    generator = np.random.default_rng(2)
    values = generator.standard_normal(4000)
    values[2500:] = 2.5 * np.sign(values[2500:])
    detector = watched(values)
    assert detector.state == "drifted"
    assert "distribution" in detector.reason
    assert 0 < detector.since - 2500 <= 500


def test_noise_and_a_rhythm_within_the_tolerance_raise_nothing():
    generator = np.random.default_rng(3)
    for begins in range(4):
        hour = np.linspace(0, 2 * np.pi, 20_000) + begins * np.pi / 2
        values = alike(generator, 20_000, 0.3) + 0.12 * np.sin(hour)
        assert watched(values).state == "steady"


def test_all_at_once_is_one_by_one():
    generator = np.random.default_rng(4)
    values = generator.standard_normal(3000)
    values[2300:] += 1
    at_once = watched(values)
    single = Detector(is_rate=False)
    for i, value in enumerate(values):
        single.update([value], [i], SETTINGS)
    assert (single.since, single.reason) == (at_once.since, at_once.reason)
    assert (single.psi, single.ks) == (at_once.psi, at_once.ks)


def test_it_is_over_when_a_window_is_as_before_and_not_earlier():
    generator = np.random.default_rng(5)
    values = generator.standard_normal(6000)
    values[2500:3500] += 1.0
    assert watched(values[:3600]).state == "drifted"
    after = watched(values)
    assert (after.state, after.since, after.reason) == ("steady", None, "")


def test_what_stays_stays_drifted():
    generator = np.random.default_rng(6)
    values = generator.standard_normal(9000)
    values[2500:] += 1.0
    detector, states = Detector(is_rate=False), []
    for start in range(0, 9000, 25):
        detector.update(values[start : start + 25], np.arange(start, start + 25), SETTINGS)
        states.append(detector.state)
    assert detector.since < 3000
    assert [state for state, _ in itertools.groupby(states)] == ["gathering", "steady", "drifted"]


def rates(generator, *parts):
    return np.concatenate([(generator.random(n) < rate).astype(float) for n, rate in parts])


def test_rates():
    generator = np.random.default_rng(7)
    steady = watched(rates(generator, (20_000, 0.06)), is_rate=True)
    assert steady.state == "steady"
    rose = watched(rates(generator, (2300, 0.06), (700, 0.30)), is_rate=True)
    assert rose.state == "drifted"
    assert 0 < rose.since - 2300 <= 500
    fell = watched(rates(generator, (2300, 0.5), (900, 0.1)), is_rate=True)
    assert fell.state == "drifted"
    back = watched(rates(generator, (2300, 0.06), (500, 0.4), (1000, 0.06)), is_rate=True)
    assert back.state == "steady"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_rate_that_never_changes_raises_nothing(value):
    assert watched(np.full(20_000, value), is_rate=True).state == "steady"


def test_the_first_refusals_of_an_arm_that_had_none():
    generator = np.random.default_rng(8)
    detector = watched(rates(generator, (2300, 0.0), (700, 0.1)), is_rate=True)
    assert detector.state == "drifted"
    assert detector.since - 2300 <= 500


def test_a_figure_that_is_always_the_same_and_then_is_not():
    constant = watched(np.full(5000, 64.0))
    assert constant.state == "steady"
    changed = watched(np.concatenate([np.full(2300, 64.0), np.full(500, 65.0)]))
    assert changed.state == "drifted"


def test_it_gathers_first():
    detector = watched(np.arange(100.0))
    assert (detector.state, detector.num_reference, detector.current_mean) == (
        "gathering",
        100,
        None,
    )
    assert detector.to_json() == {}


def test_it_survives_a_restart_and_judges_nothing_twice():
    generator = np.random.default_rng(9)
    values = generator.standard_normal(2800)
    values[2400:] += 1
    before = watched(values)
    assert before.state == "drifted"
    after = Detector.from_json(json.loads(json.dumps(before.to_json())), is_rate=False)
    assert (after.state, after.since) == ("drifted", before.since)
    after.remember(values[2300:], SETTINGS)
    assert (after.state, after.num_current) == ("drifted", 300)
    after.update(generator.standard_normal(700), np.arange(700), SETTINGS)
    assert after.state == "steady"


def test_the_more_requests_are_alike_the_more_of_them_it_takes():
    values = np.random.default_rng(10).standard_normal(3000)
    values[2000:] += 1.0
    since = []
    for dependence in (1.0, 4.0):
        detector = watched(values[:2000])
        detector.reference.dependence = dependence
        detector.update(values[2000:], np.arange(1000), SETTINGS)
        since.append(detector.since)
    assert 2.5 * since[0] < since[1] <= 500


def test_the_limits_follow_the_number_of_figures():
    many = DriftSettings(2000, 300, 0.5, 0.005, 70)
    assert many.cusum_limit == pytest.approx(SETTINGS.cusum_limit + math.log(10))
    assert many.look_p_value == pytest.approx(SETTINGS.look_p_value / 10)
