"""Rates and latencies of a window, by hand; arms apart; what a restart knows."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from coderllm_jax.config.monitoring import DriftSection
from coderllm_jax.monitoring import tailing
from coderllm_jax.monitoring.request_fields import RequestReader
from coderllm_jax.monitoring.traffic import TrafficWatch
from tests.monitoring.watched import BEGAN, append, request

DRIFT = DriftSection(reference_requests=200, window_requests=100)


OPENED = []


@pytest.fixture(autouse=True)
def _closed():
    yield
    while OPENED:
        OPENED.pop().close()


def watch(path, state=None):
    traffic = TrafficWatch(
        path,
        reader=RequestReader(()),
        window_s=300.0,
        drift=DRIFT,
        max_rows=10_000,
        state=state or {},
    )
    OPENED.append(traffic)
    return traffic


def filled(path, rows, *, now=None, state=None):
    for row in rows:
        append(path, row)
    traffic = watch(path, state)
    while traffic.poll(now if now is not None else rows[-1]["time"]):
        pass
    return traffic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.jsonl"


def test_a_window_by_hand(path):
    rows = [request(BEGAN - 1000, total_s=99.0)]
    rows += [request(BEGAN + i, total_s=float(i + 1), ttft_s=0.1) for i in range(20)]
    rows[5]["status"], rows[6]["status"] = 500, 429
    rows[7] |= {"arm": "rag", "num_sources": 0, "refused": True}
    rows[8] |= {"arm": "rag", "num_sources": 3, "top_score": 0.5}
    view = filled(path, rows).view(BEGAN + 19)
    assert (view.num_requests, view.num_total) == (20, 21)
    assert view.requests_per_s == pytest.approx(20 / 300)
    assert view.error_rate == pytest.approx(0.05)
    assert view.no_source_rate == 0.5
    assert view.refusal_rate == pytest.approx(1 / 18)
    # Without the one that was turned away: 1 … 6, 8 … 20.
    assert (view.total_s.p50, view.total_s.p95, view.total_s.p99) == (11.0, 20.0, 20.0)
    assert view.completion_tokens_per_s == pytest.approx(20 * 50 / 300)
    assert view.by_arm == {"trained": 18, "rag": 2}
    assert view.updated == BEGAN + 19


def test_nothing_is_not_zero(path):
    traffic = watch(path)
    traffic.poll(BEGAN)
    view = traffic.view(BEGAN)
    assert (view.error_rate, view.total_s, view.updated) == (None, None, None)
    assert traffic.figures(BEGAN)["latency_ratio"] is None
    quiet = filled(path, [request(BEGAN)])
    assert quiet.figures(BEGAN + 1000)["error_rate"] is None
    assert quiet.figures(BEGAN + 1000)["num_requests"] == 0


def test_bad_lines_are_counted(path):
    path.write_text("nonsense\n\n")
    traffic = filled(path, [request(BEGAN)])
    assert traffic.view(BEGAN).num_bad_lines == 1


def test_a_request_from_the_future_is_a_bad_line_and_stops_nothing(path):
    rows = [request(BEGAN + i) for i in range(60)]
    rows[10]["time"] = BEGAN * 1000  # milliseconds that nobody scaled
    rows[20]["time"] = BEGAN + 200  # a clock that is ahead
    traffic = filled(path, rows, now=BEGAN + 60)
    traffic.tick(BEGAN + 1000)
    view = traffic.view(BEGAN + 1000)
    assert (view.num_bad_lines, view.num_total, view.num_requests) == (1, 59, 0)
    assert sum(traffic.columns.points("requests_per_s").values * 30) == pytest.approx(59)
    assert traffic.state()["judged_until"] == BEGAN + 200


def test_a_state_from_the_future_does_not_stop_judging(path):
    generator = np.random.default_rng(3)
    usual = [request(BEGAN + i, mean_logprob=generator.normal(-1, 0.2)) for i in range(300)]
    state = filled(path, usual).state() | {"judged_until": BEGAN * 1000}
    path.unlink()
    traffic = watch(path, state)
    traffic.poll(BEGAN + 300)
    for i in range(300):
        append(path, request(BEGAN + 301 + i, mean_logprob=generator.normal(-1.4, 0.2)))
    traffic.poll(BEGAN + 600)
    assert "trained: mean_logprob" in {
        each.name for each in traffic.drifts() if each.state == "drifted"
    }


def test_a_few_failures_at_night_are_no_rate(path):
    rows = [request(BEGAN + i, status=500) for i in range(3)]
    traffic = filled(path, rows)
    assert traffic.figures(BEGAN + 3)["error_rate"] == 1.0
    assert traffic.figures(BEGAN + 3)["error_rate_low"] is None
    more = filled(path, [request(BEGAN + 10 + i, status=500) for i in range(7)])
    assert 0.4 < more.figures(BEGAN + 20)["error_rate_low"] < 0.6


def test_requests_that_are_turned_away_do_not_make_a_full_server_look_quick(path):
    rows = [request(BEGAN + i, total_s=30.0) for i in range(20)]
    rows += [request(BEGAN + i, total_s=0.001, status=429, finish="") for i in range(20)]
    rows += [request(BEGAN + i, total_s=60.0, status=504, finish="deadline") for i in range(2)]
    traffic = filled(path, rows, now=BEGAN + 100)
    figures = traffic.figures(BEGAN + 100)
    assert (figures["total_s_p50"], figures["total_s_p95"]) == (30.0, 60.0)
    assert figures["rejection_rate"] == pytest.approx(20 / 42)
    assert traffic.columns.points("total_s_p50").values.tolist() == [30.0]


def test_latency_is_held_against_the_usual_of_the_same_arm(path):
    generator = np.random.default_rng(0)
    rows = [
        request(BEGAN + i, total_s=seconds * generator.uniform(0.8, 1.2), arm=arm)
        for i in range(400)
        for arm, seconds in (("trained", 1.0), ("rag", 10.0))
    ]
    traffic = filled(path, rows)
    assert traffic.figures(BEGAN + 400)["latency_ratio"] == pytest.approx(1.0, abs=0.1)
    # Everybody asks the slow one now: that is no slower service.
    only_rag = [request(BEGAN + 1000 + i, total_s=10.0, arm="rag") for i in range(60)]
    assert filled(path, only_rag).figures(BEGAN + 1060)["latency_ratio"] < 1.1
    slow = [request(BEGAN + 2000 + i, total_s=3.0) for i in range(60)]
    assert filled(path, slow).figures(BEGAN + 2060)["latency_ratio"] == pytest.approx(3, abs=0.4)


def test_series_come_in_buckets_with_zeros_where_nobody_asked(path):
    rows = [request(BEGAN + i) for i in range(60)] + [request(BEGAN + 150)]
    traffic = filled(path, rows, now=BEGAN + 300)
    points = traffic.columns.points("requests_per_s")
    assert points.values.tolist()[:3] == [1.0, 1.0, pytest.approx(1 / 30)]
    assert points.times.tolist()[:3] == [BEGAN, BEGAN + 30, BEGAN + 150]
    assert len(traffic.columns.points("total_s_p95").values) == 3


def test_the_series_of_a_long_log_is_that_of_one_that_was_watched(path, monkeypatch):
    monkeypatch.setattr(tailing, "_CHUNK_BYTES", 4096)
    rows = [request(BEGAN + i) for i in range(600)]
    points = filled(path, rows, now=BEGAN + 5000).columns.points("requests_per_s")
    assert points.times.tolist() == [BEGAN + 30 * i for i in range(20)]
    assert points.values.tolist() == [1.0] * 20


def test_answers_without_sources_are_counted_where_something_was_looked_up(path):
    """As with retrieval.when_nothing=ask, which refuses nothing."""
    rag = {"arm": "rag", "retrieval_s": 0.003}
    rows = [request(BEGAN + i, **rag, num_sources=3) for i in range(6)]
    rows += [request(BEGAN + i, **rag, num_sources=0) for i in range(2)]
    rows += [request(BEGAN + i, arm="rag", retrieval_s=0.0) for i in range(5)]  # continued a text
    rows += [request(BEGAN + i, retrieval_s=None) for i in range(5)]
    traffic = filled(path, rows, now=BEGAN + 6)
    assert traffic.figures(BEGAN + 6)["no_source_rate"] == 0.25
    counts = {each.name: each.num_reference for each in traffic.drifts()}
    assert counts["rag: no_sources"] == 8
    assert "trained: no_sources" not in counts


def test_each_arm_drifts_by_itself(path):
    generator = np.random.default_rng(1)

    def rows(start, count, length):
        return [
            request(
                BEGAN + start + i,
                arm=arm,
                completion_tokens=round(tokens * generator.lognormal(0, 0.5)),
                mean_logprob=generator.normal(-1, 0.2),
            )
            for i in range(count)
            for arm, tokens in (("base", 50 * length), ("trained", 500))
        ]

    drifts = filled(path, [*rows(0, 400, 1), *rows(400, 300, 2.5)]).drifts()
    drifted = {each.name for each in drifts if each.state == "drifted"}
    assert drifted == {"base: completion_tokens"}
    base = next(each for each in drifts if each.name == "base: completion_tokens")
    assert base.current_mean > 1.8 * base.reference_mean
    assert base.psi > 0.25


def test_a_restart_knows_what_is_usual_and_judges_nothing_twice(path):
    generator = np.random.default_rng(2)
    usual = [
        request(BEGAN + i, completion_tokens=float(generator.normal(100, 10))) for i in range(300)
    ]
    long = [
        request(BEGAN + 300 + i, completion_tokens=float(generator.normal(120, 10)))
        for i in range(300)
    ]
    before = filled(path, [*usual, *long])
    state = json.loads(json.dumps(before.state()))
    path.unlink()
    # Judged anew, these would look as if it were over: most are from before the drift.
    after = filled(path, [*usual[-200:], *long[-40:]], state=state)
    (drift,) = [each for each in after.drifts() if "completion_tokens" in each.name]
    assert drift.state == "drifted"
    assert drift.reference_mean == pytest.approx(100, abs=3)
    assert after.figures(BEGAN + 600)["latency_ratio"] == pytest.approx(1.0)


def of_version(version, start, count, generator, *, shift=0.0, slower=1.0):
    return [
        request(
            BEGAN + start + i,
            model_version=version,
            mean_logprob=generator.normal(-1 + shift, 0.2),
            total_s=2.0 * slower,
        )
        for i in range(count)
    ]


def drift_of(traffic, name="trained: mean_logprob"):
    (drift,) = [each for each in traffic.drifts() if each.name == name]
    return drift


def test_a_rollout_is_no_drift_and_what_comes_after_it_is(path):
    generator = np.random.default_rng(4)
    old = of_version("1", 0, 300, generator)
    new = of_version("2", 300, 250, generator, shift=0.6, slower=3.0)
    traffic = filled(path, [*old, *new])
    drift = drift_of(traffic)
    assert (drift.state, drift.num_reference) == ("gathering", 150)  # none of the first 100
    assert drift.message == "version 2 in place of 1"
    assert traffic.figures(BEGAN + 549)["latency_ratio"] is None
    more = of_version("2", 550, 200, generator, shift=0.6, slower=3.0)
    for row in more:
        append(path, row)
    traffic.poll(BEGAN + 750)
    assert drift_of(traffic).reference_mean == pytest.approx(-0.4, abs=0.05)
    assert {each.state for each in traffic.drifts()} == {"steady"}
    assert traffic.figures(BEGAN + 750)["latency_ratio"] == pytest.approx(1.0)
    for row in of_version("2", 750, 200, generator):
        append(path, row)
    traffic.poll(BEGAN + 950)
    assert drift_of(traffic).state == "drifted"


def test_a_version_that_few_are_answered_by_disturbs_nothing(path):
    generator = np.random.default_rng(5)
    rows = of_version("1", 0, 600, generator)
    rows[5::10] = of_version("2", 0, 600, generator, shift=0.6, slower=9.0)[5::10]
    traffic = filled(path, rows)
    drift = drift_of(traffic)
    assert (drift.state, drift.num_reference) == ("steady", 200)
    assert drift.reference_mean == pytest.approx(-1, abs=0.05)
    assert traffic.figures(BEGAN + 600)["latency_ratio"] == pytest.approx(1.0)


def test_a_restart_does_not_take_what_it_reads_again_for_a_rollout(path):
    generator = np.random.default_rng(6)
    old = of_version("1", 0, 400, generator)
    new = of_version("2", 400, 400, generator, shift=0.6)
    before = filled(path, [*old, *new])
    state = json.loads(json.dumps(before.state()))
    path.unlink()
    rows = [*old, *new[-50:], *of_version("2", 800, 60, generator, shift=0.6)]
    after = filled(path, rows, state=state)
    assert drift_of(after).state == "steady"
    assert drift_of(after).reference_mean == pytest.approx(drift_of(before).reference_mean)
    # A state of before versions were kept: of whichever comes next.
    del state["arms"]["trained"]["version"]
    after = filled(path, of_version("2", 860, 60, generator, shift=0.6), state=state)
    assert drift_of(after).state == "steady"
    assert after.state()["arms"]["trained"]["version"] == "2"


def test_lines_that_were_rotated_away_while_the_monitor_was_down_are_judged(path):
    generator = np.random.default_rng(7)
    state = filled(path, of_version("1", 0, 300, generator)).state()
    for row in of_version("1", 300, 200, generator, shift=0.6):
        append(path, row)
    os.utime(path, (BEGAN + 500, BEGAN + 500))
    path.rename(path.with_name("requests.jsonl.1"))
    after = filled(path, of_version("1", 500, 10, generator, shift=0.6), state=state)
    assert after.view(BEGAN + 510).num_total == 510
    assert drift_of(after).state == "drifted"
    assert drift_of(after).since < BEGAN + 500


def test_ids_of_two_logs_of_one_name(tmp_path):
    one, other = watch(tmp_path / "a" / "r.jsonl"), watch(tmp_path / "b" / "r.jsonl")
    assert one.id != other.id
