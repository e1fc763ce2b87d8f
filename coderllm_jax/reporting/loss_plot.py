"""loss.png: training and evaluation loss over steps, for where a page cannot be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.training.record import is_finite


def write_loss_plot(
    path: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Draws without a display; figures that are not finite are left out."""
    # Figure and Agg by name: pyplot would keep the figure and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label, style in (
        ("loss", "training", {"color": "#0b62b8", "alpha": 0.6, "linewidth": 1.2}),
        ("eval_loss", "evaluation (unseen)", {"color": "#c2410c", "marker": "o"}),
    ):
        points = [(row["step"], row[name]) for row in rows if is_finite(row.get(name))]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    few_shot = summary.get("baseline_few_shot_loss")
    if is_finite(few_shot):
        axes.axhline(few_shot, linestyle="--", color="#64748b", label="base, few-shot prompt")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title(f"{summary['model']}: {summary['converged']}")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(frameon=False)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format="png")
    unfinished.replace(path)
