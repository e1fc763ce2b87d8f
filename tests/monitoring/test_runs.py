"""A run as it grows, is cut, goes on and ends; every file of it may be missing."""

from __future__ import annotations

import json
import os

import pytest
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from coderllm_jax.monitoring import discovery
from coderllm_jax.monitoring.columns import MAX_NAMES
from coderllm_jax.monitoring.discovery import Found, find_all, identify
from coderllm_jax.monitoring.events_watch import EventsWatch
from coderllm_jax.monitoring.runs import RunWatch
from tests.monitoring.test_event_files import event, framed
from tests.monitoring.watched import BEGAN, Clock, MadeRun, append, write_json


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(tmp_path, clock):
    return MadeRun(tmp_path / "runs" / "a", clock)


def watched(made):
    return RunWatch(Found("run", made.folder, "a"), max_rows=10_000)


def train(made, first, last, *, step_s=1.0, **more):
    for step in range(first, last + 1):
        made.clock.now += step_s
        made.row(step, **more)
        made.report(step=step)


def test_a_run_as_it_goes(made, clock):
    made.event("started")
    made.report()
    made.evaluation(0, 5.0)
    run = watched(made)
    run.poll(clock())
    assert run.view(clock(), ()).num_points == 1
    train(made, 1, 40)
    made.evaluation(20, 3.0)
    run.poll(clock())
    view = run.view(clock(), ["x"])
    assert (view.status, view.step, view.num_steps) == ("running", 40, 100)
    assert (view.model, view.phase, view.source) == ("tiny", "training", "coderllm_jax")
    assert view.tokens == 40_000
    assert view.tokens_per_s == pytest.approx(1000)
    # (1000 · 1e12 + 400 · 2e12) FLOP a second, two H100.
    assert view.mfu == pytest.approx(1.8e15 / (2 * 989e12))
    assert view.eta_s.expected == pytest.approx(60, abs=2)
    assert view.eta_s.low <= 60 <= view.eta_s.high
    assert (view.best_step, view.best_eval_loss) == (20, 3.0)
    assert view.latest["loss"] == 2.0
    assert {"loss", "eval_loss", "grad_norm"} <= set(view.series)
    assert view.alerts == ["x"]
    assert view.split["compute"] == pytest.approx(0.99, abs=0.01)
    assert view.goodput == view.split["compute"]
    assert view.started == BEGAN


def test_a_resume_cuts_the_run_and_everything_is_read_again(made, clock):
    made.event("started")
    train(made, 1, 30)
    run = watched(made)
    run.poll(clock())
    assert run.view(clock(), ()).revision == 0
    kept = made.metrics.read_text().splitlines(keepends=True)[:20]
    unfinished = made.metrics.with_name(".unfinished")
    unfinished.write_text("".join(kept))
    unfinished.replace(made.metrics)
    clock.now += 500
    made.event("started", step=20)
    train(made, 21, 25, loss=1.5)
    run.poll(clock())
    view = run.view(clock(), ())
    assert (view.revision, view.num_points, view.step) == (1, 25, 25)
    assert view.tokens == 25_000
    assert run.columns.points("loss").steps.tolist() == list(range(1, 26))
    # 500 s between the sessions and the ten steps that were undone.
    assert view.split["lost"] == pytest.approx(510 / 535, abs=0.01)


def test_steps_that_go_back_without_a_new_file_cut_it_too(made, clock):
    train(made, 1, 10)
    run = watched(made)
    run.poll(clock())
    train(made, 6, 8, loss=9.0)
    run.poll(clock())
    assert run.revision == 1
    assert run.columns.points("loss").steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_half_a_line_and_what_is_no_row(made, clock):
    with made.metrics.open("w") as file:
        file.write(
            '[1]\nnot json\n{"step": "x", "time": 1}\n{"step": 1}\n{"step": 1, "time": 5, "loss"'
        )
    run = watched(made)
    run.poll(clock())
    assert run.view(clock(), ()).num_points == 0
    with made.metrics.open("a") as file:
        file.write(': 2.0, "note": "words", "flag": true}\n')
    run.poll(clock())
    assert run.columns.names == ["loss"]


def test_a_folder_with_rows_only(tmp_path, clock):
    path = tmp_path / "b" / "metrics" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    append(path, {"step": 1, "time": clock(), "loss": 2.0})
    run = RunWatch(Found("run", tmp_path / "b", "b"), max_rows=1000)
    run.poll(clock())
    view = run.view(clock(), ())
    assert (view.status, view.eta_s, view.mfu, view.num_steps) == ("running", None, None, None)
    assert view.split == {}
    assert run.view(clock() + 5000, ()).status == "unknown"
    assert run.figures(clock() + 5000) is None


def test_the_end_of_a_run(made, clock):
    made.event("started")
    train(made, 1, 100)
    made.event("finished", step=100)
    run = watched(made)
    run.poll(clock())
    view = run.view(clock() + 1000, ())
    assert (view.status, view.eta_s, view.phase) == ("finished", None, "")
    assert view.split["compute"] == pytest.approx(0.99, abs=0.01)  # time stands still
    assert run.figures(clock()) is None


def test_a_failed_run_is_news_for_an_hour(made, clock):
    made.event("started")
    train(made, 1, 5)
    made.event("diverged", step=5)
    run = watched(made)
    run.poll(clock())
    assert run.figures(clock() + 60) == {"failed": 1.0}
    assert run.figures(clock() + 7200) == {"failed": None}


def test_silence_is_measured_by_what_was_seen_where_clocks_differ(made, clock):
    """Another host's clock is five minutes behind: its file changes, so it is alive."""
    made.event("started")
    made.row(1)
    behind = {"host": "elsewhere", "time": clock() - 300, "since": clock() - 300}
    made.report(**behind)
    run = watched(made)
    run.poll(clock())
    made.report(**{**behind, "time": clock() - 298})
    clock.now += 2
    run.poll(clock())
    assert (
        run.judgement(clock()).status != "stalled" or "heard" not in run.judgement(clock()).reason
    )


def test_live_changes_of_periods_count_for_the_time_left(made, clock):
    made.event("started")
    train(made, 1, 20)
    clock.now += 6
    made.evaluation(20)
    clock.now += 4
    train(made, 21, 30)
    run = watched(made)
    run.poll(clock())
    before = run.view(clock(), ()).eta_s.expected
    made.event("live", step=30, values={"evaluation.every_steps": 1000})
    run.poll(clock())
    assert run.view(clock(), ()).eta_s.expected == pytest.approx(before - 30, abs=1)


def test_samples_are_the_latest_and_not_endless(made, clock):
    path = made.folder / "metrics" / "samples.jsonl"
    for step in range(20):
        append(path, {"step": step, "question": "q", "answer": "a" * 10_000, "reference": "r"})
    run = watched(made)
    run.poll(clock())
    samples = run.view(clock(), ()).samples
    assert [sample["step"] for sample in samples] == list(range(8, 20))
    assert max(len(sample["answer"]) for sample in samples) == 4000


def test_a_run_of_others(tmp_path, clock):
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "events.out.tfevents.1.host"
    path.write_bytes(b"".join(event(i, **{"train/loss": 3.0 - 0.1 * i}) for i in range(1, 6)))
    run = EventsWatch(Found("events", folder, "theirs"), max_rows=1000)
    run.poll(105.0)
    view = run.view(106.0, ())
    assert (view.status, view.step, view.source) == ("running", 5, "tensorboard")
    assert view.step_time_s == pytest.approx(1.0)
    assert run.figures(106.0)["loss"] == pytest.approx(2.5)
    # Resumed from step 3 in another file.
    (folder / "events.out.tfevents.2.host").write_bytes(event(3, **{"train/loss": 9.0}))
    run.poll(107.0)
    assert run.columns.points("loss").steps.tolist() == [1, 2, 3]
    assert run.revision == 1
    assert run.view(10_000.0, ()).status == "unknown"


def events_of(tmp_path, *files):
    """A watch that has read the files; each is a list of (step, {tag: value})."""
    folder = tmp_path / "theirs"
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(files):
        data = b"".join(row if isinstance(row, bytes) else event(row[0], **row[1]) for row in rows)
        (folder / f"events.out.tfevents.{i}.host").write_bytes(data)
    run = EventsWatch(Found("events", folder, "theirs"), max_rows=1000)
    run.poll(500.0)
    return run


def steps_of(run, name):
    return run.columns.points(name).steps.tolist()


def test_a_tag_that_counts_epochs_cuts_no_other(tmp_path):
    rows = []
    for epoch in range(1, 4):
        rows += [(100 * epoch + i, {"train/loss": 3.0}) for i in range(3)]
        rows.append((epoch, {"val/acc": 0.1 * epoch}))
    run = events_of(tmp_path, rows)
    assert steps_of(run, "loss") == [100, 101, 102, 200, 201, 202, 300, 301, 302]
    assert steps_of(run, "eval_acc") == [1, 2, 3]
    assert (run.revision, run.step(500.0)) == (0, 302)
    assert run.view(500.0, ()).step_time_s == pytest.approx(1.0)
    assert run.columns.latest() == pytest.approx({"loss": 3.0, "eval_acc": 0.3})


def test_of_two_files_of_one_folder_neither_cuts_the_tags_of_the_other(tmp_path):
    run = events_of(
        tmp_path,
        [(i, {"train/loss": 3.0}) for i in range(1, 6)],
        [(i, {"lr": 0.1}) for i in range(1, 3)],
    )
    assert (steps_of(run, "loss"), steps_of(run, "lr")) == ([1, 2, 3, 4, 5], [1, 2])
    # What the earlier one adds stays, too.
    with (tmp_path / "theirs" / "events.out.tfevents.0.host").open("ab") as file:
        file.write(event(6, **{"train/loss": 2.0, "lr": 9.0}))
    run.poll(501.0)
    assert (steps_of(run, "loss"), steps_of(run, "lr")) == ([1, 2, 3, 4, 5, 6], [1, 2])
    assert run.revision == 0


def test_a_writer_that_begins_again_cuts_every_tag(tmp_path):
    """As SummaryWriter(purge_step=3) of torch says it."""
    again = Event(step=3, wall_time=110.0, session_log=SessionLog(status=SessionLog.START))
    run = events_of(
        tmp_path,
        [(i, {"train/loss": 3.0, "lr": 0.1}) for i in range(1, 6)],
        [framed(again.SerializeToString()), (4, {"train/loss": 9.0})],
    )
    assert (steps_of(run, "loss"), steps_of(run, "lr")) == ([1, 2, 4], [1, 2])
    assert (run.revision, run.step(500.0)) == (1, 4)


def test_tags_of_one_name_in_common_do_not_cut_each_other(tmp_path):
    rows = [(i, {"val/loss": 2.0}) for i in range(1, 6)] + [(0, {"test/loss": 7.0})]
    run = events_of(tmp_path, rows)
    assert (steps_of(run, "eval_loss"), steps_of(run, "test/loss")) == ([1, 2, 3, 4, 5], [0])


def test_what_is_found_and_what_is_not(tmp_path, clock):
    runs = tmp_path / "runs"
    MadeRun(runs / "a", clock)
    MadeRun(runs / "deep" / "er" / "b", clock)
    MadeRun(runs / "far" / "too" / "deep" / "in" / "c", clock)
    MadeRun(runs / ".hidden", clock)
    write_json(runs / "a" / "evaluation" / "results.json", {})
    write_json(runs / "base" / "evaluation" / "results.json", {})
    write_json(runs / "comparison" / "comparison.json", {})
    (runs / "comparison" / "events.out.tfevents.1").write_bytes(b"")
    (runs / "theirs").mkdir()
    (runs / "theirs" / "events.out.tfevents.1").write_bytes(b"")
    found = {(each.kind, each.name) for each in find_all([str(runs)]).found}
    assert found == {
        ("run", "a"),
        ("evaluation", "a"),
        ("evaluation", "base"),
        ("run", "deep/er/b"),
        ("events", "theirs"),
    }
    (itself,) = find_all([str(runs / "deep" / "er" / "b")]).found
    assert itself.name == "b"
    assert find_all([str(tmp_path / "nowhere")]) == ([], 0)


def test_of_too_many_runs_the_newest_are_taken(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(discovery, "_MAX_FOUND", 3)
    for i, name in enumerate("edcba"):
        made = MadeRun(tmp_path / name, clock)
        made.row(1)
        for path in (made.metrics, made.folder):
            os.utime(path, (BEGAN + i, BEGAN + i))
    found, num_left_out = find_all([str(tmp_path)])
    assert ([each.name for each in found], num_left_out) == (["a", "b", "c"], 2)


def test_the_home_folder_is_meant_by_its_sign(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    MadeRun(tmp_path / "runs" / "a", clock)
    assert [each.path for each in find_all(["~/runs"]).found] == [tmp_path / "runs" / "a"]


def test_a_flood_of_tags_is_said(tmp_path):
    run = events_of(tmp_path, [(1, {f"layer{i}": 1.0 for i in range(MAX_NAMES + 1)})])
    assert len(run.columns.names) == MAX_NAMES
    assert run.damage == [f"{tmp_path / 'theirs'}: of its tags only the first 128 are shown"]


def test_ids_are_stable_apart_and_fit_for_a_url(tmp_path):
    one, other = tmp_path / "x" / "r", tmp_path / "y" / "r"
    assert identify("r", one) == identify("r", one) != identify("r", other)
    assert identify("<b>&/?#ü", one).replace("-", "").isalnum()


def test_a_journal_line_of_a_skipped_batch_is_not_kept_whole(made, clock):
    made.event("started")
    made.event("skipped", step=3, rows=["x" * 1000] * 50)
    run = watched(made)
    run.poll(clock())
    assert len(json.dumps(list(run._events))) < 500
