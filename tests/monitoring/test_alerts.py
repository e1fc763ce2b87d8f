"""Each fault is raised once and resolved once, whatever its figure does meanwhile."""

from __future__ import annotations

import json

import pytest

from coderllm_jax.monitoring.alerts import AlertBook, Subject
from coderllm_jax.monitoring.rules import load_rules


def book(tmp_path, text, state=None):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    rules = [rule for rule in load_rules(str(path)) if rule.origin != "built in"]
    return AlertBook(rules, state or {})


HOT = "hot:\n  signal: machine.temperature_c\n  above: 90\n  recover: 80\n  for: 10s\n  says: hot\n"


def play(alerts, values, *, kind="machine", figure="temperature_c", every_s=5.0, start=0.0):
    """What a figure's course raises (+) and resolves (-), by time."""
    told = []
    for i, value in enumerate(values):
        now = start + i * every_s
        subjects = [Subject(kind, "m", "m", {figure: value}, updated=now)]
        changed = alerts.evaluate(subjects, now)
        told += [("-" if alert.resolved is not None else "+", now) for alert in changed]
    return told


def test_for_and_hysteresis(tmp_path):
    course = [95, 70, 95, 95, 95, 85, 95, 79, 81, 79, 79, 79, 70]
    assert play(book(tmp_path, HOT), course) == [("+", 20.0), ("-", 55.0)]


def test_a_figure_that_is_not_known_ends_nothing_and_begins_nothing(tmp_path):
    assert play(book(tmp_path, HOT), [95, None, 95, None, 95]) == []
    alerts = book(tmp_path, HOT)
    assert play(alerts, [95, 95, 95, None, None, None], start=100) == [("+", 110.0)]
    assert len(alerts.firing) == 1


def test_a_clock_that_is_set_back_delays_no_rate(tmp_path):
    alerts = book(
        tmp_path, "fills:\n  signal: disk.used_fraction\n  rises_by: 0.1\n  within: 60s\n"
    )
    assert play(alerts, [0.1, 0.1], kind="disk", figure="used_fraction", start=9000) == []
    assert play(alerts, [0.1, 0.1, 0.3], kind="disk", figure="used_fraction", start=0) == [
        ("+", 10.0)
    ]
    assert play(alerts, [0.3] * 20, kind="disk", figure="used_fraction", start=15) == [("-", 70.0)]


def test_what_is_over_ends_its_faults(tmp_path):
    alerts = book(tmp_path, HOT)
    play(alerts, [95, 95, 95])
    (ended,) = alerts.evaluate([], 100.0)
    assert (ended.resolved, alerts.firing) == (100.0, [])
    assert alerts.history[0].id == ended.id
    assert "over" in ended.ending


def test_two_subjects_are_two_faults(tmp_path):
    alerts = book(tmp_path, "full:\n  signal: disk.used_fraction\n  above: 0.9\n")
    subjects = [Subject("disk", name, name, {"used_fraction": 0.95}) for name in "ab"]
    assert len(alerts.evaluate(subjects, 0.0)) == 2
    assert len(alerts.evaluate(subjects, 1.0)) == 0
    assert alerts.rule_views()[0].num_firing == 2


def test_a_rule_for_some_only(tmp_path):
    alerts = book(tmp_path, 'full:\n  signal: disk.used_fraction\n  above: 0.9\n  only: "a*"\n')
    subjects = [Subject("disk", name, name, {"used_fraction": 0.95}) for name in ("ab", "ba")]
    assert [alert.subject for alert in alerts.evaluate(subjects, 0.0)] == ["ab"]


@pytest.mark.parametrize(
    ("text", "course", "told"),
    [
        (
            "jump:\n  signal: run.x\n  rises_by: 10\n  within: 60s\n",
            [0, 4, 8, 12, 12, 12, 12],
            [("+", 60.0), ("-", 100.0)],  # 12 - 8 is less than half of it
        ),
        (
            "drop:\n  signal: run.x\n  falls_by: 10\n  within: 60s\n",
            [20, 15, 9, 9, 9, 9, 9],
            [("+", 40.0), ("-", 100.0)],
        ),
    ],
)
def test_rates(tmp_path, text, course, told):
    found = play(book(tmp_path, text), course, kind="run", figure="x", every_s=20.0)
    assert found == told


def test_absence(tmp_path):
    alerts = book(tmp_path, "quiet:\n  signal: traffic.num_requests\n  absent: 60s\n")

    def look(now, updated):
        subject = Subject("traffic", "t", "t", {}, updated=updated)
        return [alert.resolved is None for alert in alerts.evaluate([subject], now)]

    assert look(0.0, None) == []  # nothing ever came: not known
    assert look(50.0, 10.0) == []
    assert look(71.0, 10.0) == [True]
    assert look(72.0, 10.0) == []
    assert look(73.0, 72.5) == [False]


def test_a_restart_goes_on_where_it_was(tmp_path):
    alerts = book(tmp_path, HOT)
    play(alerts, [95, 95, 95])
    state = json.loads(json.dumps(alerts.state()))
    again = book(tmp_path, HOT, state)
    assert play(again, [95, 95, 95], start=1000) == []
    assert play(again, [70, 70, 70], start=2000) == [("-", 2010.0)]
    assert again.history[0].raised == 10.0
    restored = book(tmp_path, HOT, json.loads(json.dumps(again.state())))
    assert [alert.id for alert in restored.history] == [alert.id for alert in again.history]


def test_a_rule_that_was_taken_away_ends_its_fault(tmp_path):
    alerts = book(tmp_path, HOT)
    play(alerts, [95, 95, 95])
    other = book(tmp_path, "x:\n  signal: run.loss\n  above: 1\n", alerts.state())
    subject = Subject("machine", "m", "m", {"temperature_c": 95})
    assert [alert.rule for alert in other.evaluate([subject], 50.0)] == ["hot"]


def test_messages_have_units_and_the_subjects_own_words(tmp_path):
    alerts = book(tmp_path, "full:\n  signal: disk.used_fraction\n  above: 0.9\n  says: full\n")
    (alert,) = alerts.evaluate([Subject("disk", "d", "host: /", {"used_fraction": 0.953})], 0.0)
    assert alert.message == "host: /: full: used fraction 95.3%"
    alerts = book(tmp_path, "stop:\n  signal: run.stalled\n  above: 0.5\n  says: stands still\n")
    saying = Subject("run", "r", "r", {"stalled": 1.0}, sayings={"stalled": "process 0 sleeps"})
    assert alerts.evaluate([saying], 0.0)[0].message == "r: stands still: process 0 sleeps"


def test_the_history_is_bounded(tmp_path):
    alerts = book(tmp_path, "full:\n  signal: disk.used_fraction\n  above: 0.9\n")
    for i in range(3000):
        play(alerts, [0.95, 0.5], kind="disk", figure="used_fraction", start=i * 10)
    assert len(alerts.history) == 1000
