"""Each rule speaks when its figure says so, and is silent otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from coderllm_jax.reporting.advice import Figures, advise

HEALTHY: dict[str, Any] = {
    "status": "finished",
    "steps": 60,
    "converged": "converged",
    "baseline_eval_loss": 5.0,
    "baseline_few_shot_loss": 3.5,
    "best_eval_loss": 3.0,
    "best_step": 60,
    "final_eval_loss": 3.0,
    "data_wait_fraction": 0.01,
    "wall_s": 100.0,
    "train_s": 80.0,
}
STATISTICS = {"fill_fraction": 0.98, "num_examples": 1000, "num_dropped": 3, "num_bad_rows": 0}


def figures(
    *, rows: tuple[dict, ...] = (), statistics: dict | None = None, **changes: Any
) -> Figures:
    return Figures({**HEALTHY, **changes}, rows, {**STATISTICS, **(statistics or {})})


def actions(given: Figures) -> str:
    return "\n".join(f"{advice.action} {advice.reason}" for advice in advise(given))


def test_a_healthy_run_gets_one_piece_of_advice() -> None:
    advice = advise(figures())
    assert len(advice) == 1
    assert advice[0].action.startswith("More steps of the same will gain little")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"converged": "improving"}, "--config.steps=120"),
        ({"converged": "plateaued"}, "Raise learning_rate threefold"),
        ({"converged": "diverged", "final_eval_loss": 9.0}, "Lower learning_rate"),
        ({"converged": "diverged", "status": "diverged"}, "stopped being a number at step 60"),
        ({"best_eval_loss": 3.0, "best_step": 20, "final_eval_loss": 3.4}, "learns its rows"),
        ({"baseline_few_shot_loss": 2.0}, "chat turns rather than the subject"),
        ({"data_wait_fraction": 0.2}, "Raise data.workers"),
        ({"train_s": 20.0}, "Only 20% of the time was training"),
        ({"statistics": {"fill_fraction": 0.4}}, "Turn data.packing on"),
        ({"statistics": {"num_dropped": 100}}, "100 of 1,000 rows"),
    ],
)
def test_a_rule_speaks_when_its_figure_says_so(changes: dict, said: str) -> None:
    assert said not in actions(figures())
    assert said in actions(figures(**changes))


def test_an_overfitted_run_is_not_called_settled() -> None:
    assert "has settled" not in actions(figures(final_eval_loss=3.4))


def test_a_noisy_loss_is_noticed_and_a_steady_one_is_not() -> None:
    def rows(spread: float) -> tuple[dict, ...]:
        return tuple(
            {"step": i, "loss": 3 + spread * (-1) ** i, "grad_norm": 1.0} for i in range(1, 30)
        )

    assert "scatters" in actions(figures(rows=rows(1.5)))
    assert "scatters" not in actions(figures(rows=rows(0.1)))


def test_a_running_run_is_not_told_to_train_longer() -> None:
    assert advise(figures(status="running", converged="improving", train_s=1.0)) == []


def test_a_run_without_figures_gets_no_advice_and_no_error() -> None:
    nothing = dict.fromkeys(HEALTHY) | {
        "status": "running",
        "converged": "plateaued",
        "steps": 0,
    }
    advise(Figures(nothing, [], {}))
