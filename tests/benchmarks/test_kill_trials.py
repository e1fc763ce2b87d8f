"""Killed runs: when they are killed, where they were, and what counts as equal."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import psutil
import pytest

from benchmarks import kill_trials
from benchmarks.kill_trials import EXPERIMENTS, Trial, plan_trials, table, try_kills, verdict
from benchmarks.killed_runs import (
    CLOCKED,
    KINDS,
    Bench,
    Kill,
    Session,
    differences,
    look,
    read_outcome,
    run_to_end,
    unfinished_saves,
    write_inputs,
)

TINY = EXPERIMENTS["tiny"]


def session(phase: str = "training", **more: Any) -> Session:
    values = {"was_killed": True, "after_s": 1.0, "step": 10, "went_on_from": 0, "num_steps": 10}
    return Session(**{"phase": phase, "was_saving": phase == "saving", **values, **more})


# --- planning


def plans(number: int, seed: int = 0) -> list[list[Kill]]:
    return plan_trials(number, 8.0, steps=60, saves=15, seed=seed)


def test_every_part_of_a_life_gets_a_kill() -> None:
    first = [kills[0] for kills in plans(20)]
    anywhere = sorted(kill.delay_s for kill in first if kill.kind == "moment")
    assert len(anywhere) == 10
    assert [math.floor(delay / 0.8) for delay in anywhere] == list(range(10))


def test_every_trial_has_one_to_three_kills_and_every_kind_is_tried() -> None:
    planned = plans(20)
    assert {len(kills) for kills in planned} == {1, 2, 3}
    assert {kill.kind for kills in planned for kill in kills} == set(KINDS)
    assert all(kill.number >= 1 and kill.delay_s >= 0 for kills in planned for kill in kills)


def test_the_seed_decides() -> None:
    assert plans(20) == plans(20)
    assert plans(20) != plans(20, seed=1)


def test_one_trial_can_be_planned() -> None:
    assert len(plans(1)) == 1


def test_inputs_are_the_same_bytes_every_time_and_readable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_inputs(tmp_path / name, 3)
    for name in ("rows.jsonl", "items.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len((tmp_path / "a" / "rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_rows_are_gone_through_twice_at_least_and_keys_count(name: str) -> None:
    options = EXPERIMENTS[name].options
    assert options["lora.dropout"] > 0
    assert options["steps"] % options["checkpoint.every_steps"] == 0


# --- comparing


def write_run(workdir: Path, *, loss: float = 2.5, clock: float = 1.0, **summary: Any) -> Path:
    for name in ("adapter", "metrics", "report", "checkpoints/4", "processes"):
        (workdir / name).mkdir(parents=True)
    (workdir / "adapter/adapter.safetensors").write_bytes(b"weights")
    (workdir / "training_rows.json").write_text("{}")
    (workdir / "checkpoints/4/integrity.json").write_text("{}")
    row = {"step": 1, "time": clock, "loss": loss, "step_time_s": clock}
    (workdir / "metrics/metrics.jsonl").write_text(json.dumps(row) + "\n")
    (workdir / "report/index.html").write_text("<html></html>")
    figures = {"status": "finished", "tokens": 7, "wall_s": clock, "set_aside": [], **summary}
    (workdir / "report/summary.json").write_text(json.dumps(figures))
    return workdir


def compared(tmp_path: Path, **changes: Any) -> list[str]:
    expected = read_outcome(write_run(tmp_path / "a"))
    return differences(expected, read_outcome(write_run(tmp_path / "b", **changes)))


def test_clocks_and_history_do_not_count(tmp_path: Path) -> None:
    assert compared(tmp_path, clock=9.0, set_aside=[{"step": 4}]) == []


def test_the_last_bit_of_a_loss_counts(tmp_path: Path) -> None:
    assert compared(tmp_path, loss=math.nextafter(2.5, 3)) == [
        "metrics.jsonl:1 loss is 2.5000000000000004, not 2.5"
    ]


def test_a_figure_that_nobody_has_declared_a_clock_counts(tmp_path: Path) -> None:
    assert compared(tmp_path, best_step=4) == ["summary.json best_step is 4, not missing"]


def test_one_byte_of_the_adapter_counts(tmp_path: Path) -> None:
    expected = read_outcome(write_run(tmp_path / "a"))
    other = write_run(tmp_path / "b")
    (other / "adapter/adapter.safetensors").write_bytes(b"weightz")
    assert [line.split()[0] for line in differences(expected, read_outcome(other))] == [
        "adapter/adapter.safetensors"
    ]


def test_files_that_are_missing_left_behind_or_cut_count(tmp_path: Path) -> None:
    expected = read_outcome(write_run(tmp_path / "a"))
    other = write_run(tmp_path / "b")
    (other / "checkpoints/4/integrity.json").rename(other / "report/.left.unfinished")
    (other / "report/index.html").write_text("<html>")
    assert differences(expected, read_outcome(other)) == [
        "files: lacks checkpoints/4 and has report/.left.unfinished",
        "report/index.html ends is False, not True",
    ]


def test_a_run_that_left_nothing_is_not_equal(tmp_path: Path) -> None:
    expected = read_outcome(write_run(tmp_path / "a"))
    assert len(differences(expected, read_outcome(tmp_path / "nowhere"))) == len(expected)


def test_a_clock_is_what_a_summary_has_and_nothing_that_is_learnt() -> None:
    assert CLOCKED.isdisjoint({"loss", "eval_loss", "grad_norm", "tokens", "examples", "status"})


# --- looking


def test_the_marks_of_a_save_that_is_not_finished(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("4", "8", f"12{ocp.utils.TMP_DIR_SUFFIX}123", "set_aside/16-1", "20.deleted"):
        (folder / name).mkdir(parents=True)
    (folder / "4/integrity.json").touch()
    assert unfinished_saves(tmp_path) == ["12", "8"]
    assert unfinished_saves(tmp_path / "nowhere") == []


def write_traces(
    workdir: Path, rows: list[dict[str, Any]], events: list[tuple[str, int]], said: str = ""
) -> Path:
    (workdir / "metrics").mkdir(parents=True)
    lines = [json.dumps({"time": 100.0, **row}) for row in rows]
    (workdir / "metrics/metrics.jsonl").write_text("\n".join(lines))
    journal = [json.dumps({"event": event, "step": step}) for event, step in events]
    (workdir / "journal.jsonl").write_text("\n".join(journal))
    (log := workdir / "session.log").write_text(said)
    return log


STEPS = [{"step": step, "loss": 2.0} for step in (9, 10)]


@pytest.mark.parametrize(
    ("rows", "events", "said", "phase", "step", "went_on_from"),
    [
        ([], [], "", "starting", 0, None),
        ([], [], "reading the rows …\nloading tiny …", "loading", 0, None),
        ([], [], "loading tiny …\ntokenizing the rows …", "restoring", 0, None),
        ([], [("started", 0)], "tokenizing the rows …\nmeasuring the mod", "restoring", 0, 0),
        ([], [("started", 8)], "compiling the training step …", "compiling", 8, 8),
        (STEPS[:1], [("started", 8)], "", "training", 9, 8),
        (STEPS, [("started", 8)], "", "evaluating", 10, 8),
        ([*STEPS, {"step": 10, "eval_loss": 2.0}], [("started", 8)], "", "evaluating", 10, 8),
        (STEPS, [("started", 8), ("finished", 60)], "", "adapter, report", 10, 8),
    ],
)
def test_where_a_run_was_is_read_from_what_it_left(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    events: list[tuple[str, int]],
    said: str,
    phase: str,
    step: int,
    went_on_from: int | None,
) -> None:
    log = write_traces(tmp_path, rows, events, said)
    found = look(TINY, tmp_path, log, began=50.0, before=0, was_killed=True)
    assert (found.phase, found.step, found.went_on_from) == (phase, step, went_on_from)


def test_what_an_earlier_session_left_is_not_this_ones(tmp_path: Path) -> None:
    log = write_traces(tmp_path, STEPS, [("started", 0), ("finished", 60)])
    (tmp_path / "checkpoints/12").mkdir(parents=True)
    found = look(TINY, tmp_path, log, began=200.0, before=1, was_killed=True)
    assert found == Session(True, 0.0, "starting", 0, None, 0, False)


# --- killing

SCRIPT = """
import json, subprocess, sys, time
from pathlib import Path
workdir, code = Path(sys.argv[1]), int(sys.argv[2])
is_first = not workdir.exists()
(workdir / "metrics").mkdir(parents=True, exist_ok=True)
with (workdir / "journal.jsonl").open("a") as journal:
    journal.write(json.dumps({"event": "started", "step": 0}) + "\\n")
if is_first:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (workdir / "child").write_text(str(child.pid))
for step in range(1, 4):
    row = {"step": step, "loss": 1.0, "time": time.time()}
    with (workdir / "metrics/metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(row) + "\\n")
if is_first:
    time.sleep(60)
print("error: of its own")
sys.exit(code)
"""


class FakeRun(Bench):
    """Writes three steps, waits to be killed the first time it is started, and then ends."""

    def command(self, workdir: Path) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(workdir), self.cache_dir]


def is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_session_is_killed_with_its_children_and_started_again(tmp_path: Path) -> None:
    bench = FakeRun(TINY, tmp_path, "0")
    first, last = run_to_end(bench, tmp_path / "run", [Kill("step", number=3)])
    assert (first.was_killed, first.phase, first.step) == (True, "training", 3)
    assert (last.was_killed, last.phase, last.num_steps) == (False, "finished", 3)
    deadline = time.monotonic() + 5
    while is_alive(int((tmp_path / "run/child").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_session_that_fails_by_itself_is_not_equal_and_says_why(tmp_path: Path) -> None:
    bench = FakeRun(TINY, tmp_path, "1")
    trial = try_kills(bench, "run", [Kill("step", number=3), Kill("step", number=9)], {})
    assert trial.differences == [f"{tmp_path / 'run'} ended with 1: error: of its own"]
    assert [kill.phase for kill in trial.kills] == ["training"]
    assert "NO" in table([trial], 60)


def test_a_kill_that_came_too_late_is_repeated_half_as_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(bench: Bench, workdir: Path, kills: list[Kill]) -> list[Session]:
        asked.append((workdir.name, kills[0].delay_s))
        return [session(was_killed=kills[0].delay_s < 3), session("finished", was_killed=False)]

    monkeypatch.setattr(kill_trials, "run_to_end", run)
    try_kills(Bench(TINY, tmp_path, ""), "t", [Kill("moment", delay_s=8.0)], {})
    assert asked == [("t", 8.0), ("t-1", 4.0), ("t-2", 2.0)]


# --- telling

WELL = Trial(
    [
        session("saving", step=12, num_steps=12),
        session("loading", step=0, went_on_from=None, num_steps=0),
        session("finished", was_killed=False, step=60, went_on_from=8, num_steps=52),
    ],
    set_aside=1,
    differences=[],
    wall_s=20.0,
)


def test_repeated_steps_are_those_beyond_the_runs_own() -> None:
    assert WELL.steps_repeated(60) == 4


def test_the_table_says_where_it_was_killed_and_went_on() -> None:
    line = table([WELL], 60).splitlines()[-1]
    assert line.split() == ["1", "saving", "(12);", "loading", "(0)", "→", "8", "4", "1", "yes"]


def test_one_difference_in_one_trial_shows() -> None:
    bad = WELL._replace(differences=["metrics.jsonl:3 loss is 2, not 1", "another"])
    assert verdict("tiny", [WELL, bad]) == (
        "tiny: 1 of 2 killed runs are equal to the uninterrupted one, bit for bit, after 4 kills "
        "(mid-save: 2 of them, in 2 runs)"
    )
    shown = table([WELL, bad], 60).splitlines()
    assert shown[-2].endswith("NO")
    assert shown[-1].strip() == "metrics.jsonl:3 loss is 2, not 1 (and 1 more)"
