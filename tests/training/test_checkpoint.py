"""What a checkpoint must give back, and what it must keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.errors import RunError
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.record import RunRecord


def state_of(value: float, width: int = 4) -> dict[str, Any]:
    return {"w": jnp.full((width, 3), value, jnp.float32), "low": jnp.full(2, value, jnp.bfloat16)}


def record_of(step: int, *losses: float) -> RunRecord:
    rows = [{"step": at, "eval_loss": loss} for at, loss in enumerate(losses, start=1)]
    return RunRecord(step=step, evaluations=rows[:step])


def save_all(folder: Path, losses: list[float], **kept: int) -> list[int]:
    with Checkpoints(folder, **kept) as checkpoints:
        for step in range(1, len(losses) + 1):
            checkpoints.save(state_of(step), record_of(step, *losses))
        checkpoints.wait()
        return checkpoints.steps()


def test_gives_back_what_was_saved(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state_of(0)) is None
        saved = RunRecord(step=3, tokens=12, step_times_s=[0.1, 0.2], baseline_few_shot_loss=2.5)
        checkpoints.save(state_of(3.25), saved)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(state_of(0))
        assert restored is not None
        jax.tree.map(np.testing.assert_array_equal, restored[0], state_of(3.25))
        assert restored[1] == saved


def test_keeps_the_latest_and_the_best(tmp_path: Path) -> None:
    assert save_all(tmp_path, [9, 2, 5, 4, 3, 6], keep_latest=2, keep_best=2) == [2, 5, 6]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path, bad: float) -> None:
    assert save_all(tmp_path, [9, 2, bad, 4, bad, 6]) == [2, 5, 6]


def test_knows_the_best_after_a_restart(tmp_path: Path) -> None:
    losses = [9.0, 2, 5, 4]
    save_all(tmp_path, losses)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(5), record_of(5, *losses, 7))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]


def test_a_donated_state_is_saved_as_it_was(tmp_path: Path) -> None:
    advance = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.zeros((2000, 1000))
    with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
        for step in range(1, 6):
            w = advance(w)
            checkpoints.save({"w": w}, RunRecord(step=step))
            for _ in range(3):  # donates the saved buffer while it may still be being written
                w = advance(w)
        checkpoints.wait()
        for step in range(1, 6):
            state, _ = checkpoints.restore(step, {"w": w})
            np.testing.assert_array_equal(state["w"], 4 * step - 3)


def another_width() -> Any:
    return state_of(0, width=5)


def another_dtype() -> Any:
    return {**state_of(0), "low": jnp.zeros(2, jnp.float32)}


def another_leaf() -> Any:
    return {**state_of(0), "more": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("like", "named"),
    [
        (another_width, r"holds w as float32\[4, 3\], not float32\[5, 3\]"),
        (another_dtype, r"holds low as bfloat16\[2\], not float32\[2\]"),
        (another_leaf, r"holds more as nothing, not float32\[2\]"),
    ],
)
def test_another_state_is_refused_by_its_first_difference(
    tmp_path: Path, like: Callable[[], Any], named: str
) -> None:
    save_all(tmp_path, [1.0])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(RunError, match=named):
        checkpoints.restore_latest(like())


def test_saving_a_step_twice_keeps_the_first(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1), RunRecord(step=1))
        checkpoints.save(state_of(2), RunRecord(step=1))
        checkpoints.wait()
        state, _ = checkpoints.restore(1, state_of(0))
        np.testing.assert_array_equal(state["w"], 1)
