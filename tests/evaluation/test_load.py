"""Load: queueing as theory says, nothing omitted, nothing that stops a run."""

from __future__ import annotations

import contextlib
import itertools
import time

import numpy as np
import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.evaluation.load import poisson_arrivals, run_closed_loop, run_open_loop
from coderllm_jax.generation.endpoint import Endpoint
from coderllm_jax.records import Query
from tests.fakes import FakeAnswerer, FakeClock, Reply, ScriptedEndpoint

QUERIES = [Query.from_question(name, f"What does {name} do?") for name in ("jit", "grad", "vmap")]
HALF_A_SECOND = Reply(chunks=((0.5, "a b", 2),))


def fake(script, **how):
    """(answerer, clock)"""
    clock = FakeClock()
    return FakeAnswerer(clock, script, **how), clock


def waits_of(arrivals_s, service_s):
    """Lindley's recursion: how long each waits at one server before its service begins."""
    waits = [0.0]
    for earlier, later in itertools.pairwise(arrivals_s):
        waits.append(max(0.0, waits[-1] + service_s - (later - earlier)))
    return waits


def exactly(values):
    """Up to the rounding of the sums that a clock makes."""
    return pytest.approx(values, abs=1e-9)


# --------------------------------------------------------------------------------- open loop


def test_an_overloaded_server_is_as_late_as_queueing_says():
    # Ten arrivals a second, half a second each, one at a time: everyone waits 0.4 s longer than
    # the one before.
    answerer, clock = fake(HALF_A_SECOND)
    arrivals_s = [0.1 * n for n in range(50)]
    load = run_open_loop(answerer, QUERIES, arrivals_s=arrivals_s, max_s=60, clock=clock)
    assert [row.intended_s for row in load.rows] == arrivals_s
    assert [row.total_s for row in load.rows] == exactly([0.5 + 0.4 * n for n in range(50)])
    assert [row.time_to_first_token_s for row in load.rows] == [row.total_s for row in load.rows]
    assert (load.kind, load.offered, load.was_cut) == ("open", exactly(50 / 4.9), False)


def test_poisson_arrivals_wait_as_lindley_says():
    answerer, clock = fake(HALF_A_SECOND)
    arrivals_s = poisson_arrivals(1.6, num_requests=200, seed=7)  # 80 % busy
    load = run_open_loop(answerer, QUERIES, arrivals_s=arrivals_s, max_s=1e4, clock=clock)
    waits = waits_of(arrivals_s, 0.5)
    assert [row.total_s for row in load.rows] == exactly([wait + 0.5 for wait in waits])
    assert waits.count(0.0) > 20  # at times it was idle,
    assert max(waits) > 1.0  # and at times three stood in line


def test_two_places_serve_two_at_a_time():
    answerer, clock = fake(HALF_A_SECOND, num_places=2)
    load = run_open_loop(answerer, QUERIES, arrivals_s=[0.0] * 5, max_s=9, clock=clock)
    assert [row.total_s for row in load.rows] == exactly([0.5, 0.5, 1.0, 1.0, 1.5])


def test_who_cannot_be_handed_in_has_waited_all_the_same():
    # An answerer that computes for a second in every poll hears of nobody meanwhile.
    answerer, clock = fake(HALF_A_SECOND, num_places=9, poll_s=1.0)
    load = run_open_loop(answerer, QUERIES, arrivals_s=[0.0, 0.25, 0.75], max_s=9, clock=clock)
    assert [row.submitted_s for row in load.rows] == exactly([0.0, 1.0, 1.0])
    assert [row.total_s for row in load.rows] == exactly([0.5, 1.25, 0.75])


def test_chunks_of_several_tokens_give_exact_times():
    reply = Reply(chunks=((0.2, "a b", 2), (0.5, " c d e", 3), (0.8, " f", 1)))
    answerer, clock = fake(reply, num_places=2)
    load = run_open_loop(answerer, QUERIES, arrivals_s=[1.0, 1.25], max_s=9, clock=clock)
    for row in load.rows:
        assert (row.num_prompt_tokens, row.num_new_tokens, row.num_first_tokens) == (7, 6, 2)
        assert row.time_to_first_token_s == exactly(0.2)
        assert row.time_per_token_s == exactly((0.8 - 0.2) / 4)
        assert row.total_s == exactly(0.8)


def test_arrivals_beyond_the_limit_do_not_happen():
    answerer, clock = fake(HALF_A_SECOND, num_places=9)
    load = run_open_loop(answerer, QUERIES, arrivals_s=[0.0, 1.0, 2.0, 3.0], max_s=2.5, clock=clock)
    assert [row.intended_s for row in load.rows] == [0.0, 1.0, 2.0]
    assert load.was_cut
    assert all(row.is_answered for row in load.rows)


def test_what_does_not_end_is_cut_and_said():
    answerer, clock = fake(HALF_A_SECOND)
    load = run_open_loop(
        answerer,
        QUERIES,
        arrivals_s=[0.1 * n for n in range(10)],
        max_s=1,
        drain_s=1.2,
        clock=clock,
    )
    # Until 2.2 s four are served; the other six have waited in vain.
    assert [row.finish for row in load.rows] == ["stop"] * 4 + ["cancelled"] * 6
    assert [row.finished_s for row in load.rows[4:]] == exactly([2.2] * 6)
    assert load.was_cut
    assert answerer.is_idle


def test_arrivals_are_poisson():
    arrivals_s = poisson_arrivals(5.0, num_requests=20_000, seed=1)
    gaps_s = np.diff((0.0, *arrivals_s))
    assert gaps_s.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps_s.std() == pytest.approx(0.2, rel=0.03)  # of an exponential, equal to its mean
    # As many a second vary as much as their mean.
    counts = np.bincount(np.array(arrivals_s, int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)
    assert np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1] == pytest.approx(0, abs=0.03)


def test_arrivals_repeat_by_their_seed():
    arrivals_s = poisson_arrivals(2.0, num_requests=50, seed=3)
    assert arrivals_s == poisson_arrivals(2.0, num_requests=50, seed=3)
    assert arrivals_s[:20] == poisson_arrivals(2.0, num_requests=20, seed=3)
    assert arrivals_s != poisson_arrivals(2.0, num_requests=50, seed=4)


# ------------------------------------------------------------------------------- closed loop


@pytest.mark.parametrize("in_flight", [1, 3, 16])
def test_as_many_are_in_flight_as_were_asked_for(in_flight):
    answerer, clock = fake(HALF_A_SECOND, num_places=16)
    load = run_closed_loop(
        answerer, QUERIES, in_flight=in_flight, num_requests=32, max_s=99, clock=clock
    )
    assert answerer.most_going == in_flight
    assert len(load.rows) == 32
    assert all(row.total_s == exactly(0.5) for row in load.rows)
    assert load.rows[-1].finished_s == exactly(0.5 * -(-32 // in_flight))


def test_one_at_a_time_makes_those_in_flight_wait_for_each_other():
    answerer, clock = fake(HALF_A_SECOND)
    load = run_closed_loop(answerer, QUERIES, in_flight=4, num_requests=8, max_s=99, clock=clock)
    # The first four stand in line; then the line is always four long.
    assert [row.total_s for row in load.rows] == exactly([0.5, 1.0, 1.5, 2.0] + [2.0] * 4)


def test_a_closed_loop_ends_in_time():
    answerer, clock = fake(HALF_A_SECOND)
    load = run_closed_loop(answerer, QUERIES, in_flight=2, num_requests=99, max_s=2.2, clock=clock)
    assert load.was_cut
    assert [row.finish for row in load.rows] == ["stop"] * len(load.rows)
    assert max(row.submitted_s for row in load.rows) <= 2.2
    assert len(load.rows) == 6  # begun at 0, 0, 0.5, 1, 1.5 and 2


def test_warm_up_is_apart():
    slow_at_first = [Reply(chunks=((30.0, "a", 1),)), HALF_A_SECOND]
    answerer, clock = fake(slow_at_first)
    load = run_closed_loop(
        answerer, QUERIES, in_flight=1, num_requests=4, max_s=99, num_warm_up=2, clock=clock
    )
    assert [row.total_s for row in load.warm_up] == exactly([30.0, 0.5])
    assert [row.intended_s for row in load.rows] == exactly([0.0, 0.5, 1.0, 1.5])
    answerer, clock = fake(slow_at_first)
    load = run_open_loop(
        answerer, QUERIES, arrivals_s=[0.0, 1.0], max_s=99, num_warm_up=1, clock=clock
    )
    assert [row.total_s for row in load.warm_up] == exactly([30.0])
    assert [row.total_s for row in load.rows] == exactly([0.5, 0.5])


def test_queries_are_asked_in_turn_each_under_a_new_id():
    answerer, clock = fake(HALF_A_SECOND)
    for _ in range(2):
        run_closed_loop(answerer, QUERIES, in_flight=1, num_requests=4, max_s=99, clock=clock)
    assert [query.turns for query in answerer.queries[:4]] == [
        QUERIES[n].turns for n in (0, 1, 2, 0)
    ]
    assert len({query.id for query in answerer.queries}) == 8


# ------------------------------------------------------------------------- what goes wrong


def test_errors_are_rows_and_the_run_goes_on():
    replies = [HALF_A_SECOND, Reply(status=500), Reply(fault="cut"), HALF_A_SECOND]
    answerer, clock = fake(replies)
    load = run_closed_loop(answerer, QUERIES, in_flight=2, num_requests=6, max_s=99, clock=clock)
    assert [row.finish for row in load.rows] == ["stop", "error", "error", "stop", "stop", "stop"]
    assert [row.error for row in load.rows[1:3]] == ["scripted 500", "scripted cut"]
    assert load.rows[1].first_token_s is None
    assert load.rows[1].time_to_first_token_s is None


def test_a_query_that_is_refused_is_a_row():
    answerer, clock = fake(HALF_A_SECOND, refuses=lambda query: query.id.startswith("grad"))
    load = run_closed_loop(answerer, QUERIES, in_flight=1, num_requests=6, max_s=99, clock=clock)
    assert [row.finish for row in load.rows] == ["stop", "error", "stop"] * 2
    assert "DataError" in load.rows[1].error
    assert load.rows[1].total_s == 0.0


def test_an_answerer_that_raises_fails_what_it_had_and_is_asked_on():
    answerer, clock = fake(HALF_A_SECOND, num_places=2)
    polls, poll = itertools.count(), answerer.poll

    def broken(timeout_s):
        if next(polls) == 1:
            raise RuntimeError("out of\nmemory")
        return poll(timeout_s)

    answerer.poll = broken
    load = run_closed_loop(answerer, QUERIES, in_flight=2, num_requests=6, max_s=99, clock=clock)
    assert [row.finish for row in load.rows].count("error") == 2
    assert {row.error for row in load.rows} == {"", "RuntimeError: out of memory"}
    assert len(load.rows) == 6


def test_an_answerer_that_always_raises_comes_to_an_end():
    answerer, clock = fake(HALF_A_SECOND)

    def broken(timeout_s):
        raise RuntimeError("never")

    answerer.poll = broken
    load = run_closed_loop(answerer, QUERIES, in_flight=2, num_requests=6, max_s=99, clock=clock)
    assert [row.finish for row in load.rows] == ["error"] * 6


def test_an_answerer_that_forgets_is_found_out():
    answerer, clock = fake(HALF_A_SECOND)
    answerer.submit = lambda query: None
    load = run_closed_loop(answerer, QUERIES, in_flight=1, num_requests=2, max_s=99, clock=clock)
    assert ["idle and has not answered" in row.error for row in load.rows] == [True, True]


def test_one_that_hangs_costs_its_place_and_no_more():
    answerer, clock = fake([Reply(fault="hang"), HALF_A_SECOND], num_places=2)
    load = run_closed_loop(
        answerer, QUERIES, in_flight=2, num_requests=5, max_s=9, drain_s=1, clock=clock
    )
    assert [row.finish for row in load.rows] == ["cancelled"] + ["stop"] * 4
    assert load.rows[0].first_token_s == exactly(0.0)  # it did say something
    assert load.rows[0].finished_s == exactly(10.0)


def test_one_that_cannot_be_cancelled_is_left():
    answerer, clock = fake(Reply(fault="hang"))
    answerer.cancel = lambda name: False
    load = run_closed_loop(
        answerer, QUERIES, in_flight=1, num_requests=1, max_s=9, drain_s=1, clock=clock
    )
    assert [(row.finish, row.error) for row in load.rows] == [
        ("cancelled", "cancelling it had no effect")
    ]


@pytest.mark.parametrize(
    "how",
    [
        {"in_flight": 0},
        {"num_requests": 0},
        {"max_s": 0.0},
        {"queries": []},
    ],
)
def test_loads_that_cannot_be(how):
    answerer, clock = fake(HALF_A_SECOND)
    asked = {"queries": QUERIES, "in_flight": 1, "num_requests": 1, "max_s": 1.0, **how}
    with pytest.raises(ConfigError, match="expected at least"):
        run_closed_loop(answerer, asked.pop("queries"), **asked, clock=clock)


def test_arrivals_that_cannot_be():
    answerer, clock = fake(HALF_A_SECOND)
    for arrivals_s in ([1.0, 0.5], [-1.0, 2.0]):
        with pytest.raises(ConfigError, match="ascending"):
            run_open_loop(answerer, QUERIES, arrivals_s=arrivals_s, max_s=9, clock=clock)
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="more than 0"):
            poisson_arrivals(rate, num_requests=1, seed=0)


# ------------------------------------------------------------------------- over a real socket


def test_latency_at_a_real_server_grows_as_queueing_says():
    # A hundred arrivals a second, 50 ms each, one at a time. Sleeps end late on a busy machine,
    # never early: the recursion is a floor, and the server's own clock says how much later it was.
    arrivals_s = [0.01 * n for n in range(12)]
    floor = [wait + 0.05 for wait in waits_of(arrivals_s, 0.05)]
    reply = Reply(chunks=((0.05, "a b", 2),))
    with (
        ScriptedEndpoint(reply, num_places=1) as server,
        contextlib.closing(Endpoint(server.url, model="m")) as endpoint,
    ):
        before_s = time.perf_counter()
        load = run_open_loop(endpoint, QUERIES, arrivals_s=arrivals_s, max_s=60, num_warm_up=1)
        after_s = time.perf_counter()
    assert [row.finish for row in load.rows] == ["stop"] * 12
    # The order in which twelve threads reach the server is theirs, so latencies are compared as a
    # whole: arrivals and ends, each in order.
    ends_s = sorted(row.finished_s for row in load.rows)
    for end_s, arrival_s, least_s in zip(ends_s, arrivals_s, floor, strict=True):
        assert end_s - arrival_s >= least_s - 0.001
    mean_s = sum(row.total_s for row in load.rows) / 12
    assert mean_s >= sum(floor) / 12 - 0.001
    served = server.requests[1:]
    sent_s = sorted(request.sent_s[-1] for request in served)
    assert ends_s[-1] - ends_s[0] == pytest.approx(sent_s[-1] - sent_s[0], abs=5)
    assert after_s - before_s >= ends_s[-1]
    assert sum(floor) / 12 > 5 * 0.05  # without the queue it would have been 50 ms each
