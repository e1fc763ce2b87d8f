"""One word on a run, and the figures that programs rely on."""

from __future__ import annotations

import math

import pytest

from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.summary import judge_convergence, summarize

PROMISED = {
    "status",
    "model",
    "steps",
    "examples",
    "tokens",
    "loss_tokens",
    "baseline_eval_loss",
    "best_eval_loss",
    "best_step",
    "final_eval_loss",
    "tokens_per_s",
    "loss_tokens_per_s",
    "step_time_s",
    "data_wait_fraction",
    "compile_s",
    "wall_s",
    "peak_memory_bytes",
    "adapter_parameters",
    "converged",
    "mfu",
}


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([5.0, 4.0, 3.5, 3.2, 3.0], "improving"),
        ([5.0, 3.0, 2.9, 2.9, 2.9], "converged"),
        ([5.0, 3.0, 2.8, 2.9, 3.2], "converged"),
        ([5.0, 4.99, 4.98, 4.97, 4.97], "plateaued"),
        ([5.0, 4.0, 5.0, 5.2, 5.5], "diverged"),
        ([5.0, 4.0, math.nan, 3.0, 2.0], "diverged"),
        ([5.0], "plateaued"),
        ([], "plateaued"),
    ],
)
def test_one_word(losses: list[float], word: str) -> None:
    assert judge_convergence([(10 * i, loss) for i, loss in enumerate(losses)]) == word


def test_a_last_evaluation_soon_after_another_does_not_hide_that_the_loss_falls() -> None:
    assert judge_convergence([(0, 7.0), (50, 6.3), (100, 6.0), (102, 5.99)]) == "improving"


def record() -> RunRecord:
    return RunRecord(
        step=4,
        status="finished",
        tokens=400,
        loss_tokens=100,
        train_s=8.0,
        data_wait_s=0.4,
        wall_s=20.0,
        step_times_s=[1.0, 1.0, 2.0, 4.0],
        evaluations=[
            {"step": 0, "eval_loss": 5.0},
            {"step": 2, "eval_loss": 3.0},
            {"step": 4, "eval_loss": 3.5},
        ],
    )


def test_holds_what_is_promised() -> None:
    summary = summarize(
        record(),
        model="tiny",
        examples=12,
        adapter_parameters=7,
        flops_per_step=3e9,
        peak_flops=4e9,
    )
    assert summary.keys() >= PROMISED
    assert (summary["baseline_eval_loss"], summary["final_eval_loss"]) == (5.0, 3.5)
    assert (summary["best_eval_loss"], summary["best_step"]) == (3.0, 2)
    assert (summary["tokens_per_s"], summary["loss_tokens_per_s"]) == (50.0, 12.5)
    assert summary["step_time_s"]["p50"] == 1.5
    assert summary["data_wait_fraction"] == pytest.approx(0.05)
    assert summary["mfu"] == pytest.approx(3e9 / 1.5 / 4e9)


def test_a_run_before_its_first_step_has_a_summary_too() -> None:
    summary = summarize(
        RunRecord(),
        model="tiny",
        examples=0,
        adapter_parameters=7,
        flops_per_step=None,
        peak_flops=None,
    )
    assert summary.keys() >= PROMISED
    assert summary["mfu"] is None
    assert summary["best_step"] is None


def test_the_best_is_finite_trained_and_the_last_of_equals() -> None:
    evaluations = [
        {"step": 0, "eval_loss": 1.0},
        {"step": 5, "eval_loss": math.nan},
        {"step": 10, "eval_loss": 2.0},
        {"step": 15, "eval_loss": 2.0},
    ]
    best = RunRecord(evaluations=evaluations).best
    assert best is not None
    assert best["step"] == 15


def test_the_record_survives_json_and_fields_it_does_not_know() -> None:
    assert RunRecord.from_json({**record().to_json(), "from_the_future": 1}) == record()
