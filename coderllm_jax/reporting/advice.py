"""What to do next with a run: plain rules over its figures, each with the figure it rests on.

Covers what the figures of one run can show. Does not cover whether the answers are right: that is
what `evaluate` is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.training.record import is_finite


class Advice(NamedTuple):
    """What to do, and the figure that says so."""

    action: str
    reason: str


class Figures(NamedTuple):
    """A run's summary, its rows of metrics.jsonl, and its manifest's data statistics."""

    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    statistics: Mapping[str, Any]

    def evaluations(self) -> list[Mapping[str, Any]]:
        """Rows with a finite evaluation loss, the baseline first."""
        return [row for row in self.rows if is_finite(row.get("eval_loss"))]

    def losses(self) -> list[float]:
        """Finite training losses, in order."""
        return [row["loss"] for row in self.rows if is_finite(row.get("loss"))]


def advise(figures: Figures) -> list[Advice]:
    """Every rule that applies, the most important first."""
    return [advice for rule in _RULES if (advice := rule(figures)) is not None]


def _diverged(figures: Figures) -> Advice | None:
    if figures.summary["converged"] != "diverged":
        return None
    if figures.summary["status"] == "diverged":
        found = f"The loss stopped being a number at step {figures.summary['steps']}."
    else:
        found = (
            f"The evaluation loss ended at {_loss(figures.summary['final_eval_loss'])}, above its "
            f"start of {_loss(figures.summary['baseline_eval_loss'])}."
        )
    return Advice(
        "Lower learning_rate to a third, in a new workdir; raise optimizer.warmup_fraction.", found
    )


def _overfitting(figures: Figures) -> Advice | None:
    best, final = figures.summary["best_eval_loss"], figures.summary["final_eval_loss"]
    if not (is_finite(best) and is_finite(final)) or final <= 1.02 * best:
        return None
    return Advice(
        "Use the best step, which adapter/ already holds. For more, add rows or lower epochs, "
        "lora.rank or learning_rate.",
        f"The evaluation loss rose from {_loss(best)} at step {figures.summary['best_step']} to "
        f"{_loss(final)} at the end: the run learns its rows by heart.",
    )


def _improving(figures: Figures) -> Advice | None:
    if figures.summary["converged"] != "improving" or figures.summary["status"] == "running":
        return None
    steps = figures.summary["steps"]
    return Advice(
        f"Train longer: the same command with --config.steps={2 * steps} and "
        "--config.epochs=0 goes on from here.",
        f"The evaluation loss was still falling at the end ({_loss_path(figures)}).",
    )


def _plateaued(figures: Figures) -> Advice | None:
    if figures.summary["converged"] != "plateaued":
        return None
    return Advice(
        "Raise learning_rate threefold or lora.rank, or add lora.targets; look at the rows, too: "
        "what is asked in evaluation may not be in them.",
        f"The evaluation loss hardly moved ({_loss_path(figures)}).",
    )


def _converged(figures: Figures) -> Advice | None:
    if figures.summary["converged"] != "converged" or _overfitting(figures):
        return None
    return Advice(
        "More steps of the same will gain little; more and other rows will.",
        f"The evaluation loss has settled ({_loss_path(figures)}).",
    )


def _template_only(figures: Figures) -> Advice | None:
    few_shot, best = figures.summary["baseline_few_shot_loss"], figures.summary["best_eval_loss"]
    if not (is_finite(few_shot) and is_finite(best)) or best < few_shot:
        return None
    return Advice(
        "Judge the gain against the few-shot loss, not against the start.",
        f"Under a plain few-shot prompt the untrained model has a loss of {_loss(few_shot)}, and "
        f"the trained one reached {_loss(best)}: so far it has learnt the chat turns rather than "
        "the subject.",
    )


def _noisy(figures: Figures) -> Advice | None:
    losses = figures.losses()[-20:]
    clipped = [
        row["grad_norm"] for row in figures.rows if is_finite(row.get("grad_norm")) and row["step"]
    ][-20:]
    if len(losses) < 10 or not clipped:
        return None
    mean = sum(losses) / len(losses)
    spread = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / len(losses))
    if spread < 0.25 * mean:
        return None
    return Advice(
        "Raise batch_size, or lower learning_rate.",
        f"The training loss of the last {len(losses)} rows scatters by {spread:.2f} around "
        f"{mean:.2f}.",
    )


def _starved(figures: Figures) -> Advice | None:
    waited = figures.summary["data_wait_fraction"]
    if not is_finite(waited) or waited <= 0.05:
        return None
    return Advice(
        "Raise data.workers (and data.prefetch).",
        f"Training waited for batches during {waited:.0%} of its time.",
    )


def _padded(figures: Figures) -> Advice | None:
    fill = figures.statistics.get("fill_fraction")
    if not is_finite(fill) or fill >= 0.8:
        return None
    return Advice(
        "Turn data.packing on, or choose a data.sequence_length that your rows fill.",
        f"Only {fill:.0%} of all positions hold tokens; the rest is padding.",
    )


def _dropped(figures: Figures) -> Advice | None:
    lost = figures.statistics.get("num_dropped", 0) + figures.statistics.get("num_bad_rows", 0)
    total = figures.statistics.get("num_examples", 0) + figures.statistics.get("num_bad_rows", 0)
    if not total or lost <= 0.02 * total:
        return None
    return Advice(
        "Look at the rows that were left out; a larger data.sequence_length keeps long ones.",
        f"{lost:,} of {total:,} rows were too long or bad.",
    )


def _fixed_costs(figures: Figures) -> Advice | None:
    wall, train = figures.summary["wall_s"], figures.summary["train_s"]
    if figures.summary["status"] == "running" or not wall or train >= 0.4 * wall:
        return None
    return Advice(
        "For short runs, raise evaluation.every_steps or lower evaluation.samples; a second run "
        "also finds its programs compiled.",
        f"Only {train / wall:.0%} of the time was training; see where it went below.",
    )


_RULES: tuple[Callable[[Figures], Advice | None], ...] = (
    _diverged,
    _overfitting,
    _improving,
    _plateaued,
    _converged,
    _template_only,
    _noisy,
    _starved,
    _padded,
    _dropped,
    _fixed_costs,
)


def _loss(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _loss_path(figures: Figures) -> str:
    losses = [_loss(row["eval_loss"]) for row in figures.evaluations()]
    shown = losses if len(losses) <= 6 else [*losses[:2], "…", *losses[-3:]]
    return " → ".join(shown)
