"""What a run hears of signals and of live.yaml, and what it makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.training.control import Control
from coderllm_jax.training.journal import Journal
from coderllm_jax.training.live import LiveFile
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.steering import Steering


def configured() -> TrainingConfig:
    values = TrainingConfig.create_default()
    values.evaluation.every_steps = 5
    values.checkpoint.every_steps = 6
    values.logging.every_steps = 7
    return TrainingConfig.from_config_dict(values)


def signals(received: str = "") -> Any:
    return SimpleNamespace(received=received)


def periods(steering: Steering) -> tuple[int, int, int]:
    return (
        steering.evaluation_every_steps,
        steering.checkpoint_every_steps,
        steering.logging_every_steps,
    )


def test_without_anybody_to_hear_the_configuration_holds() -> None:
    steering = Steering(configured(), RunRecord())
    assert steering.word(1) == Control(0.0, 1.0, 5.0, 6.0, 7.0)
    assert steering.hear(steering.word(1)) == ""
    assert periods(steering) == (5, 6, 7)


def test_what_counts_is_what_was_agreed_and_not_what_was_said() -> None:
    steering = Steering(configured(), RunRecord(), signals=signals("SIGTERM"))
    assert steering.word(1).stop == 1.0
    assert steering.hear(Control(0.0, 1.0, 1.0, 2.0, 3.0)) == ""
    assert periods(steering) == (1, 2, 3)
    assert steering.hear(Control(1.0, 1.0, 1.0, 2.0, 3.0)) == "interrupted"
    assert steering.hear(Control(2.0, 1.0, 1.0, 2.0, 3.0)) == "stopped"


def test_live_values_are_part_of_the_record_and_hold_again_after_it(tmp_path: Path) -> None:
    (tmp_path / "live.yaml").write_text("learning_rate_scale: 0.5\nevaluation: {every_steps: 2}")
    live = LiveFile(tmp_path / "live.yaml", Journal(tmp_path / "j"), values={}, step=0)
    record = RunRecord()
    steering = Steering(configured(), record, live=live)
    assert periods(steering) == (5, 6, 7)  # nothing is agreed on before the first step
    word = steering.word(1)
    assert word == Control(0.0, 0.5, 2.0, 6.0, 7.0)
    steering.hear(word)
    assert periods(steering) == (2, 6, 7)
    resumed = RunRecord.from_json(record.to_json())
    assert periods(Steering(configured(), resumed)) == (2, 6, 7)


def test_a_stop_on_purpose_outweighs_a_signal(tmp_path: Path) -> None:
    (tmp_path / "live.yaml").write_text("stop: true")
    live = LiveFile(tmp_path / "live.yaml", Journal(tmp_path / "j"), values={}, step=0)
    steering = Steering(configured(), RunRecord(), signals=signals("SIGINT"), live=live)
    assert steering.hear(steering.word(1)) == "stopped"


@pytest.mark.parametrize(("count", "hurries"), [(1, True), (2, False)])
def test_only_a_process_that_is_alone_may_break_off_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, count: int, hurries: bool
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: count)
    assert Steering(configured(), RunRecord(), signals=signals("SIGTERM")).must_hurry() is hurries
    assert not Steering(configured(), RunRecord(), signals=signals()).must_hurry()
