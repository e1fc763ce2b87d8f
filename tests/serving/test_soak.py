"""A small soak: bursts beyond the room, clients that leave, nonsense; every answer the engine's."""

from __future__ import annotations

import asyncio
import collections
import json
from pathlib import Path

from benchmarks.serving_soak import find_wrong, make_plan, run_soak
from tests.serving.running import SLOTS, reference, running
from tests.web.served import wait_until


def test_a_soak(tmp_path: Path) -> None:
    plan = make_plan(120, seed=1, longest_prompt=60, most_tokens=16)
    kinds = collections.Counter(planned.kind for planned in plan)
    assert kinds == {"answered": 108, "cancelled": 6, "malformed": 6}
    with running(folder=tmp_path, max_waiting=4) as up:
        outcomes = asyncio.run(run_soak(up.url, plan, most_at_once=SLOTS + 8))
        wait_until(lambda: up.service.desk.is_idle)
        assert up.log is not None
        log = up.log
        sent = len(plan) + sum(outcome.num_turned_away for outcome in outcomes)
        wait_until(lambda: len(log.read_text().splitlines()) == sent)
    assert find_wrong(plan, outcomes, reference()) == []
    assert any(outcome.num_turned_away for outcome in outcomes)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    statuses = collections.Counter(row["status"] for row in rows)
    assert statuses[429] == sum(outcome.num_turned_away for outcome in outcomes)
    assert statuses[400] + statuses[404] == 6
    # Who leaves with the last chunk on its way has been answered.
    assert statuses[200] + statuses[499] == 114
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_wrong_answer_is_found() -> None:
    """The check itself can fail: one character, one status."""
    plan = make_plan(20, seed=2, longest_prompt=20, most_tokens=4)
    with running() as up:
        outcomes = asyncio.run(run_soak(up.url, plan, most_at_once=4))
    places = [i for i, planned in enumerate(plan) if planned.kind == "answered"]
    outcomes[places[0]] = outcomes[places[0]]._replace(texts=("other",))
    outcomes[places[1]] = outcomes[places[1]]._replace(status=500)
    assert find_wrong(plan, outcomes, reference()) == sorted(places[:2])
