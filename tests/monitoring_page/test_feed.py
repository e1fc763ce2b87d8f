"""What a page is told, and when: nothing twice, nothing missed, all anew where it must be."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coderllm_jax.monitoring.page.feed import Feed, Seen, to_json
from coderllm_jax.monitoring.views import Interval
from tests.monitoring_page.shown import FakeWatch

WANTED = {"run-0": ["loss", "eval_loss"]}


def with_feed(watch: Any, do: Callable[[Feed], Awaitable[Any]]) -> Any:
    """What `do` gives of a feed that is closed afterwards."""

    async def go() -> Any:
        feed = Feed(watch, poll_s=0.01)
        try:
            return await do(feed)
        finally:
            await feed.close()

    return asyncio.run(go())


def told(news: list[dict[str, Any]], name: str) -> list[int]:
    return [step for piece in news for step in piece["series"][name]["step"]]


def test_growth_is_told_once_and_whole() -> None:
    watch = FakeWatch(num_steps=100)
    watch.step = 40

    async def grow(feed: Feed) -> None:
        seen: dict[str, Seen] = {}
        first = await feed.news(WANTED, seen, max_points=1000)
        assert [piece["is_new"] for piece in first] == [True]
        steps, evaluations = told(first, "loss"), told(first, "eval_loss")
        assert await feed.news(WANTED, seen, max_points=1000) == []
        while watch.step < 100:
            watch.grow(7)
            news = await feed.news(WANTED, seen, max_points=1000)
            assert [piece["is_new"] for piece in news] == [False]
            steps += told(news, "loss")
            evaluations += told(news, "eval_loss")
        assert steps == list(range(1, 101))
        assert evaluations == [25, 50, 75, 100]

    with_feed(watch, grow)


def test_an_evaluation_that_is_written_after_later_steps_is_told_too() -> None:
    class Late:
        """Evaluates step 10 after step 12 was written."""

        has_evaluated = False

        def series(self, id: str, names: Any, *, since_step: int, max_points: int) -> Any:
            steps = {"loss": [10, 11, 12], "eval_loss": [10] if self.has_evaluated else []}
            found: dict[str, Any] = {"revision": 0}
            for name in names:
                new = [step for step in steps[name] if step > since_step]
                found[name] = {"step": new, "time": new, "value": new}
            return found

        def close(self) -> None:
            pass

    watch = Late()

    async def look(feed: Feed) -> None:
        seen: dict[str, Seen] = {}
        assert told(await feed.news(WANTED, seen, max_points=9), "eval_loss") == []
        watch.has_evaluated = True
        assert told(await feed.news(WANTED, seen, max_points=9), "eval_loss") == [10]
        assert await feed.news(WANTED, seen, max_points=9) == []

    with_feed(watch, look)


def test_a_run_that_was_cut_is_told_anew() -> None:
    watch = FakeWatch(num_steps=100)
    watch.step = 80

    async def cut(feed: Feed) -> None:
        seen: dict[str, Seen] = {}
        await feed.news(WANTED, seen, max_points=1000)
        watch.cut(30)
        (piece,) = await feed.news(WANTED, seen, max_points=1000)
        assert piece["is_new"]
        assert piece["series"]["loss"]["step"] == list(range(1, 31))
        assert seen["run-0"] == Seen(1, {"loss": 30, "eval_loss": 25})

    with_feed(watch, cut)


def test_a_run_that_is_gone_is_passed_over_and_comes_back_whole() -> None:
    watch = FakeWatch(num_steps=20)

    async def go(feed: Feed) -> None:
        seen: dict[str, Seen] = {}
        await feed.news(WANTED, seen, max_points=1000)
        points = watch.points.pop("run-0")
        assert await feed.news(WANTED, seen, max_points=1000) == []
        watch.points["run-0"] = points
        (piece,) = await feed.news(WANTED, seen, max_points=1000)
        assert piece["is_new"]

    with_feed(watch, go)


def test_a_position_travels_and_another_process_does_not_take_it() -> None:
    async def go(feed: Feed) -> str:
        seen: dict[str, Seen] = {}
        await feed.news(WANTED, seen, max_points=1000)
        text = feed.dump_seen(seen)
        assert "\n" not in text
        assert feed.load_seen(text) == seen
        return text

    text = with_feed(FakeWatch(), go)

    async def other(feed: Feed) -> None:
        assert feed.load_seen(text) == {}

    with_feed(FakeWatch(), other)


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", "[1,2,3]", '["EPOCH",5]', '["EPOCH",{"a":1}]', '["EPOCH",{"a":[0,5]}]',
     '["EPOCH",{"a":["x",{}]}]', '["EPOCH",{"a":[0,{"b":"c"}]}]', "[" * 50_000, "9" * 100_000],
)  # fmt: skip
def test_a_position_that_is_nonsense_is_none(text: str) -> None:
    async def go(feed: Feed) -> None:
        assert feed.load_seen(text.replace("EPOCH", feed.epoch)) == {}

    with_feed(FakeWatch(), go)


def test_sections_that_say_the_same_keep_their_version() -> None:
    watch = FakeWatch()

    async def go(feed: Feed) -> None:
        await feed.refresh()
        before = dict(feed.sections)
        await feed.refresh()
        assert feed.sections == before
        watch.grow()
        await feed.refresh()
        changed = {name for name in before if feed.sections[name] != before[name]}
        assert {"runs"} <= changed <= {"runs", "traffic"}
        assert feed.sections["runs"].version == 2

    with_feed(watch, go)


def test_nothing_is_drawn_up_for_nobody() -> None:
    watch = FakeWatch()
    looks = 0
    overview = watch.overview

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return overview()

    watch.overview = counted  # type: ignore[method-assign]

    async def go(feed: Feed) -> None:
        polling = asyncio.create_task(feed.keep_going())
        while watch.num_polls < 20:
            await asyncio.sleep(0.01)
        assert looks == 0
        assert await feed.wait_past(-1, timeout_s=1) > 0
        assert looks == 1
        polling.cancel()

    with_feed(watch, go)


def test_a_look_that_fails_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    watch = FakeWatch()
    poll = watch.poll

    def fail() -> bool:
        poll()
        if watch.num_polls < 5:
            raise RuntimeError("disk on fire")
        return False

    watch.poll = fail  # type: ignore[method-assign]

    async def go(feed: Feed) -> None:
        polling = asyncio.create_task(feed.keep_going())
        said = []
        while watch.num_polls < 8:
            await feed.wait_past(feed.tick, timeout_s=1)
            said.append(feed.sections["problems"].text)
        assert any("the last look failed: RuntimeError: disk on fire" in text for text in said)
        assert "disk on fire" not in said[-1]
        polling.cancel()

    with_feed(watch, go)
    assert sum("could not look" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("secret", ["canary-0123456789abcdef", 'canary-"quoted"', "canary-\\-ü"])
def test_secrets_in_what_others_wrote_do_not_leave(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("SOME_API_KEY", secret)
    watch = FakeWatch(words=f" {secret} ")

    async def go(feed: Feed) -> None:
        await feed.refresh()
        text = json.dumps(feed.sections)
        assert "canary" not in text
        assert "***" in text

    with_feed(watch, go)


def test_views_are_json_that_browsers_read() -> None:
    value = {"eta": Interval(1.0, 2.0, math.inf), "loss": math.nan, "low": -math.inf, "runs": ()}
    assert json.loads(to_json(value)) == {
        "eta": {"low": 1.0, "expected": 2.0, "high": "Infinity"},
        "loss": "NaN",
        "low": "-Infinity",
        "runs": [],
    }
