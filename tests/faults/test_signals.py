"""SIGTERM, SIGINT and kill -9, wherever they meet a run of one process: nothing is lost.

    session   1        2         3          4       5          6         7            8
    ended by  SIGTERM  SIGTERM   SIGTERM    SIGTERM SIGINT     kill -9   two SIGINTs  itself
    while     loading  baseline  compiling  step n  evaluating step n    step 70

It is one run, and the folder that is left must be that of a run that nothing happened to. The
tests look at one session each; the run is made in their order, as far as they ask for it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from coderllm_jax.training.run_folder import read_json
from tests.faults.processes import (
    Ended,
    Lab,
    adapter_bytes,
    checkpoints,
    evaluations,
    events,
    figures,
    losses,
    summary,
)


@pytest.fixture(scope="module")
def workdir(lab: Lab) -> Path:
    return lab.folder / "interrupted"


@pytest.fixture(scope="module")
def while_loading(lab: Lab) -> Ended:
    return lab.launch("interrupted", faults="SIGTERM=loading tiny@0").wait()


def test_sigterm_while_loading(while_loading: Ended, workdir: Path) -> None:
    assert while_loading.code == 42
    assert while_loading.last_line == "interrupted: SIGTERM before the first step; nothing was lost"
    assert checkpoints(workdir) == []


@pytest.fixture(scope="module")
def during_the_baseline(lab: Lab, while_loading: Ended) -> Ended:
    return lab.launch("interrupted", faults="SIGTERM=evaluating@0").wait()


def test_sigterm_during_the_baseline_evaluation(during_the_baseline: Ended, workdir: Path) -> None:
    assert during_the_baseline.code == 42
    assert during_the_baseline.last_line == saved_line(workdir, 0)
    assert evaluations(workdir) == {}  # none that saw only a part of the items
    assert checkpoints(workdir) == []


@pytest.fixture(scope="module")
def during_compilation(lab: Lab, during_the_baseline: Ended) -> Ended:
    return lab.launch("interrupted", faults="SIGTERM=training@1+0.05").wait()


def test_sigterm_during_compilation(during_compilation: Ended, workdir: Path) -> None:
    assert during_compilation.code == 42
    (step,) = checkpoints(workdir)
    assert step <= 3
    assert during_compilation.last_line == saved_line(workdir, step)


@pytest.fixture(scope="module")
def between_steps(lab: Lab, during_compilation: Ended) -> tuple[Ended, float]:
    running = lab.launch("interrupted", faults="slow")
    running.wait_for_step(5)
    began = time.monotonic()
    running.send(signal.SIGTERM)
    return running.wait(), time.monotonic() - began


def test_sigterm_between_steps(between_steps: tuple[Ended, float], workdir: Path) -> None:
    ended, seconds = between_steps
    assert ended.code == 42
    assert seconds < 20
    step = checkpoints(workdir)[-1]
    assert 5 <= step < 25
    assert ended.last_line == saved_line(workdir, step)
    last = events(workdir)[-1]
    assert (last["event"], last["signal"], last["step"]) == ("interrupted", "SIGTERM", step)
    assert max(losses(workdir)) == step  # and not one step computed that is not saved


@pytest.fixture(scope="module")
def during_an_evaluation(lab: Lab, between_steps: tuple[Ended, float]) -> Ended:
    return lab.launch("interrupted", faults="SIGINT=evaluating@25").wait()


def test_sigint_during_an_evaluation(during_an_evaluation: Ended, workdir: Path) -> None:
    assert during_an_evaluation.code == 42
    assert during_an_evaluation.last_line == saved_line(workdir, 25)
    assert 25 not in evaluations(workdir)  # owed
    assert events(workdir)[-1]["signal"] == "SIGINT"


@pytest.fixture(scope="module")
def kill_9(lab: Lab, during_an_evaluation: Ended) -> Ended:
    running = lab.launch("interrupted", faults="slow")
    running.wait_for_step(40)
    running.send(signal.SIGKILL)
    return running.wait()


def test_kill_9_costs_the_steps_since_the_last_checkpoint(kill_9: Ended, workdir: Path) -> None:
    assert kill_9.code == -9
    assert max(losses(workdir)) >= 40
    assert checkpoints(workdir)[-1] == 25
    assert evaluations(workdir).keys() == {0, 25}  # what was owed is there


@pytest.fixture(scope="module")
def two_sigints(lab: Lab, kill_9: Ended) -> Ended:
    return lab.launch("interrupted", faults="SIGINT=training@70,SIGINT=training@70").wait()


def test_a_second_sigint_ends_at_once(two_sigints: Ended, workdir: Path) -> None:
    assert two_sigints.code == 130
    assert two_sigints.last_line == "interrupted"
    assert "Traceback" not in two_sigints.err
    assert max(losses(workdir)) < 70
    assert checkpoints(workdir)[-1] == 50


def test_what_was_interrupted_in_every_way_is_a_run_that_nothing_happened_to(
    lab: Lab, two_sigints: Ended, workdir: Path, whole: Path
) -> None:
    done = lab.launch("interrupted").wait()
    assert done.code == 0, done.err
    assert figures(workdir) == figures(whole)
    assert adapter_bytes(workdir) == adapter_bytes(whole)
    assert read_json(workdir / "training_rows.json") == read_json(whole / "training_rows.json")
    for name in ("steps", "examples", "tokens", "loss_tokens", "best_step", "best_eval_loss"):
        assert summary(workdir)[name] == summary(whole)[name], name
    assert [event["event"] for event in events(workdir)] == [
        *("started", "interrupted") * 4,  # the first session never began
        *("started",) * 2,
        *("started", "finished"),
    ]


def test_a_process_stuck_in_native_code_ends_when_the_grace_period_does(lab: Lab) -> None:
    running = lab.launch("stuck", faults="stuck=training@30", checkpoint__grace_period_s=1)
    running.wait_for_step(28)  # a step's row comes after the next was dispatched
    time.sleep(0.3)
    began = time.monotonic()
    running.send(signal.SIGTERM)
    ended = running.wait(30)
    assert ended.code == 42
    assert 0.9 < time.monotonic() - began < 10
    assert ended.last_line == (
        "interrupted: not saved within 1 s of SIGTERM; the same command goes on from the last "
        "checkpoint"
    )
    assert checkpoints(running.workdir) == [25]


def saved_line(workdir: Path, step: int) -> str:
    return f"interrupted: {workdir} is saved at step {step}; the same command goes on"


def test_a_signal_to_all_processes_of_a_run_with_workers(lab: Lab) -> None:
    """Schedulers and Ctrl-C signal the group: a worker that obeyed would hold the run up."""
    running = lab.launch("workers", faults="slow", data__workers=1)
    running.wait_for_step(3)
    began = time.monotonic()
    running.send_to_group(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 42
    assert ended.last_line == saved_line(running.workdir, checkpoints(running.workdir)[-1])
    assert time.monotonic() - began < 20  # of a grace period of 25


def test_a_terminal_that_is_gone_costs_neither_the_run_nor_its_exit_code(lab: Lab) -> None:
    running = lab.launch("unread", faults="slow", is_read=False)
    running.wait_for_step(5)
    running.send(signal.SIGTERM)
    assert running.wait().code == 42
    assert checkpoints(running.workdir)[-1] >= 5
