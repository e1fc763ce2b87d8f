"""Everything at once: planted faults are raised and resolved once, restarts change nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from prometheus_client import generate_latest

from coderllm_jax.errors import ConfigError, RunError
from coderllm_jax.monitoring import discovery, watching
from coderllm_jax.monitoring.exposition import registry
from coderllm_jax.monitoring.views import DiskView
from coderllm_jax.monitoring.watching import Watch
from tests.monitoring.watched import (
    BEGAN,
    Clock,
    FixedMachine,
    MadeRun,
    append,
    config,
    open_watch,
    request,
    write_json,
)

REFERENCE = {"drift__reference_requests": 200, "drift__window_requests": 150}


@pytest.fixture
def clock():
    return Clock()


class Told:
    """What was sent: rule and whether it was raised (+) or resolved (-), and when."""

    def __init__(self, clock):
        self.clock, self.notes = clock, []

    def __call__(self, url, note):
        sign = "-" if note.title.startswith("resolved") else "+"
        self.notes.append((sign + note.title.partition(": ")[2], self.clock.now, note.body))
        return True

    @property
    def signs(self):
        return [sign for sign, _, _ in self.notes]


def look(watch):
    """One poll, and what it sends is sent."""
    watch.poll()
    while watch._outbox.state()["entries"]:
        watch._outbox.pump()
        watch._outbox.wait(10)


def go(watch, clock, seconds, each=lambda: None, *, every_s=1.0):
    for _ in range(round(seconds / every_s)):
        clock.now += every_s
        each()
        look(watch)


def told_of(tmp_path, clock, **more):
    told = Told(clock)
    return open_watch(tmp_path, clock, urls=("json://there",), send=told, **more), told


def training(made, **more):
    """Writes a row and a report each second."""
    step = [0]

    def once():
        step[0] += 1
        made.row(step[0], **more)
        made.report(step=step[0])

    return once


def test_a_run_appears_grows_and_is_shown(tmp_path, clock):
    watch = open_watch(tmp_path, clock)
    watch.poll()
    assert watch.overview().runs == []
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    seen = []
    step = training(made)
    for _ in range(12):
        clock.now += 1
        step()
        watch.poll()
        runs = watch.overview().runs
        seen.append(runs[0].num_points if runs else 0)
    assert seen[-1] == 12
    assert 0 in seen[:5]  # folders are walked every five seconds
    (run,) = watch.overview().runs
    series = watch.series(run.id, ["loss", "none"], since_step=9)
    assert series["loss"]["step"] == [10, 11, 12]
    assert series["loss"]["value"] == [2.0, 2.0, 2.0]
    assert series["none"] == {"step": [], "time": [], "value": []}
    json.dumps([dataclasses.asdict(watch.overview()), series], allow_nan=False)
    with pytest.raises(KeyError):
        watch.series("nobody", ["loss"])
    watch.close()


def test_a_loss_that_is_not_a_number(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    go(watch, clock, 30, training(made))
    made.row(31, loss=None)
    go(watch, clock, 5)
    assert told.signs == ["+not finite"]
    assert watch.series(watch.overview().runs[0].id, ["loss"])["loss"]["value"][-1] is None
    for step in range(32, 60):
        made.row(step)
    made.report(step=60)
    go(watch, clock, 5)
    assert told.signs == ["+not finite", "-not finite"]
    watch.close()


def test_divergence(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock, num_steps=1000)
    made.event("started")
    noise = np.random.default_rng(0).normal(0, 0.05, 1000).tolist()
    loss = [2.0]
    step = [0]

    def once():
        step[0] += 1
        made.row(step[0], loss=loss[0] + noise[step[0]])
        made.report(step=step[0])

    go(watch, clock, 60, once)
    loss[0] = 4.0
    go(watch, clock, 60, once)
    assert told.signs == ["+divergence"]
    loss[0] = 2.0
    go(watch, clock, 60, once)
    assert told.signs == ["+divergence", "-divergence"]
    watch.close()


def test_a_stopped_process_and_one_that_goes_on(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    made.report(host="elsewhere")
    step = training(made)
    go(watch, clock, 30, step)
    made.report(host="elsewhere")
    go(watch, clock, 60)
    assert told.signs == ["+stall"]
    assert "has not been heard of" in told.notes[0][2]
    assert told.notes[0][1] <= BEGAN + 60
    assert watch.overview().runs[0].status == "stalled"
    go(watch, clock, 10, step)
    assert told.signs == ["+stall", "-stall"]
    watch.close()


def test_a_laptop_that_slept_has_not_let_its_run_stall(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    step = training(made)
    go(watch, clock, 30, step)
    clock.now += 8 * 3600
    go(watch, clock, 2)  # the first report is written two seconds after waking
    assert watch.overview().runs[0].status == "running"
    go(watch, clock, 10, lambda: made.report(step=31, since=clock.now - 8 * 3600))
    go(watch, clock, 30, step)
    assert told.signs == []
    clock.now += 8 * 3600  # and this time it does not go on
    made.report(step=60, host="elsewhere")
    go(watch, clock, 30)
    assert told.signs == ["+stall"]
    clock.now += 8 * 3600  # nor does it after another night
    go(watch, clock, 60)
    assert told.signs == ["+stall"]
    watch.close()


def test_looks_that_are_always_far_apart_are_no_sleep(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    made.report(host="elsewhere")
    go(watch, clock, 360, every_s=60.0)
    assert told.signs == ["+stall"]
    watch.close()


def test_a_clock_that_is_set_back_blinds_nobody(tmp_path, clock):
    steady = Clock()
    machine = FixedMachine()
    full = {"disks": [DiskView("runs", 100, 3, 0.97)]}
    watch, told = told_of(tmp_path, clock, machine=machine, steady=steady)

    def pass_s(seconds):
        steady.now += seconds
        go(watch, clock, seconds)

    for _ in range(5):
        pass_s(5)
    machine.changes = full
    pass_s(5)  # the disk is full from here on, which counts after 15 s
    clock.now -= 3600
    MadeRun(tmp_path / "runs" / "a", clock)
    for _ in range(5):
        pass_s(5)
    assert [run.name for run in watch.overview().runs] == ["a"]
    assert told.signs == ["+disk"]
    machine.changes = {"disks": [DiskView("runs", 100, 50, 0.5)]}
    pass_s(5)
    clock.now -= 3600
    for _ in range(5):
        pass_s(5)
    assert told.signs == ["+disk", "-disk"]
    watch.close()


def test_a_run_that_fails_is_told_of_until_it_is_gone_on_with(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    step = training(made)
    go(watch, clock, 10, step)
    made.event("diverged", step=10)
    go(watch, clock, 2 * 3600, every_s=60.0)
    assert told.signs == ["+failed"]
    made.event("started", step=10)
    go(watch, clock, 5, step)
    assert told.signs == ["+failed", "-failed"]
    watch.close()


def test_a_run_that_fails_ends_its_other_faults(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    go(watch, clock, 10, training(made))
    made.row(11, loss=None)
    go(watch, clock, 2)
    made.event("diverged", step=11)
    go(watch, clock, 5)
    assert told.signs == ["+not finite", "+failed", "-not finite"]
    assert [alert.rule for alert in watch._book.firing] == ["failed"]
    watch.close()


def test_starvation(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    made = MadeRun(tmp_path / "runs" / "a", clock, num_steps=1000)
    made.event("started")
    wait = [0.01]
    step = [0]

    def once():
        step[0] += 1
        made.row(step[0], data_wait_s=wait[0])
        made.report(step=step[0])

    go(watch, clock, 30, once)
    wait[0] = 0.6
    go(watch, clock, 90, once)
    wait[0] = 0.01
    go(watch, clock, 90, once)
    assert told.signs == ["+starvation", "-starvation"]
    watch.close()


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("disk", {"disks": [DiskView("runs", 100, 3, 0.97)]}),
        ("memory", {"memory_used_fraction": 0.98}),
        ("temperature", {"temperatures_c": {"cpu": 99.0}}),
    ],
)
def test_the_machine(tmp_path, clock, rule, changes):
    machine = FixedMachine()
    machine.changes = {"disks": [DiskView("runs", 100, 10, 0.9)]}
    watch, told = told_of(tmp_path, clock, machine=machine)
    before = dict(machine.changes)
    go(watch, clock, 20)
    machine.changes |= changes
    go(watch, clock, 100)
    machine.changes = before
    go(watch, clock, 100)
    assert told.signs == [f"+{rule}", f"-{rule}"]
    watch.close()


def serving(tmp_path, clock, generator, changes):
    """Writes a request each second."""
    path = tmp_path / "logs" / "r.jsonl"
    path.parent.mkdir(exist_ok=True)

    def once():
        values = {
            "completion_tokens": round(50 * generator.lognormal(0, 0.5)),
            "mean_logprob": generator.normal(-1, 0.2),
            "total_s": 2.0 * generator.lognormal(0, 0.3),
        }
        append(path, request(clock.now, **{**values, **changes(values)}))

    return once


@pytest.mark.parametrize(
    ("rule", "fault", "lasts_s"),
    [
        ("errors", lambda values: {"status": 500}, 60),
        ("rejections", lambda values: {"status": 429}, 120),
        ("latency", lambda values: {"total_s": 4 * values["total_s"]}, 400),
        ("drift", lambda values: {"mean_logprob": values["mean_logprob"] - 0.2}, 500),
    ],
)
def test_served_traffic(tmp_path, clock, rule, fault, lasts_s):
    watch, told = told_of(tmp_path, clock, **REFERENCE)
    is_faulty = False

    def changes(values):
        return fault(values) if is_faulty else {}

    step = serving(tmp_path, clock, np.random.default_rng(0), changes)
    go(watch, clock, 500, step, every_s=2.0)
    is_faulty = True
    go(watch, clock, 2 * lasts_s, step, every_s=2.0)
    is_faulty = False
    go(watch, clock, 1400, step, every_s=2.0)
    assert told.signs == [f"+{rule}", f"-{rule}"]
    assert BEGAN + 500 < told.notes[0][1] <= BEGAN + 500 + 2 * lasts_s
    watch.close()


def test_a_rollout_ends_the_drift_of_the_version_before(tmp_path, clock):
    watch, told = told_of(tmp_path, clock, **REFERENCE)
    version, shift = "1", 0.0

    def changes(values):
        return {"model_version": version, "mean_logprob": values["mean_logprob"] + shift}

    write = serving(tmp_path, clock, np.random.default_rng(0), changes)

    def step():
        for _ in range(4):
            write()

    go(watch, clock, 150, step, every_s=2.0)
    shift = -0.4
    go(watch, clock, 100, step, every_s=2.0)
    assert told.signs == ["+drift"]
    rolled_out = clock.now
    version = "2"
    go(watch, clock, 80, step, every_s=2.0)
    assert told.signs == ["+drift", "-drift"]
    assert told.notes[-1][1] == rolled_out + 76  # the 150th request
    assert "version 2 in place of 1" in {
        drift.message for drift in watch.overview().traffic[0].drift
    }
    watch.close()


def test_what_was_over_before_the_monitor_came_is_no_news(tmp_path, clock):
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    made.row(1, loss=None)
    made.event("diverged", step=1)
    clock.now += 86_400
    watch, told = told_of(tmp_path, clock)
    go(watch, clock, 20)
    assert told.signs == []
    assert watch.overview().runs[0].status == "failed"
    watch.close()


def test_a_restart_raises_nothing_twice_and_resolves_what_is_over(tmp_path, clock):
    machine = FixedMachine()
    machine.changes = {"memory_used_fraction": 0.98}
    watch, told = told_of(tmp_path, clock, machine=machine)
    go(watch, clock, 60)
    watch.close()
    assert told.signs == ["+memory"]
    watch, again = told_of(tmp_path, clock, machine=machine)
    go(watch, clock, 60)
    assert again.signs == []
    (alert,) = watch.overview().alerts
    assert (alert.rule, alert.resolved, alert.notified) == ("memory", None, "sent")
    machine.changes = {}
    go(watch, clock, 60)
    assert again.signs == ["-memory"]
    watch.close()


def test_nothing_that_is_watched_is_written(tmp_path, clock):
    made = MadeRun(tmp_path / "runs" / "a", clock)
    made.event("started")
    training(made)()
    serving(tmp_path, clock, np.random.default_rng(0), lambda values: {})()

    def seen():
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for folder in ("runs", "logs")
            for path in sorted((tmp_path / folder).rglob("*"))
        }

    before = seen()
    watch = open_watch(tmp_path, clock)
    go(watch, clock, 40)
    watch.close()
    assert seen() == before


def test_a_run_that_is_removed_is_watched_no_more(tmp_path, clock):
    made = MadeRun(tmp_path / "runs" / "a", clock)
    training(made)()
    watch = open_watch(tmp_path, clock)
    watch.poll()
    made.folder.rename(tmp_path / "elsewhere")
    clock.now += 10
    watch.poll()
    assert watch.overview().runs == []
    watch.close()


def test_damaged_state_is_set_aside_and_said(tmp_path, clock):
    write_json(tmp_path / "state" / "state.json", {"alerts": {"firing": [{"id": "x"}]}})
    watch = open_watch(tmp_path, clock)
    assert "is set aside" in watch.overview().problems[0]
    watch.close()


def test_a_log_that_is_gone_ends_its_faults(tmp_path, clock):
    watch, told = told_of(tmp_path, clock)
    path = tmp_path / "logs" / "r.jsonl"
    path.parent.mkdir()
    for i in range(40):
        append(path, request(clock.now + i, status=500))
    go(watch, clock, 40)
    assert told.signs == ["+errors"]
    path.unlink()
    go(watch, clock, 900, every_s=10.0)
    assert told.signs == ["+errors", "-errors"]
    assert watch.overview().traffic == []
    watch.close()


def test_what_is_left_out_is_said(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(watching, "_MAX_LOGS", 2)
    monkeypatch.setattr(discovery, "_MAX_FOUND", 1)
    (tmp_path / "logs").mkdir()
    for i, name in enumerate("cba"):
        path = tmp_path / "logs" / f"{name}.jsonl"
        append(path, request(clock.now))
        os.utime(path, (BEGAN + i, BEGAN + i))
    for name in "ab":
        MadeRun(tmp_path / "runs" / name, clock)
    values = dataclasses.replace(
        config(tmp_path, traffic__logs=("~/logs/*.jsonl",)), runs=("~/runs",), state_dir="~/state"
    )
    watch = Watch(values, clock=clock, steady=clock, machine=FixedMachine(), urls=())
    watch.poll()
    view = watch.overview()
    assert [log.name for log in view.traffic] == ["logs/a.jsonl", "logs/b.jsonl"]
    assert len(view.runs) == 1
    assert view.problems == [
        "older runs and evaluations that are not watched, because there are too many: 1",
        "older request logs that are not watched, because there are too many: 1",
    ]
    assert (tmp_path / "state" / "lock").exists()
    watch.close()


def test_scores_outlive_a_restart_and_prometheus_gets_the_newest(tmp_path, clock):
    path = tmp_path / "runs" / "a" / "evaluation" / "results.json"

    def evaluate(value):
        write_json(path, {"suites": {"qa": {"figures": {"f1": {"value": value}}}}})

    for value in (0.4, 0.5):
        evaluate(value)
        watch = open_watch(tmp_path, clock)
        watch.poll()
        versions = watch.overview().quality.versions
        text = generate_latest(registry(watch)).decode()
        watch.close()
    assert [version.scores[0].value for version in versions] == [0.4, 0.5]
    scores = [line for line in text.splitlines() if line.startswith("coderllm_monitor_eval")]
    assert [line.rpartition(" ")[2] for line in scores] == ["0.5"]
    (tmp_path / "state" / "scores.json").write_text('{"versions": [3]}')
    watch = open_watch(tmp_path, clock)
    assert "scores.json: was damaged and is set aside" in watch.overview().problems[0]
    watch.close()


ODD = [None, True, "x", "", [], {}, -1, 0, 10**30, 10**400, 1e308, "1", [1], {"a": 1}]


def test_files_that_hold_anything_end_nothing(tmp_path, clock):
    """Every file of a run and a log with values of the wrong type, at every place, for a while."""
    generator = np.random.default_rng(0)

    def odd():
        return ODD[generator.integers(len(ODD))]

    made = MadeRun(tmp_path / "runs" / "a", clock)
    log = tmp_path / "logs" / "r.jsonl"
    log.parent.mkdir()
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "events.out.tfevents.1").write_bytes(generator.bytes(2000))
    rows = ["step", "time", "loss", "eval_loss", "step_time_s", "data_wait_s", "tokens"]
    rows += ["loss_tokens", "skipped"]
    keys = ("num_steps", "devices", "program", "model", "evaluation", "checkpoint", "train_s")
    watch = open_watch(tmp_path, clock)
    for i in range(60):
        clock.now += 6
        values = {name: odd() for name in rows if name != "eval_loss" or i % 2}
        append(made.metrics, values)
        append(made.metrics, {**values, "step": i, "time": clock.now})
        made.event(["started", "live", "finished", "skipped"][i % 4], values=odd(), signal=odd())
        append(made.folder / "journal.jsonl", {"event": odd(), "time": odd()})
        report = {key: odd() for key in ("time", "pid", "step", "rank", "phase", "since")}
        write_json(made.folder / "processes" / "0.json", report)
        for name in ("manifest.json", "config.json", "report/summary.json"):
            write_json(made.folder / name, {key: odd() for key in keys})
        results = {"suites": odd(), "manifest": odd()}
        write_json(made.folder / "evaluation" / "results.json", results)
        append(log, {key: odd() for key in request(0)})
        append(log, {**{key: odd() for key in request(0)}, "time": clock.now})
        watch.poll()
        json.dumps(dataclasses.asdict(watch.overview()), allow_nan=False)
    (ours,) = [run for run in watch.overview().runs if run.name == "a"]
    assert ours.num_points > 0
    assert "not an event" in watch.overview().problems[0]
    watch.close()


def test_mistakes_end_before_anything_is_watched(tmp_path, clock):
    rules = tmp_path / "rules.yaml"
    rules.write_text("a:\n  abvoe: 1\n")
    with pytest.raises(ConfigError, match=r"rules\.yaml:2: a\.abvoe"):
        open_watch(tmp_path, clock, alerts__rules=str(rules))
    with pytest.raises(ConfigError, match="expected ours=theirs"):
        open_watch(tmp_path, clock, traffic__fields=("x",))
    watch = open_watch(tmp_path, clock)
    with pytest.raises(RunError, match="in use by another monitor"):
        open_watch(tmp_path, clock)
    watch.close()
    with pytest.raises(ConfigError, match="raise it"):
        config(tmp_path, alerts__max_retry_s=0.5)


def test_it_needs_neither_jax_nor_keras_nor_tensorflow_and_little_memory(tmp_path):
    """In a process of its own: a whole watch, Prometheus, apprise and NVML's binding included."""
    code = f"""
import sys, psutil
from pathlib import Path
from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.monitoring.event_files import EventFile
from coderllm_jax.monitoring.exposition import registry
from coderllm_jax.monitoring.outbox import check_urls
from coderllm_jax.monitoring.watching import Watch
from prometheus_client import generate_latest
import pynvml
config = MonitoringConfig.create_default()
config.runs, config.state_dir = (r"{tmp_path}",), r"{tmp_path}/state"
watch = Watch(MonitoringConfig.from_config_dict(config))
watch.poll()
generate_latest(registry(watch))
EventFile(Path("tests/fixtures/clu.tfevents")).read()
check_urls(["json://localhost"])
watch.close()
heavy = {{"jax", "jaxlib", "keras", "keras_hub", "tensorflow", "torch", "scipy", "pandas"}}
print(sorted(heavy & set(sys.modules)), psutil.Process().memory_info().rss // 1_000_000)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    modules, memory_mb = found.stdout.strip().rsplit(" ", 1)
    assert modules == "[]"
    assert int(memory_mb) < 150
