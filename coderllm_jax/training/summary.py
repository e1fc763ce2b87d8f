"""summary.json of a training run: its figures for programs, and one word on how it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from coderllm_jax.training.record import RunRecord, is_finite

Verdict = Literal["converged", "improving", "plateaued", "diverged"]

# An evaluation counts as better when the loss falls by this part of itself: a run of 48 items is
# not more certain than that.
_NOTICEABLE = 0.01
# Below this part of the baseline, a run that stands still has got somewhere.
_LEARNED = 0.9


def judge_convergence(evaluations: Sequence[tuple[int, float]]) -> Verdict:
    """One word over (step, evaluation loss), the baseline first.

    diverged    a loss is not finite, or the last one is above the baseline by more than 1 %
    improving   the last one is lower by more than 1 % than all of the first three quarters' steps
    converged   no longer improving, and the best is at most 0.9 of the baseline
    plateaued   no longer improving, and never got that far
    """
    losses = [loss for _, loss in evaluations]
    if not losses:
        return "plateaued"
    if not all(map(is_finite, losses)) or losses[-1] > losses[0] * (1 + _NOTICEABLE):
        return "diverged"
    last_step = evaluations[-1][0]
    earlier = min((loss for step, loss in evaluations if step <= 0.75 * last_step), default=0)
    if losses[-1] < earlier * (1 - _NOTICEABLE):
        return "improving"
    return "converged" if min(losses) <= _LEARNED * losses[0] else "plateaued"


def summarize(
    record: RunRecord,
    *,
    model: str,
    examples: int,
    adapter_parameters: int,
    flops_per_step: float | None,
    peak_flops: float | None,
    **more: Any,
) -> dict[str, Any]:
    """The figures of a run. Rates are over steady steps, data wait included."""
    baseline, best, final = record.baseline, record.best, record.final
    seconds = record.train_s
    step_time_s = record.step_time_percentile_s(50)
    mfu = None
    if flops_per_step and peak_flops and step_time_s:
        mfu = flops_per_step / step_time_s / peak_flops
    verdict = judge_convergence([(row["step"], row["eval_loss"]) for row in record.evaluations])
    if record.status == "diverged":
        verdict = "diverged"
    return {
        "status": record.status,
        "failure": record.failure or None,
        "stopped_early": record.status == "finished" and record.stopped_early_at == record.step,
        "model": model,
        "steps": record.step,
        "examples": examples,
        "skipped_batches": len(record.skipped_steps),
        "tokens": record.tokens,
        "loss_tokens": record.loss_tokens,
        "baseline_eval_loss": baseline["eval_loss"] if baseline else None,
        "baseline_few_shot_loss": record.baseline_few_shot_loss,
        "best_eval_loss": best["eval_loss"] if best else None,
        "best_step": best["step"] if best else None,
        "final_eval_loss": final["eval_loss"] if final else None,
        "converged": verdict,
        "tokens_per_s": record.tokens / seconds if seconds else None,
        "loss_tokens_per_s": record.loss_tokens / seconds if seconds else None,
        "step_time_s": {"p50": step_time_s, "p95": record.step_time_percentile_s(95)},
        "data_wait_fraction": record.data_wait_s / seconds if seconds else None,
        "compile_s": record.compile_s,
        "train_s": seconds,
        "evaluation_s": record.evaluation_s,
        "sampling_s": record.sampling_s,
        "checkpoint_wait_s": record.checkpoint_wait_s,
        "setup_s": record.setup_s,
        "wall_s": record.wall_s,
        "peak_memory_bytes": record.peak_memory_bytes,
        "adapter_parameters": adapter_parameters,
        "mfu": mfu,
        **more,
    }
