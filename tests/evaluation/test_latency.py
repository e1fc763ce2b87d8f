"""Figures from rows: hand-computed, honest about few items, and equal to a direct count."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from coderllm_jax.evaluation.latency import (
    SHARES,
    estimate_percentile,
    interval_ranks,
    num_items_needed,
    summarize_load,
)
from coderllm_jax.evaluation.load import Load, Row, poisson_arrivals, run_open_loop
from coderllm_jax.evaluation.usage import Usage
from coderllm_jax.records import Estimate, Query
from tests.fakes import FakeAnswerer, FakeClock, Reply

NOTHING = Estimate(None, num_items=0)


def row(number, *, at_s=0.0, first_s=None, end_s=1.0, tokens=3, finish="stop", **how):
    """One request that arrived at `at_s`, with its first token `first_s` later."""
    return Row(
        id=str(number),
        intended_s=at_s,
        submitted_s=at_s + how.get("late_s", 0.0),
        first_token_s=None if first_s is None else at_s + first_s,
        finished_s=at_s + end_s,
        num_prompt_tokens=10,
        num_new_tokens=tokens,
        num_first_tokens=how.get("num_first", 1),
        finish=finish,
        error=how.get("error", ""),
    )


def load_of(*rows, warm_up=(), **usage):
    return Load("open", 1.0, rows, Usage(**usage), False, warm_up, Usage(compile_s=4.5))


# ------------------------------------------------------------------------------- percentiles


def test_the_smallest_samples_that_support_a_percentile():
    # 1 - share^n (or share, where it is smaller) must reach 97.5 % on either side.
    assert [num_items_needed(share) for share in SHARES.values()] == [6, 72, 368]
    for share in SHARES.values():
        enough = num_items_needed(share)
        assert estimate_percentile(range(enough), share).value is not None
        assert estimate_percentile(range(enough - 1), share) == Estimate(None, num_items=enough - 1)


def test_a_percentile_is_a_value_that_was_seen():
    # Nearest rank: of 100 items the 50th and the 95th. The median's interval: at most 39 lie below
    # it with 1.8 %, at most 40 with 2.8 %, at most 60 with 98.2 %. For p95 at most 98 do with
    # 96.3 % only, so the largest item is its upper end.
    values = [10.0 * rank for rank in range(1, 101)][::-1]
    assert estimate_percentile(values, 0.5) == Estimate(500.0, 400.0, 610.0, 100)
    assert estimate_percentile(values, 0.95) == Estimate(950.0, 900.0, 1000.0, 100)
    assert estimate_percentile(values, 0.99) == Estimate(None, num_items=100)


def test_ranks_are_rounded_up_as_fractions_are():
    for share, exact in (
        (0.5, Fraction(1, 2)),
        (0.95, Fraction(19, 20)),
        (0.99, Fraction(99, 100)),
    ):
        for count in range(num_items_needed(share), 1200, 49):
            rank = math.ceil(exact * count)
            assert estimate_percentile(range(1, count + 1), share).value == rank


def test_six_items_bound_a_median_by_their_ends():
    assert estimate_percentile([6, 5, 4, 3, 2, 1], 0.5) == Estimate(3, 1, 6, 6)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [0, 1, 6, 73, 400, 5000])
def test_ranks_are_those_of_the_binomial(share, count):
    low, high = interval_ranks(count, share)
    below = stats.binom(count, share)  # how many items lie below the true percentile
    # The item of rank r lies above it with P(below <= r - 1): as seldom as allowed, and the next
    # rank inwards more often than that.
    assert below.cdf(low - 1) <= 0.025 + 1e-9 < below.cdf(low) + 1e-8
    if high <= count:
        assert below.cdf(high - 1) >= 0.975 - 1e-9
    assert below.cdf(high - 2) < 0.975


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_hold_the_true_percentile(share):
    # Of latencies with a long tail, whose percentiles are known; 600 samples of 100.
    rng = np.random.default_rng(0)
    truth = math.exp(stats.norm.ppf(share))
    found = [estimate_percentile(sample, share) for sample in rng.lognormal(size=(600, 100))]
    covered = np.mean([figure.low <= truth <= figure.high for figure in found])
    low, high = interval_ranks(100, share)
    below = stats.binom(100, share)
    promised = below.cdf(high - 1) - below.cdf(low - 1)
    assert promised >= 0.95  # ranks are whole, so it may be more
    assert covered == pytest.approx(promised, abs=4 * math.sqrt(promised * (1 - promised) / 600))


def test_unfinished_ones_are_slower_than_all_others():
    values = [float(n) for n in range(1, 91)]
    figure = estimate_percentile(values, 0.5, num_longer=10)
    assert figure == Estimate(50.0, 40.0, 61.0, 100)  # not 45, the median of the lucky
    assert estimate_percentile(values, 0.95, num_longer=10) == Estimate(None, num_items=100)


# ----------------------------------------------------------------------------------- a load


def test_figures_by_hand():
    # Six requests a second apart: 0.1 s to the first two tokens of four, 0.1 s for each later one;
    # handed in 0.05 s late.
    rows = [
        row(n, at_s=n, first_s=0.1, end_s=0.3, tokens=4, num_first=2, late_s=0.05) for n in range(6)
    ]
    figures = summarize_load(
        load_of(*rows, warm_up=(row("w", end_s=7.0),), cpu_s=2.5, peak_memory_bytes=99)
    )
    for found, expected in (
        (figures.time_to_first_token_s.p50, 0.1),
        (figures.time_per_token_s.p50, 0.1),
        (figures.total_s.p50, 0.3),
        (figures.hand_in_delay_s.p50, 0.05),
    ):
        assert found.value == pytest.approx(expected)
        assert found.num_items == 6
    assert figures.total_s.p95 == Estimate(None, num_items=6)
    # From the start to the last end: 5.3 s.
    assert figures.window_s == pytest.approx(5.3)
    assert figures.requests_per_s == Estimate(pytest.approx(6 / 5.3), num_items=6)
    assert figures.tokens_in_per_s.value == pytest.approx(60 / 5.3)
    assert figures.tokens_out_per_s.value == pytest.approx(24 / 5.3)
    assert (figures.cpu_s, figures.peak_memory_bytes) == (2.5, 99)
    assert (figures.warm_up_s, figures.compile_s, figures.late_compile_s) == (7.0, 4.5, 0.0)


def test_errors_are_counted_and_have_no_latency():
    fine = [row(n, first_s=0.5) for n in range(6)]
    failed = [
        row(n, first_s=0.1, end_s=0.2, finish="error", error=error)
        for n, error in enumerate(("HTTP 500", "HTTP 500", "refused"), start=6)
    ]
    figures = summarize_load(load_of(*fine, *failed))
    assert (figures.num_requests, figures.num_answered, figures.num_errors) == (9, 6, 3)
    assert list(figures.errors.items()) == [("HTTP 500", 2), ("refused", 1)]
    assert figures.total_s.p50 == Estimate(1.0, 1.0, 1.0, 6)
    assert figures.time_to_first_token_s.p50 == Estimate(0.5, 0.5, 0.5, 6)
    assert figures.tokens_out_per_s == Estimate(18.0, num_items=6)


def test_errors_that_differ_in_the_request_s_name_are_one():
    failed = [
        row(f"q#{n}", finish="error", error=f"DataError: request q#{n}: too long")
        for n in range(20)
    ]
    assert summarize_load(load_of(*failed)).errors == {"DataError: request *: too long": 20}


def test_cut_requests_are_not_forgotten():
    fine = [row(n, first_s=0.1, end_s=0.5) for n in range(80)]
    begun = [row(n, first_s=0.2, end_s=9.0, finish="cancelled") for n in range(80, 90)]
    waiting = [row(n, end_s=9.0, tokens=0, finish="cancelled") for n in range(90, 100)]
    figures = summarize_load(load_of(*fine, *begun, *waiting))
    assert figures.num_cut == 20
    assert figures.total_s.p50 == Estimate(0.5, 0.5, 0.5, 100)
    assert figures.total_s.p95 == Estimate(None, num_items=100)
    # Those that had begun have a first token; the others are slower than all.
    assert figures.time_to_first_token_s.p50 == Estimate(0.1, 0.1, 0.1, 100)
    assert figures.time_to_first_token_s.p95 == Estimate(None, num_items=100)
    assert figures.time_per_token_s.p50.num_items == 80
    assert figures.window_s == 9.0


def test_answers_of_one_token_have_no_time_per_token():
    figures = summarize_load(load_of(*(row(n, first_s=0.5, tokens=1) for n in range(10))))
    assert figures.time_per_token_s.p50 == NOTHING
    assert figures.time_to_first_token_s.p50.value == 0.5


def test_nothing_answered_is_nothing_known():
    for rows in ((), [row(0, end_s=0.0, finish="error", error="refused")]):
        figures = summarize_load(load_of(*rows))
        assert figures.total_s.p50 == NOTHING
        assert figures.requests_per_s == NOTHING


def test_figures_are_json_by_flat_names():
    figures = summarize_load(load_of(*(row(n, first_s=0.5) for n in range(6))))
    plain = json.loads(json.dumps(figures.to_json()))
    assert plain["figures"]["total_s/p50"] == {
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
        "num_items": 6,
    }
    assert plain["figures"]["requests_per_s"]["value"] == 6.0
    assert plain["kind"] == "open"
    assert set(plain) | {"total_s"} > {"num_errors", "cpu_s", "errors", "window_s"}
    assert not {"total_s", "requests_per_s"} & set(plain)


def test_an_overloaded_server_has_the_percentiles_that_queueing_gives():
    # The scripted case of half a second each at ten a second: the n-th waits 0.4 n, so p95 of 100
    # is the 95th: 0.5 + 0.4 * 94 = 38.1 s, and 2 answers a second go through.
    clock = FakeClock()
    answerer = FakeAnswerer(clock, Reply(chunks=((0.5, "a b", 2),)))
    queries = [Query.from_question("q", "?")]
    load = run_open_loop(
        answerer, queries, arrivals_s=[0.1 * n for n in range(100)], max_s=99, clock=clock
    )
    figures = summarize_load(load)
    assert figures.total_s.p50.value == pytest.approx(0.5 + 0.4 * 49)
    assert figures.total_s.p95.value == pytest.approx(0.5 + 0.4 * 94)
    assert figures.requests_per_s.value == pytest.approx(2.0)
    assert figures.tokens_out_per_s.value == pytest.approx(4.0)
    assert figures.hand_in_delay_s.p95.value == pytest.approx(0.0, abs=1e-9)


def test_poisson_arrivals_have_the_percentiles_of_lindleys_recursion():
    clock = FakeClock()
    answerer = FakeAnswerer(clock, Reply(chunks=((0.5, "a", 1),)))
    arrivals_s = poisson_arrivals(1.6, num_requests=400, seed=11)
    load = run_open_loop(
        answerer, [Query.from_question("q", "?")], arrivals_s=arrivals_s, max_s=1e4, clock=clock
    )
    totals_s = [0.5]
    for earlier, later in itertools.pairwise(arrivals_s):
        totals_s.append(0.5 + max(0.0, totals_s[-1] - (later - earlier)))
    ordered = sorted(totals_s)
    found = summarize_load(load).total_s
    assert [found.p50.value, found.p95.value, found.p99.value] == pytest.approx(
        [ordered[199], ordered[379], ordered[395]]
    )
