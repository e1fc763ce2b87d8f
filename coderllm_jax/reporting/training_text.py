"""How a run went, in a few lines for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coderllm_jax.monitoring.metrics_log import read_rows
from coderllm_jax.monitoring.progress import clock
from coderllm_jax.training.run_folder import RunFolder, read_json


def describe_run(workdir: Path) -> str:
    """Losses before and at best, rates, time, where the page is, and one pair of answers."""
    folder = RunFolder(workdir)
    summary = read_json(folder.summary)
    lines = [
        _losses(summary),
        f"{summary['steps']} steps, {summary['examples']:,} examples, "
        f"{summary['tokens']:,} tokens ({summary['loss_tokens']:,} of answers) in "
        f"{clock(summary['wall_s'])}; {summary['tokens_per_s'] or 0:,.0f} tokens/s, "
        f"peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB",
        f"adapter {folder.adapter}    page {folder.report / 'index.html'}",
    ]
    pair = _answers(read_rows(folder.samples_log), summary["best_step"])
    return "\n".join([*lines, *pair])


def _losses(summary: dict[str, Any]) -> str:
    before, best = summary["baseline_eval_loss"], summary["best_eval_loss"]
    if before is None or best is None:
        return f"{summary['status']}: no evaluation of a trained step"
    few_shot = summary.get("baseline_few_shot_loss")
    beside = f"; the base model under a few-shot prompt: {few_shot:.3f}" if few_shot else ""
    return (
        f"{summary['status']} ({summary['converged']}): evaluation loss {before:.3f} → {best:.3f} "
        f"({best / before:.2f} of it) at step {summary['best_step']}{beside}"
    )


def _answers(samples: list[dict[str, Any]], best_step: int | None) -> list[str]:
    before = {row["question"]: row["answer"] for row in samples if row["step"] == 0}
    after = {row["question"]: row["answer"] for row in samples if row["step"] == best_step}
    for question, answer in before.items():
        if question in after:
            return [
                "",
                f"question  {_one_line(question)}",
                f"before    {_one_line(answer)}",
                f"after     {_one_line(after[question])}",
            ]
    return []


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
