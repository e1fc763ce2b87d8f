"""kill -9, and the same command again: the run is the one that nobody killed, bit for bit.

One trial of each kind; `python -m benchmarks.kill_trials` does twenty, at moments chosen by chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_trials import EXPERIMENTS, prepare, try_kills
from benchmarks.killed_runs import Experiment, Kill, read_outcome, run_to_end


def changed(name: str, **options: Any) -> Experiment:
    experiment = EXPERIMENTS[name]
    return experiment._replace(options={**experiment.options, **options})


@pytest.mark.long
def test_a_tiny_run_killed_in_a_save_between_two_and_at_the_end_is_the_one_that_was_not(
    tmp_path: Path,
) -> None:
    bench = prepare(changed("tiny", steps=24), tmp_path)
    run_to_end(bench, tmp_path / "whole")
    expected = read_outcome(tmp_path / "whole")
    # The last while the plot is drawn: until all is written, no summary says that it is finished.
    kills = [Kill("saving", number=2), Kill("step", number=6), Kill("end", delay_s=0.1)]
    trial = try_kills(bench, "killed", kills, expected)
    assert not trial.differences
    assert len(trial.kills) == 3
    first, second, third, last = trial.sessions
    # Killed in the save of step 8: it went on from there or from the one before, never anew.
    assert second.went_on_from in (4, 8)
    assert second.went_on_from <= first.step
    assert third.went_on_from is not None
    assert second.went_on_from <= third.went_on_from <= second.step
    assert trial.steps_repeated(24) >= second.step - third.went_on_from
    assert last.went_on_from in (24, None)  # None: it found the run finished
    # The adapter of an early step, so of a checkpoint that outlived the kills.
    assert expected["summary.json best_step"] < 24


@pytest.mark.long
@pytest.mark.real_model
def test_a_real_run_killed_in_a_save_is_the_one_that_was_not(tmp_path: Path) -> None:
    few = {"steps": 3, "checkpoint.every_steps": 1, "data.sequence_length": 64}
    bench = prepare(changed("gemma3_270m", **few, **{"evaluation.max_items": 1}), tmp_path)
    run_to_end(bench, tmp_path / "whole")
    trial = try_kills(bench, "killed", [Kill("saving", number=2)], read_outcome(tmp_path / "whole"))
    assert not trial.differences
    assert len(trial.kills) == 1
    assert trial.sessions[1].went_on_from in (1, 2)
