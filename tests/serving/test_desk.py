"""The desk alone, without threads: a scripted answerer on a clock that waits for nobody."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from coderllm_jax.records import Delta, Query, TokenLogprob
from coderllm_jax.serving.desk import Desk
from coderllm_jax.serving.refusals import Refusal
from coderllm_jax.serving.tickets import Lane, News, Progress, Ticket
from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply

SAYS_AB = Reply(chunks=(Chunk(1.0, "a"), Chunk(2.0, "b")))
FOR_EVER = Reply(chunks=(Chunk(1.0, "a"),), fault="hang")


class Bench:
    """A desk over one fake, and what it told."""

    def __init__(self, script: Any = SAYS_AB, *, slots: int = 2, waiting: int = 1, **fake: Any):
        self.clock = FakeClock()
        self.fake = FakeAnswerer(self.clock, script, num_places=slots, poll_s=0.5, **fake)
        self.told: dict[str, list[News]] = {}
        self.ends: list[str] = []
        self.desk = Desk(
            [Lane({"base": self.fake}, self.fake, slots)],
            max_waiting=waiting,
            deadline_s=10,
            now_s=self.clock.now,
        )

    def ask(self, id: str, *, count: int = 1) -> Ticket:
        queries = [Query.from_question(f"{id}/{i}", "?") for i in range(count)]
        return self.desk.submit(id, "base", queries, self.hear)

    def hear(self, ticket: Ticket, news: Sequence[News]) -> None:
        self.told.setdefault(ticket.id, []).extend(news)
        if ticket.is_over:
            self.ends.append(ticket.id)

    def run(self, rounds: int = 60) -> None:
        for _ in range(rounds):
            self.desk.turn()

    def text(self, id: str) -> str:
        return "".join(news.text for news in self.told.get(id, []))


def test_news_come_as_they_are_and_the_end_once() -> None:
    bench = Bench()
    ticket = bench.ask("x")
    bench.run(2)
    assert [news.text for news in bench.told["x"]] == ["a"]
    assert not ticket.is_over
    bench.run()
    assert [news.text for news in bench.told["x"]] == ["a", "b"]
    assert bench.told["x"][-1].answer is ticket.answers[0]
    assert bench.ends == ["x"]
    assert (ticket.ended, ticket.refusal) == ("stop", None)
    assert bench.desk.is_idle


def test_room_is_slots_and_waiting_and_comes_back() -> None:
    bench = Bench(slots=2, waiting=1)
    bench.ask("a")
    bench.ask("b", count=2)
    assert (bench.desk.num_running, bench.desk.num_waiting) == (2, 1)
    with pytest.raises(Refusal) as caught:
        bench.ask("c")
    assert (caught.value.status, caught.value.code) == (429, "queue_full")
    assert int(caught.value.headers["retry-after"]) >= 1
    bench.run()
    assert bench.desk.is_idle
    bench.ask("c", count=3)
    with pytest.raises(Refusal):
        bench.ask("d")


def test_retry_after_grows_with_what_waits() -> None:
    waits = []
    for waiting in (1, 40):
        bench = Bench(slots=2, waiting=waiting)
        for i in range(2 + waiting):
            bench.ask(f"{i}")
        with pytest.raises(Refusal) as caught:
            bench.ask("late")
        waits.append(int(caught.value.headers["retry-after"]))
    assert waits == [1, 40]  # 2 s an answer before any has ended: a slot a second


def test_retry_after_is_what_answers_need_and_not_what_they_waited() -> None:
    """4 s an answer and a slot: 41 of them come at once, and the last waits for 160 s."""
    slow = Reply(chunks=(Chunk(2.0, "a"), Chunk(4.0, "b")))
    clock = FakeClock()
    fakes = [FakeAnswerer(clock, slow, poll_s=0.5), FakeAnswerer(clock, SAYS_AB, poll_s=0.5)]
    desk = Desk(
        [Lane({arm: fake}, fake, 1) for arm, fake in zip("ab", fakes, strict=True)],
        max_waiting=40,
        deadline_s=1000,
        now_s=clock.now,
    )

    def ask(arm: str, count: int) -> None:
        queries = [Query.from_question(f"{arm}/{clock.now()}/{i}", "?") for i in range(count)]
        desk.submit(arm, arm, queries, lambda ticket, news: None)

    def retry_after_s(arm: str) -> int:
        with pytest.raises(Refusal) as caught:
            ask(arm, 42)
        return int(caught.value.headers["retry-after"])

    ask("a", 41)
    assert retry_after_s("a") == 60  # 40 answers of 2 s, as is thought at first: the most said
    while not desk.is_idle:
        desk.turn()
    ask("a", 11)
    assert retry_after_s("a") in (39, 40)
    ask("b", 11)
    assert retry_after_s("b") == 20  # the other engine's answers are not its own


def test_a_refused_query_is_its_own_request_s_error() -> None:
    bench = Bench(refuses=lambda query: query.id.startswith("bad"))
    good = bench.ask("good")
    bad = bench.ask("bad")
    bench.run()
    assert (bad.refusal.status, bad.ended, bad.is_over) == (400, "error", True)
    assert (good.ended, bench.text("good")) == ("stop", "ab")
    assert bench.desk.is_idle


def test_one_refused_choice_ends_the_others_of_its_request() -> None:
    bench = Bench(FOR_EVER, slots=4, refuses=lambda query: query.id == "x/1")
    ticket = bench.ask("x", count=3)
    bench.run(4)
    assert ticket.is_over
    assert bench.ends == ["x"]
    assert bench.desk.is_idle
    assert [query.id for query in bench.fake.queries] == ["x/0"]


def test_an_answerer_s_error_is_a_500() -> None:
    bench = Bench([Reply(chunks=(), status=500), SAYS_AB])
    bad, good = bench.ask("bad"), bench.ask("good")
    bench.run()
    assert (bad.refusal.status, bad.ended) == (500, "error")
    assert good.ended == "stop"


def test_a_deadline_ends_what_is_late_and_nothing_else() -> None:
    bench = Bench([FOR_EVER, SAYS_AB], slots=1)
    late, waits = bench.ask("late"), bench.ask("waits")
    bench.run()
    assert (late.refusal.status, late.ended) == (504, "deadline")
    assert late.answers[0].text == "a"
    # It had waited for the slot until its own deadline, which was the same.
    assert waits.ended == "deadline"
    later = bench.ask("later")
    bench.run()
    assert later.ended == "stop"
    assert bench.desk.is_idle


def test_cancelling_frees_the_place_and_is_told_once() -> None:
    bench = Bench([FOR_EVER, SAYS_AB], slots=1)
    left, next_one = bench.ask("left"), bench.ask("next")
    bench.run(4)
    bench.desk.cancel(left)
    bench.desk.cancel(left)
    bench.run()
    assert (left.refusal.status, left.ended) == (499, "cancelled")
    assert next_one.ended == "stop"
    assert sorted(bench.ends) == ["left", "next"]
    bench.desk.cancel(left)  # after its end
    bench.run(2)
    assert bench.ends.count("left") == 1
    assert bench.desk.is_idle


def test_draining_takes_no_more_and_ends_what_is_there() -> None:
    bench = Bench()
    ticket = bench.ask("x")
    bench.desk.drain()
    with pytest.raises(Refusal) as caught:
        bench.ask("y")
    assert (caught.value.status, caught.value.code) == (503, "draining")
    bench.run()
    assert ticket.ended == "stop"


def test_stopping_ends_everything() -> None:
    bench = Bench(FOR_EVER)
    tickets = [bench.ask("x"), bench.ask("y")]
    bench.run(4)
    bench.desk.stop()
    bench.desk.run()
    assert [ticket.ended for ticket in tickets] == ["cancelled", "cancelled"]
    assert [ticket.refusal.status for ticket in tickets] == [503, 503]
    assert sorted(bench.ends) == ["x", "y"]
    assert bench.desk.is_idle


def test_what_came_just_before_the_stop_is_told_as_well() -> None:
    bench = Bench()
    ticket = bench.ask("x", count=2)
    bench.desk.stop()
    bench.desk.run()
    assert (ticket.ended, ticket.refusal.status) == ("cancelled", 503)
    assert bench.ends == ["x"]
    assert bench.desk.is_idle
    assert bench.fake.queries == []


def test_before_it_is_open_nothing_is_taken() -> None:
    desk = Desk(max_waiting=1, deadline_s=1)
    with pytest.raises(Refusal) as caught:
        desk.submit("x", "base", [], lambda ticket, news: None)
    assert (caught.value.status, caught.value.code) == (503, "loading")


class Breaking(FakeAnswerer):
    """Polls break as often as `breaks` says; ends by cancelling are told all the same."""

    breaks = 0

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        if self._untold:
            told, self._untold = self._untold, []
            return told
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("a bug with sk-canary0123456789abcdef in it")
        return super().poll(timeout_s)


def test_an_engine_that_breaks_once_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.fake.__class__ = Breaking
    bench.fake.breaks = 1
    broken = bench.ask("broken")
    bench.run(4)
    assert (broken.refusal.status, broken.is_over) == (500, True)
    assert "canary" not in broken.refusal.message
    assert "a bug with ***" in caplog.text
    assert "canary" not in caplog.text
    whole = bench.ask("whole")
    bench.run()
    assert whole.ended == "stop"
    assert not bench.desk.is_broken


@pytest.mark.usefixtures("caplog")
def test_an_engine_that_keeps_breaking_is_given_up() -> None:
    bench = Bench()
    bench.fake.__class__ = Breaking
    bench.fake.breaks = 99
    tickets = []
    for name in "abc":  # a failure each, and what it cancelled is told after it
        assert not bench.desk.is_broken
        tickets.append(bench.ask(name))
        bench.run(4)
    assert bench.desk.is_broken
    assert bench.desk.is_idle
    assert [ticket.refusal.status for ticket in tickets] == [500, 500, 500]
    with pytest.raises(Refusal) as caught:
        bench.ask("x")
    assert caught.value.code == "engine_failed"


def test_failures_with_answers_between_them_are_not_in_a_row() -> None:
    bench = Bench()
    bench.fake.__class__ = Breaking
    for name in "abc":
        bench.fake.breaks = 1
        broken = bench.ask(name)
        bench.run(4)
        assert broken.refusal.status == 500
        whole = bench.ask(f"{name} again")
        bench.run()
        assert whole.ended == "stop"
    assert not bench.desk.is_broken


def test_a_bug_in_submit_is_one_request_s(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    submit = bench.fake.submit

    def break_for_bad(query: Query) -> None:
        if query.id.startswith("bad"):
            raise KeyError("bug")
        submit(query)

    monkeypatch.setattr(bench.fake, "submit", break_for_bad)
    good, bad = bench.ask("good"), bench.ask("bad")
    bench.run()
    assert (bad.refusal.status, good.ended) == (500, "stop")
    assert bench.desk.is_idle


def test_those_who_come_do_not_hold_up_those_who_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking up takes 40 ms: two a round, however many have come."""
    bench = Bench(FOR_EVER, slots=9)
    submit = bench.fake.submit

    def look_up_first(query: Query) -> None:
        bench.clock.sleep(0.04)
        submit(query)

    monkeypatch.setattr(bench.fake, "submit", look_up_first)
    for i in range(9):
        bench.ask(f"{i}")
    counts = []
    for _ in range(5):
        bench.desk.turn()
        counts.append(len(bench.fake.queries))
    assert counts == [2, 4, 6, 8, 9]


def test_log_probabilities_are_told_once() -> None:
    """What a lane says of a query's progress grows; each piece of news has what is new of it."""
    bench = Bench(Reply(chunks=(Chunk(1.0, "a"), Chunk(2.0, "b"), Chunk(3.0, "c"))))
    tokens = [TokenLogprob(i, -1.0 * i, ()) for i in range(3)]

    def progress(query_id: str) -> Progress:
        count = len(bench.told.get("x", ())) + 1
        return Progress(7, count, tokens[:count])

    lane = Lane({"base": bench.fake}, bench.fake, 2, progress)
    bench.desk.open([lane])
    poll = bench.fake.poll

    def with_all(timeout_s: float = 0.0) -> list[Delta]:
        return [
            delta
            if delta.answer is None
            else delta._replace(answer=dataclasses.replace(delta.answer, logprobs=tuple(tokens)))
            for delta in poll(timeout_s)
        ]

    bench.fake.poll = with_all
    bench.ask("x")
    bench.run()
    assert [list(news.logprobs) for news in bench.told["x"]] == [
        tokens[:1],
        tokens[1:2],
        tokens[2:],
    ]


def test_a_desk_without_a_token_is_silent_however_often_it_turns() -> None:
    bench = Bench(FOR_EVER)
    bench.clock.sleep(50)
    assert bench.desk.silent_s() == 0  # nothing is due
    bench.ask("x")
    bench.run(2)  # its one token comes after a second
    assert bench.text("x") == "a"
    assert bench.desk.silent_s() == 0
    bench.run(14)
    assert bench.desk.silent_s() == pytest.approx(7)
    bench.desk.cancel(bench.ask("y"))  # what is told of its end is no token
    bench.run(2)
    assert bench.ends == ["y"]
    assert bench.desk.silent_s() == pytest.approx(8)


def test_a_desk_that_is_stuck_is_silent() -> None:
    bench = Bench(FOR_EVER)
    bench.ask("x")  # and its thread never turns again
    bench.clock.sleep(7)
    assert bench.desk.silent_s() == pytest.approx(7)


def test_a_lane_is_silent_beside_one_that_talks() -> None:
    clock = FakeClock()
    silent = FakeAnswerer(clock, FOR_EVER, poll_s=0.5)
    talks = FakeAnswerer(clock, Reply(chunks=tuple(Chunk(i + 1.0, "a") for i in range(20))))
    desk = Desk(
        [Lane({"a": silent}, silent, 1), Lane({"b": talks}, talks, 1)],
        max_waiting=1,
        deadline_s=100,
        now_s=clock.now,
    )
    for arm in "ab":
        desk.submit(arm, arm, [Query.from_question(arm, "?")], lambda ticket, news: None)
    for _ in range(16):
        desk.turn()
    assert desk.silent_s() == pytest.approx(7)


def test_a_token_whose_text_is_held_back_is_one() -> None:
    bench = Bench(FOR_EVER)
    num_tokens = [0]
    lane = Lane({"base": bench.fake}, bench.fake, 2, lambda _: Progress(7, num_tokens[0], ()))
    bench.desk.open([lane])
    bench.ask("x")
    for _ in range(16):
        num_tokens[0] += 1
        bench.run(1)
    assert bench.desk.silent_s() == 0
    bench.run(4)
    assert bench.desk.silent_s() == pytest.approx(2)
