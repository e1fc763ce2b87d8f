"""Where requests meet the models: a bounded queue, and one thread that owns every answerer.

    event loop                     │ the desk's thread
    submit(arm, queries) ── full? ─┼─► inbox ─► answerer.submit ─┐
       │            429, 503       │                             ▼
    Ticket ◄── news, one call a ───┼── answerer.poll, lane by lane, a token at a time
       │       round and ticket    │
    cancel(ticket) ────────────────┼─► inbox ─► answerer.cancel      deadlines are looked at
    drain() ── 503 from now on     │                                 once a round

A lane is one engine with the arms over it: arms that share weights share the lane, its slots and
its polls. A request that an answerer refuses, or breaks, ends as that request's error. Where an
engine itself fails, those it was answering end as errors and it goes on; after three failures in a
row, with no word of an answer between them, its lane is given up, and health says so. It says so
too where an engine owes tokens and none comes: turns without one are no sign of life.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal

from coderllm_jax.errors import UserError
from coderllm_jax.records import Answer, Delta, Query
from coderllm_jax.serving.blotting import blot
from coderllm_jax.serving.refusals import CLIENT_LEFT, Refusal
from coderllm_jax.serving.tickets import Ended, Lane, Listener, News, Progress, Ticket

_FAILURES_ALLOWED = 3
# How long an idle desk sleeps before it looks whether it is to end.
_IDLE_S = 0.5
# Handing a query over may mean looking something up: those who are being answered wait no longer
# than this for those who come.
_TAKE_IN_S = 0.05
# What was cancelled at the end is told of within so many rounds.
_LAST_TURNS = 3
# Before anything was measured, what an answer is taken to need once it has a slot.
_FIRST_GUESS_S = 2.0
_LONGEST_RETRY_S = 60.0


class Desk:
    """Takes requests from any thread; `run` is the one thread that answers them."""

    def __init__(
        self,
        lanes: Sequence[Lane] = (),
        *,
        max_waiting: int,
        deadline_s: float,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """max_waiting: requests beyond those that have a slot, for each lane."""
        self._max_waiting, self._deadline_s, self._now_s = max_waiting, deadline_s, now_s
        self._lanes: list[_OpenLane] = []
        self._lane_of: dict[str, _OpenLane] = {}
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._going: dict[str, tuple[Ticket, int]] = {}  # query id → its ticket and index
        self._is_open = self._is_draining = self._is_stopped = False
        self._heard: dict[Ticket, list[News]] = collections.defaultdict(list)
        if lanes:
            self.open(lanes)

    # ------------------------------------------------------------------------------ any thread

    def open(self, lanes: Sequence[Lane]) -> None:
        """Models are loaded and compiled: from now on requests are taken."""
        self._lanes = [_OpenLane(lane) for lane in lanes]
        self._lane_of = {arm: lane for lane in self._lanes for arm in lane.lane.arms}
        self._is_open = True

    def submit(self, id: str, arm: str, queries: Sequence[Query], tell: Listener) -> Ticket:
        """Takes a request; Refusal where there is no room, or nobody takes any."""
        if self._is_draining or self._is_stopped:
            raise Refusal(
                503,
                "the server is shutting down; ask another one, or again in a moment",
                "draining",
                retry_after_s=5,
            )
        if not self._is_open:
            raise Refusal(
                503,
                "the models are being loaded; ask again in a moment",
                "loading",
                retry_after_s=5,
            )
        lane = self._lane_of[arm]
        with self._lock:
            if lane.is_broken:
                raise Refusal(
                    503, "the engine has failed; the server must be restarted", "engine_failed"
                )
            room = lane.lane.num_slots + self._max_waiting
            if lane.num_going + len(queries) > room:
                raise Refusal(
                    429,
                    f"{lane.num_going} requests are being answered or waiting, which is all that "
                    "there is room for; ask again after Retry-After seconds",
                    "queue_full",
                    retry_after_s=self._retry_after_s(lane),
                )
            now = self._now_s()
            if not lane.num_going:
                lane.moved_s = now
            lane.num_going += len(queries)
        ticket = Ticket(id, arm, queries, tell, now, now + self._deadline_s)
        self._inbox.put(lambda: self._begin(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """The client has left: what is being answered ends where it is."""
        refusal = Refusal(CLIENT_LEFT, "the client left", "cancelled")
        self._inbox.put(lambda: self._give_up(ticket, "cancelled", refusal))

    def drain(self) -> None:
        """Takes no more; what has been taken goes on."""
        self._is_draining = True

    def stop(self) -> None:
        """Ends `run`; what is going on ends as cancelled."""
        self._is_stopped = True
        self._inbox.put(lambda: None)

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._is_open and not (self._is_draining or self._is_stopped)

    @property
    def state(self) -> Literal["loading", "ready", "draining"]:
        """In a word."""
        if self._is_draining or self._is_stopped:
            return "draining"
        return "ready" if self._is_open else "loading"

    @property
    def is_idle(self) -> bool:
        """Whether every request that was taken has ended."""
        return not any(lane.num_going for lane in self._lanes)

    @property
    def is_broken(self) -> bool:
        """Whether an engine was given up."""
        return any(lane.is_broken for lane in self._lanes)

    @property
    def num_running(self) -> int:
        """Answers that have a slot, as far as can be told from outside."""
        return sum(min(lane.num_going, lane.lane.num_slots) for lane in self._lanes)

    @property
    def num_waiting(self) -> int:
        """Answers that wait for one."""
        return sum(max(0, lane.num_going - lane.lane.num_slots) for lane in self._lanes)

    def silent_s(self) -> float:
        """Seconds without a token of the engine that is silent longest, of those that owe one."""
        now = self._now_s()
        return max((now - lane.moved_s for lane in self._lanes if lane.num_going), default=0.0)

    def _retry_after_s(self, lane: _OpenLane) -> float:
        """When what waits should have a slot: one is free every mean_s / num_slots."""
        num_waiting = max(1, lane.num_going - lane.lane.num_slots)
        return min(_LONGEST_RETRY_S, num_waiting * lane.mean_s / lane.lane.num_slots)

    # ------------------------------------------------------------------------ the desk's thread

    def run(self) -> None:
        """Answers until `stop`; the caller's thread is the desk's from here on."""
        while not self._is_stopped:
            self.turn(_IDLE_S)
        for ticket in {ticket for ticket, _ in self._going.values()}:
            self._give_up(ticket, "cancelled", _shut_down())
        for _ in range(_LAST_TURNS):
            self.turn()

    def turn(self, wait_s: float = 0.0) -> None:
        """One round: what came in, what is overdue, a token for everybody, and the news of it.

        Waits up to `wait_s` for something to come in, where there is nothing else to do.
        """
        self._take_in(wait_s if not self._going else 0.0)
        self._expire()
        for lane in self._lanes:
            self._poll(lane)
        self._tell()

    def _take_in(self, wait_s: float) -> None:
        try:
            action = self._inbox.get(timeout=wait_s) if wait_s else self._inbox.get_nowait()
            until_s = self._now_s() + _TAKE_IN_S
            action()
            while self._now_s() < until_s:
                self._inbox.get_nowait()()
        except queue.Empty:
            return

    def _begin(self, ticket: Ticket) -> None:
        lane = self._lane_of[ticket.arm]
        if self._is_stopped:
            ticket.refusal, ticket.ended = _shut_down(), "cancelled"
        for index, query in enumerate(ticket.queries):
            if ticket.refusal is not None:
                self._free(lane)
                continue
            try:
                lane.lane.arms[ticket.arm].submit(query)
            except UserError as error:
                self._free(lane)
                self._give_up(ticket, "error", _refused(query, error))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's alone
                self._free(lane)
                self._give_up(ticket, "error", _broken(error))
            else:
                self._going[query.id] = (ticket, index)
        self._end_if_over(ticket)

    def _expire(self) -> None:
        now = self._now_s()
        late = {ticket for ticket, _ in self._going.values() if ticket.deadline_s <= now}
        for ticket in late:
            self._give_up(
                ticket,
                "deadline",
                Refusal(
                    504,
                    f"no whole answer within {self._deadline_s:g} s; ask for fewer tokens, or "
                    "again when less is going on",
                    "deadline_exceeded",
                ),
            )

    def _give_up(self, ticket: Ticket, ended: Ended, refusal: Refusal) -> None:
        """Ends every choice of a request; the first reason counts."""
        if ticket.is_over or ticket.refusal is not None:
            return
        ticket.refusal, ticket.ended = refusal, ended
        arm = self._lane_of[ticket.arm].lane.arms[ticket.arm]
        for query in ticket.queries:
            if query.id in self._going:
                try:
                    is_going = arm.cancel(query.id)
                except Exception as error:  # noqa: BLE001 - an engine in ruins; see _fail
                    _log(error)
                    is_going = False
                if not is_going:
                    self._close(query.id, Answer(query.id, finish="cancelled"))
        self._end_if_over(ticket)

    def _poll(self, lane: _OpenLane) -> None:
        if lane.is_broken or lane.lane.poller.is_idle:
            return
        try:
            deltas = lane.lane.poller.poll()
        except Exception as error:  # noqa: BLE001 - requests end as errors, and others go on
            self._fail(lane, error)
            return
        if any(self._is_wanted(delta) for delta in deltas):
            lane.num_failures = 0
            lane.moved_s = self._now_s()
        else:
            # Text may be held back, as what may be the beginning of a stop text is.
            num_tokens = self._num_tokens(lane)
            if num_tokens > lane.num_tokens:
                lane.moved_s = self._now_s()
            lane.num_tokens = num_tokens
        for delta in deltas:
            self._hear(lane, delta)

    def _fail(self, lane: _OpenLane, error: Exception) -> None:
        """An engine broke under those it was answering."""
        lane.num_failures += 1
        lane.is_broken = lane.num_failures >= _FAILURES_ALLOWED
        refusal = _broken(error)
        for ticket in {ticket for ticket, _ in self._going.values()}:
            if self._lane_of[ticket.arm] is lane:
                self._give_up(ticket, "error", refusal)
                # Nobody knows whether such an engine will tell of an end.
                for query in ticket.queries:
                    if query.id in self._going:
                        self._close(query.id, Answer(query.id, finish="error"))

    def _is_wanted(self, delta: Delta) -> bool:
        """Whether an engine at work said it: a failed one, too, tells of what was cancelled."""
        ticket, _ = self._going.get(delta.id, (None, 0))
        return ticket is not None and ticket.refusal is None

    def _num_tokens(self, lane: _OpenLane) -> int:
        """Tokens of all answers that are going on, told or not."""
        progress = (
            lane.lane.progress(query_id)
            for query_id, (ticket, _) in self._going.items()
            if self._lane_of[ticket.arm] is lane
        )
        return sum(found.num_new_tokens for found in progress if found is not None)

    def _hear(self, lane: _OpenLane, delta: Delta) -> None:
        if delta.id not in self._going:  # of a request that was given up
            return
        ticket, index = self._going[delta.id]
        told = ticket.num_told.get(index, 0)
        if delta.answer is not None:
            answer = delta.answer
            if answer.finish == "error":
                refusal = Refusal(500, answer.error or "no answer", "internal_error")
                self._give_up(ticket, "error", refusal)
                if delta.id in self._going:
                    self._close(delta.id, answer)
                ticket.answers[index] = answer
                return
            news = News(
                index,
                delta.text,
                answer.logprobs[told:],
                answer.num_prompt_tokens,
                answer.num_new_tokens,
                answer,
            )
        else:
            now = lane.lane.progress(delta.id) or Progress(0, 0, ())
            news = News(
                index,
                delta.text,
                now.logprobs[told:],
                now.num_prompt_tokens,
                now.num_new_tokens,
            )
            ticket.num_told[index] = len(now.logprobs)
        if ticket.refusal is None:
            self._heard[ticket].append(news)
        if news.answer is not None:
            self._close(delta.id, news.answer)

    def _close(self, query_id: str, answer: Answer) -> None:
        """One choice has ended, in whatever way; with the last one, its ticket."""
        ticket, index = self._going.pop(query_id)
        ticket.answers[index] = answer
        lane = self._lane_of[ticket.arm]
        self._free(lane)
        if ticket.refusal is None and answer.num_new_tokens:  # others had no slot
            lane.mean_s += 0.1 * (answer.finished_s - answer.started_s - lane.mean_s)
        self._end_if_over(ticket)

    def _free(self, lane: _OpenLane) -> None:
        with self._lock:
            lane.num_going -= 1

    def _end_if_over(self, ticket: Ticket) -> None:
        if ticket.is_over or any(query.id in self._going for query in ticket.queries):
            return
        if ticket.refusal is None:
            finishes = {answer.finish for answer in ticket.answers.values()}
            ticket.ended = "length" if "length" in finishes else "stop"
        ticket.is_over = True
        self._heard[ticket] += ()

    def _tell(self) -> None:
        heard, self._heard = self._heard, collections.defaultdict(list)
        for ticket, news in heard.items():
            ticket.tell(ticket, news)


@dataclasses.dataclass
class _OpenLane:
    lane: Lane
    num_going: int = 0
    mean_s: float = _FIRST_GUESS_S  # that answers have held their slots for
    num_failures: int = 0
    num_tokens: int = 0  # when last it said nothing
    moved_s: float = 0.0  # when last there was a token, or the first was asked for
    is_broken: bool = False


def _shut_down() -> Refusal:
    return Refusal(503, "the server has shut down", "draining")


def _refused(query: Query, error: UserError) -> Refusal:
    """What an answerer says of a query that it cannot answer, in its own words."""
    message = str(error)
    code: Any = "context_length_exceeded" if "max_length" in message else "invalid_value"
    _, separator, rest = message.partition(": ")
    said = rest if separator and message.startswith("request ") else message
    return Refusal(400, said, code, param="prompt" if query.continues else "messages")


def _broken(error: Exception) -> Refusal:
    """Our own mistakes are told to the log, and to the client only that there was one."""
    _log(error)
    return Refusal(500, "the server made a mistake on this request", "internal_error")


def _log(error: Exception) -> None:
    logging.getLogger(__name__).error(
        "a request failed: %s", blot("".join(traceback.format_exception(error)))
    )
