"""Puts an answerer under load and keeps what happened to every request.

    closed loop, 2 in flight        open loop: arrivals do not wait for answers
    ├──── a ────┤├─── c ───┤        intended  ▼    ▼▼       ▼
    ├── b ──┤├──── d ────┤          served    ├──a──┤├──b──┤├──c──┤├──d──┤
                                    latency of c    ├─────────────┤ from its intended arrival

A closed loop asks how much an answerer can do: the next request comes when one has ended, so a slow
answerer is asked less. An open loop asks what people who come when they like will see: latency
counts from when a request was meant to arrive, however late it could be handed in. Else a stall
would be counted once and not for everybody who stood behind it ("coordinated omission", Gil Tene).

One thread, which hands in and polls: an answerer that computes inside `poll` delays arrivals, and
that is its users' delay too. Whatever goes wrong with a request is a row; the run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from coderllm_jax.errors import ConfigError
from coderllm_jax.evaluation.usage import Usage, UsageMeter
from coderllm_jax.records import Answer, Answerer, Finish, Query
from coderllm_jax.redaction import redact

# How long requests that are going at the end of a run may take to end.
DRAIN_S = 60.0
# The longest wait for an answerer before the clock is looked at again.
_LONGEST_POLL_S = 0.1
# How long cancelled requests may take to end.
_CANCEL_S = 5.0
_LONGEST_ERROR = 300
_NUMBERS = itertools.count()


class Clock(Protocol):
    """Time, on the scale of the answers' times."""

    def now(self) -> float:
        """Seconds, from an arbitrary beginning."""

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""


class SystemClock:
    """`time.perf_counter`, which answers are stamped with."""

    def now(self) -> float:
        """Seconds, from an arbitrary beginning."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)


class Row(NamedTuple):
    """One request. Times are seconds since the run's start; first_token_s is None without a token.

    finish `cancelled` is a request that the run's end cut off: how long it would have taken is not
    known, only that it is longer than it had.
    """

    id: str
    intended_s: float
    submitted_s: float
    first_token_s: float | None
    finished_s: float
    num_prompt_tokens: int
    num_new_tokens: int
    num_first_tokens: int
    finish: Finish
    error: str

    @property
    def is_answered(self) -> bool:
        """Whether it came to its own end."""
        return self.finish in ("stop", "length")

    @property
    def time_to_first_token_s(self) -> float | None:
        """From the intended arrival; None where no token came."""
        return None if self.first_token_s is None else self.first_token_s - self.intended_s

    @property
    def time_per_token_s(self) -> float | None:
        """Mean over the tokens after the first ones; None where there are none."""
        later = self.num_new_tokens - self.num_first_tokens
        if self.first_token_s is None or later < 1:
            return None
        return (self.finished_s - self.first_token_s) / later

    @property
    def total_s(self) -> float:
        """From the intended arrival to the end."""
        return self.finished_s - self.intended_s


class Load(NamedTuple):
    """What a run of requests came to, in the order of their intended arrivals.

    kind: `closed` or `open`. offered: requests in flight, or arrivals a second as they came.
    was_cut: whether a limit of time left requests unasked or unfinished. warm_up are the requests
    before, on a scale of their own; no figure counts them.
    """

    kind: str
    offered: float
    rows: tuple[Row, ...]
    usage: Usage
    was_cut: bool
    warm_up: tuple[Row, ...]
    warm_up_usage: Usage


def poisson_arrivals(rate_per_s: float, *, num_requests: int, seed: int) -> tuple[float, ...]:
    """Seconds from the start: independent exponential gaps of mean 1 / rate, the first included."""
    if not 0 < rate_per_s < math.inf:
        raise ConfigError(f"the arrival rate is {rate_per_s:g}/s; expected more than 0")
    gaps_s = np.random.default_rng(seed).exponential(1 / rate_per_s, size=num_requests)
    return tuple(float(moment) for moment in np.cumsum(gaps_s))


def run_closed_loop(
    answerer: Answerer,
    queries: Sequence[Query],
    *,
    in_flight: int,
    num_requests: int,
    max_s: float,
    num_warm_up: int = 0,
    drain_s: float = DRAIN_S,
    clock: Clock | None = None,
) -> Load:
    """Keeps `in_flight` requests going until `num_requests` have been made or `max_s` are over.

    `queries` are asked in turn and over again, each time under a new id: give as many as requests
    where a server may remember prompts. What is going at `max_s` has `drain_s` to end and is then
    cancelled. Warm-up requests go first, within `max_s` and `drain_s` of their own.
    """
    if in_flight < 1:
        raise ConfigError(f"{in_flight} requests in flight; expected at least 1")
    _check(queries, num_requests, max_s)
    fresh, clock = _fresh(queries), clock or SystemClock()
    limits = {"max_s": max_s, "drain_s": drain_s}
    warm_up, warm_up_usage, _ = _drive(
        _Run(answerer, fresh, clock), _Closed(in_flight, num_warm_up, max_s), **limits
    )
    schedule = _Closed(in_flight, num_requests, max_s)
    rows, usage, was_cut = _drive(_Run(answerer, fresh, clock), schedule, **limits)
    was_cut = was_cut or len(rows) < num_requests
    return Load("closed", in_flight, rows, usage, was_cut, warm_up, warm_up_usage)


def run_open_loop(
    answerer: Answerer,
    queries: Sequence[Query],
    *,
    arrivals_s: Sequence[float],
    max_s: float,
    num_warm_up: int = 0,
    drain_s: float = DRAIN_S,
    clock: Clock | None = None,
) -> Load:
    """Hands in a request at each of the moments (`poisson_arrivals`), answered or not before.

    Arrivals later than `max_s` do not happen; whoever arrived before is handed in, however late,
    and cancelled if it is not answered by `max_s + drain_s`. Queries and warm-up (one at a time):
    see `run_closed_loop`.
    """
    _check(queries, len(arrivals_s), max_s)
    if any(later < earlier for earlier, later in itertools.pairwise((0.0, *arrivals_s))):
        raise ConfigError("arrivals are out of order; expected ascending seconds from 0")
    fresh, clock = _fresh(queries), clock or SystemClock()
    limits = {"max_s": max_s, "drain_s": drain_s}
    warm_up, warm_up_usage, _ = _drive(
        _Run(answerer, fresh, clock), _Closed(1, num_warm_up, max_s), **limits
    )
    schedule = _Open(tuple(moment for moment in arrivals_s if moment <= max_s))
    rows, usage, was_cut = _drive(_Run(answerer, fresh, clock), schedule, **limits)
    was_cut = was_cut or len(rows) < len(arrivals_s)
    offered = len(arrivals_s) / arrivals_s[-1] if arrivals_s[-1] else math.inf
    return Load("open", offered, rows, usage, was_cut, warm_up, warm_up_usage)


# -------------------------------------------------------------------------------- the loop


class _Closed(NamedTuple):
    """The next request comes as soon as there is room for it."""

    in_flight: int
    num_requests: int
    max_s: float

    def next_s(self, run: _Run) -> float | None:
        """When it is due; None while that depends on an answer, and when there is none."""
        now_s = run.now_s()
        is_due = run.num_asked < self.num_requests and now_s < self.max_s
        return now_s if is_due and len(run.going) < self.in_flight else None


class _Open(NamedTuple):
    """The next request comes when it comes."""

    moments_s: tuple[float, ...]

    def next_s(self, run: _Run) -> float | None:
        """When it is due; None when there is none."""
        return self.moments_s[run.num_asked] if run.num_asked < len(self.moments_s) else None


def _drive(
    run: _Run, schedule: _Closed | _Open, *, max_s: float, drain_s: float
) -> tuple[tuple[Row, ...], Usage, bool]:
    """Rows, usage, and whether anything was cancelled for want of time."""
    end_s = max_s + drain_s
    with UsageMeter() as meter:
        while True:
            next_s, now_s = schedule.next_s(run), run.now_s()
            if next_s is not None and next_s <= now_s:
                run.ask(next_s)
            elif (next_s is None and not run.going) or now_s >= end_s:
                break
            else:
                run.wait((end_s if next_s is None else next_s) - now_s)
    was_cut = bool(run.going)
    run.cut()
    return tuple(run.rows[number] for number in range(run.num_asked)), meter.usage, was_cut


class _Asked(NamedTuple):
    number: int
    intended_s: float
    submitted_s: float


class _Run:
    """Requests that are going, and rows of those that are not any more."""

    def __init__(self, answerer: Answerer, queries: Iterator[Query], clock: Clock) -> None:
        self._answerer, self._queries, self._clock = answerer, queries, clock
        self._start_s = clock.now()
        self.num_asked = 0
        self.going: dict[str, _Asked] = {}
        self.rows: dict[int, Row] = {}

    def now_s(self) -> float:
        """Since the start."""
        return self._clock.now() - self._start_s

    def ask(self, intended_s: float) -> None:
        """Hands in the next query, which was meant to come at `intended_s`."""
        query = next(self._queries)
        self.going[query.id] = _Asked(self.num_asked, intended_s, self.now_s())
        self.num_asked += 1
        try:
            self._answerer.submit(query)
        except Exception as error:  # noqa: BLE001 - what an answerer raises is what is measured
            self._end(Answer(query.id, finish="error", error=_line(error)))

    def wait(self, timeout_s: float) -> None:
        """Lets the answerer work for a moment, or time pass where it has nothing to do."""
        if not self.going:
            self._clock.sleep(timeout_s)
            return
        try:
            if self._answerer.is_idle:
                raise RuntimeError("the answerer is idle and has not answered")
            deltas = self._answerer.poll(min(timeout_s, _LONGEST_POLL_S))
        except Exception as error:  # noqa: BLE001 - see above
            self._fail_all(_line(error))
            return
        for delta in deltas:
            if delta.answer is not None:
                self._end(delta.answer)

    def cut(self) -> None:
        """Cancels what is still going; whatever ignores that has a moment and is then left."""
        for name in list(self.going):
            self._cancel(name)
        deadline_s = self.now_s() + _CANCEL_S
        while self.going and (left_s := deadline_s - self.now_s()) > 0:
            self.wait(left_s)
        for name in list(self.going):
            self._end(Answer(name, finish="cancelled", error="cancelling it had no effect"))

    def _cancel(self, id: str) -> None:
        with contextlib.suppress(Exception):
            self._answerer.cancel(id)

    def _fail_all(self, error: str) -> None:
        """An answerer that raised cannot be trusted with what it was given before."""
        for name in list(self.going):
            self._cancel(name)
            self._end(Answer(name, finish="error", error=error))

    def _end(self, answer: Answer) -> None:
        asked = self.going.pop(answer.id, None)
        if asked is None:  # ended before, by a failure of the answerer
            return
        started_s = self._start_s
        self.rows[asked.number] = Row(
            id=answer.id,
            intended_s=asked.intended_s,
            submitted_s=asked.submitted_s,
            first_token_s=answer.first_token_s - started_s if answer.first_token_s else None,
            finished_s=answer.finished_s - started_s if answer.finished_s else self.now_s(),
            num_prompt_tokens=answer.num_prompt_tokens,
            num_new_tokens=answer.num_new_tokens,
            num_first_tokens=answer.num_first_tokens,
            finish=answer.finish,
            error=answer.error,
        )


def _fresh(queries: Sequence[Query]) -> Iterator[Query]:
    """The queries over and over, each with an id that no run of this process has had."""
    for query in itertools.cycle(queries):
        yield dataclasses.replace(query, id=f"{query.id}#{next(_NUMBERS)}")


def _line(error: Exception) -> str:
    return " ".join(redact(f"{type(error).__name__}: {error}").split())[:_LONGEST_ERROR]


def _check(queries: Sequence[Query], num_requests: int, max_s: float) -> None:
    if not queries or num_requests < 1 or max_s <= 0:
        raise ConfigError(
            f"a load of {num_requests} requests from {len(queries)} queries in {max_s:g} s; "
            "expected at least one of each and a time"
        )
