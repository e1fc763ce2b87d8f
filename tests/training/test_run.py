"""What a run writes around the loop, on a program without a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import DataError, RunError
from coderllm_jax.training import run as run_module
from coderllm_jax.training.adapter import load_adapter
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.run import Run, open_run
from coderllm_jax.training.run_folder import RunFolder
from tests.training.bigram import BigramProgram, TrainState


def a_run(path: Path, num_steps: int = 3) -> Run:
    model: Any = SimpleNamespace(name="bigram", sha256="0" * 64)
    program: Any = BigramProgram()
    nothing: Any = None
    return Run(TrainingConfig(), RunFolder(path), model, nothing, program, num_steps)


def state_at(run: Run, step: int) -> TrainState:
    fresh = run.program.init_state()
    return fresh._replace(trainable={"table": {"a": fresh.trainable["table"]["a"] + step}})


def record_at(step: int, losses: dict[int, float]) -> RunRecord:
    rows = [{"step": at, "eval_loss": loss} for at, loss in losses.items() if at <= step]
    return RunRecord(step=step, evaluations=rows)


def test_the_adapter_is_the_best_steps_and_not_the_last(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    losses = {1: 3.0, 2: 2.0, 3: 2.5}
    with run.open_checkpoints(print) as checkpoints:
        for step in losses:
            checkpoints.save(state_at(run, step), record_at(step, losses))
        checkpoints.wait()
        run.save_best_adapter(checkpoints, state_at(run, 3), record_at(3, losses))
    adapter = load_adapter(run.folder.adapter)
    assert adapter.config["step"] == 2
    assert adapter.config["eval_loss"] == 2.0
    np.testing.assert_array_equal(adapter.tensors["table"]["a"], 2)


def test_a_run_without_a_trained_evaluation_writes_no_adapter(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with run.open_checkpoints(print) as checkpoints:
        run.save_best_adapter(checkpoints, state_at(run, 0), record_at(0, {0: 3.0}))
    assert not run.folder.adapter.exists()


def test_begins_anew_goes_on_and_never_goes_back(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with run.open_checkpoints(print) as checkpoints:
        _, record, was_restored = run.restore(checkpoints)
        assert (record.step, was_restored) == (0, False)
        checkpoints.save(state_at(run, 2), RunRecord(step=2))
        checkpoints.wait()
        state, record, was_restored = run.restore(checkpoints)
        assert (record.step, was_restored) == (2, True)
        np.testing.assert_array_equal(state.trainable["table"]["a"], 2)
        with pytest.raises(RunError, match="is at step 2, past the 1 asked for"):
            a_run(tmp_path, num_steps=1).restore(checkpoints)


def open_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def open_model(*args: Any, **options: Any) -> Any:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(run_module, "open_model", open_model)
    values = TrainingConfig.create_default()
    values.data.path = str(path / "absent.jsonl")
    config = TrainingConfig.from_config_dict(values)
    return open_run(config, RunFolder(path), None, note=lambda text: None, hold=lambda: None)


def test_rows_that_are_not_there_are_told_before_a_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        open_nothing(tmp_path, monkeypatch)
