"""What a run is told and meets while it goes: live.yaml, bad batches, writers, no progress."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

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

# ------------------------------------------------------------------------------ live.yaml

_HALF = "live=30:learning_rate_scale: 0.5"
_REJECTED = "live=40:learning_rate_scale: 0.1|sede: 3"
_OFTEN = "live=60:learning_rate_scale: 0.5|evaluation: {every_steps: 10}"
_STOP = "live=82:stop: true"


@pytest.fixture(scope="module")
def steered(lab: Lab) -> tuple[Path, Ended]:
    """Changed at steps 30, 40 (in vain) and 60, stopped at 82."""
    ended = lab.launch("steered", faults=",".join((_HALF, _REJECTED, _OFTEN, _STOP))).wait()
    return lab.folder / "steered", ended


def test_live_yaml_changes_a_run_at_the_step_that_it_says(
    steered: tuple[Path, Ended], whole: Path
) -> None:
    workdir, _ = steered
    rates, usual = (
        {row["step"]: row["learning_rate"] for row in figures(folder) if "loss" in row}
        for folder in (workdir, whole)
    )
    for step in range(1, 83):
        scale = 0.5 if 30 <= step < 82 else 1  # the last file says nothing of it
        assert rates[step] == pytest.approx(scale * usual[step], rel=1e-6), step
    before = {step: loss for step, loss in losses(whole).items() if step <= 30}
    assert {step: losses(workdir)[step] for step in before} == before
    assert losses(workdir)[32] != losses(whole)[32]
    assert evaluations(workdir).keys() == {0, 25, 50, 70, 80}


def test_a_live_yaml_that_is_not_understood_changes_nothing(steered: tuple[Path, Ended]) -> None:
    workdir, _ = steered
    accepted = [event for event in events(workdir) if event["event"] == "live"]
    assert [event["step"] for event in accepted] == [30, 60, 82]
    (rejected,) = [event for event in events(workdir) if event["event"] == "live_rejected"]
    assert rejected["step"] == 40
    assert "unknown key 'sede'" in rejected["reason"]
    assert "did you mean 'seed'" not in rejected["reason"]  # which cannot change


def test_live_yaml_stops_a_run(steered: tuple[Path, Ended]) -> None:
    workdir, ended = steered
    assert ended.code == 0, ended.err
    assert summary(workdir)["status"] == "stopped"
    assert checkpoints(workdir)[-1] == max(losses(workdir)) == 83
    assert (workdir / "adapter").is_dir()


def test_changes_are_made_again_at_their_steps_after_kill_9(
    lab: Lab, steered: tuple[Path, Ended]
) -> None:
    # Slow, so that the save of step 25, which is made beside the steps, is done by then.
    faults = f"slow,{_HALF},{_REJECTED},SIGKILL=training@45"
    killed = lab.launch("steered-killed", faults=faults).wait()
    assert killed.code == -9
    workdir = lab.folder / "steered-killed"
    assert checkpoints(workdir) == [25]
    assert lab.launch("steered-killed", faults=f"{_OFTEN},{_STOP}").wait().code == 0
    assert figures(workdir) == figures(steered[0])
    assert adapter_bytes(workdir) == adapter_bytes(steered[0])


# ------------------------------------------------------- bad batches, dashboards that are down


@pytest.fixture(scope="module")
def troubled(lab: Lab) -> tuple[Path, Ended]:
    """A batch of NaN, a spike, W&B that cannot be reached, TensorBoard that cannot be written."""
    broken = lab.folder / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text(
        "def init(**how):\n    raise ConnectionError('api.wandb.ai cannot be reached')\n"
    )
    (broken / "tensorflow.py").write_text("raise OSError(28, 'No space left on device')\n")
    ended = lab.launch(
        "troubled",
        faults="nan=30,spike=95",
        env={"WANDB_PROJECT": "p", "WANDB_MODE": "online", "PYTHONPATH": str(broken)},
        logging__clu=True,
    ).wait()
    assert ended.code == 0, ended.err
    return lab.folder / "troubled", ended


def test_a_batch_of_nan_and_a_spike_are_skipped_and_their_rows_named(
    troubled: tuple[Path, Ended], whole: Path
) -> None:
    workdir, _ = troubled
    skipped = [event for event in events(workdir) if event["event"] == "skipped"]
    assert [(event["step"], event["reason"]) for event in skipped] == [
        (30, "not_finite"),
        (95, "spike"),
    ]
    for event in skipped:
        assert event["rows"]
        assert all("rows.jsonl" in row for row in event["rows"])
    after = [loss for step, loss in losses(workdir).items() if step > 30]
    assert all(map(math.isfinite, after))
    assert losses(workdir)[29] == losses(whole)[29]
    assert losses(workdir)[31] != losses(whole)[31]  # a batch was not learnt from
    assert summary(workdir)["skipped_batches"] == 2
    assert summary(workdir)["status"] == "finished"


def test_a_dashboard_that_is_down_is_named_and_the_run_goes_on(
    troubled: tuple[Path, Ended],
) -> None:
    workdir, ended = troubled
    failed = summary(workdir)["failed_writers"]
    assert failed.keys() == {"W&B", "CLU"}
    assert "api.wandb.ai cannot be reached" in failed["W&B"]
    assert "No space left" in failed["CLU"]
    assert "W&B" in ended.err
    assert max(losses(workdir)) == 100


def test_too_many_bad_batches_end_the_run_with_1_and_say_where_it_goes_on(lab: Lab) -> None:
    ended = lab.launch("diverged", faults="nan=40-99", safety__max_skipped=3).wait()
    assert ended.code == 1
    assert ended.last_line.startswith("error: 5 of the last 44 batches had to be skipped")
    assert "the same command goes on from step 25" in ended.last_line
    assert checkpoints(lab.folder / "diverged") == [25]
    assert summary(lab.folder / "diverged")["converged"] == "diverged"


# ------------------------------------------------------------------------- early stopping


def test_patience_ends_a_run_that_learns_nothing_more(lab: Lab) -> None:
    """From step 31 on it learns at a hundred times the rate, which makes it worse."""
    faults = "live=31:learning_rate_scale: 100"
    settings = {"evaluation__every_steps": 10, "evaluation__patience": 2}
    ended = lab.launch("patient", faults=faults, **settings).wait()
    assert ended.code == 0, ended.err
    found = summary(lab.folder / "patient")
    assert (found["status"], found["stopped_early"], found["steps"]) == ("finished", True, 50)
    assert found["best_step"] == 30
    assert found["converged"] == "converged"
    again = lab.launch("patient", **settings).wait()  # its live.yaml is still there
    assert again.code == 0
    assert "is finished and left as it is" in again.out
    assert summary(lab.folder / "patient")["steps"] == 50
