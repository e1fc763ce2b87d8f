"""The page of a training run, made from the run's folder alone: it can be made again at any time.

report/summary.json ─┐
metrics/*.jsonl ─────┼──► report/index.html   one file, opens offline
manifest.json ───────┤    report/loss.png     the two losses, for where SVG is not shown
config.json ─────────┘
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.monitoring.metrics_log import read_rows
from coderllm_jax.monitoring.progress import clock
from coderllm_jax.reporting.advice import Figures, advise
from coderllm_jax.reporting.chart import Point, Series, line_chart, short_number
from coderllm_jax.reporting.page import (
    page,
    section,
    shares,
    side_by_side,
    table,
    text,
    tiles,
    unfold,
)
from coderllm_jax.training.record import is_finite
from coderllm_jax.training.run_folder import RunFolder, read_json

_REFRESH_S = 30
_GIB = 2**30
_NONE = "\u2013"


def write_report(folder: RunFolder, summary: Mapping[str, Any] | None = None) -> Path:
    """Writes report/index.html, and loss.png once the run is over; returns the page's path.

    Each appears whole or not at all. `summary`: the one that is to be written after the page,
    because it says that the run is finished; by default the one that is there.
    """
    summary = read_json(folder.summary) if summary is None else summary
    rows = read_rows(folder.metrics_log)
    folder.report.mkdir(parents=True, exist_ok=True)
    path = folder.report / "index.html"
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(
        render(
            name=folder.path.name,
            summary=summary,
            rows=rows,
            samples=read_rows(folder.samples_log),
            manifest=read_json(folder.manifest),
            config=read_json(folder.config),
        ),
        encoding="utf-8",
    )
    unfinished.replace(path)
    if summary["status"] != "running":
        from coderllm_jax.reporting.loss_plot import write_loss_plot

        write_loss_plot(folder.report / "loss.png", rows, summary)
    return path


def render(
    *,
    name: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
) -> str:
    """The page's HTML."""
    is_running = summary["status"] == "running"
    statistics = manifest.get("data", {})
    figures = Figures(summary, rows, statistics)
    return page(
        f"{name}: training {summary['model']}",
        [
            _header(name, summary, manifest),
            _headline(summary),
            section("What to do next", _advice(figures)),
            section("Curves", _curves(rows, summary)),
            section("Answers, before and at the best step", _answers(samples, summary)),
            section("Where the time went", _time(summary)),
            section("Data", _data(statistics, summary)),
            section("The run", _provenance(manifest), _raw(config, manifest, summary)),
            "<footer>Made by coderllm_jax from this folder's metrics/ and manifest.json.</footer>",
        ],
        refresh_s=_REFRESH_S if is_running else 0,
    )


def _header(name: str, summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    state = {"finished": "good", "diverged": "bad"}.get(summary["status"], "muted")
    planned = summary.get("planned_steps") or summary["steps"]
    return (
        f"<header><h1>{text(name)}</h1><p>"
        f'<b class="{state}">{text(summary["status"])}</b> '
        f"at step {summary['steps']:,} of {planned:,} · {text(summary['converged'])} · "
        f"{text(summary['model'])} · {text(manifest.get('created', ''))}</p></header>"
    )


def _headline(summary: Mapping[str, Any]) -> str:
    before, best = summary["baseline_eval_loss"], summary["best_eval_loss"]
    few_shot = summary.get("baseline_few_shot_loss")
    ratio = f"{best / before:.2f} of the start" if before and best else "not evaluated yet"
    mfu = summary.get("mfu")
    return tiles(
        [
            ("Loss before", _figure(before), "unseen questions, chat turns"),
            ("Best loss", _figure(best), f"{ratio}, step {_or_dash(summary['best_step'])}"),
            ("Base, few-shot", _figure(few_shot), "untrained, plain prompt"),
            (
                "Speed",
                f"{summary['tokens_per_s'] or 0:,.0f}",
                "tokens/s" + (f", {mfu:.0%} of peak" if mfu else ", no padding counted"),
            ),
            (
                "Trained on",
                short_number(summary["tokens"]),
                f"tokens, {short_number(summary['loss_tokens'])} of answers",
            ),
            ("Time", clock(summary["wall_s"]), f"{_figure(_median(summary), 2)} s a step"),
            ("Peak memory", f"{summary['peak_memory_bytes'] / _GIB:.1f} GiB", "device or process"),
            ("Trained weights", short_number(summary["adapter_parameters"]), "parameters"),
        ]
    )


def _advice(figures: Figures) -> str:
    items = "".join(
        f'<li class="card"><b>{text(advice.action)}</b>'
        f'<p class="muted">{text(advice.reason)}</p></li>'
        for advice in advise(figures)
    )
    return f'<ul class="advice">{items}</ul>' if items else ""


def _curves(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    evaluation = _points(rows, "eval_loss")
    losses = [
        Series("training", _points(rows, "loss"), "faint", 0),
        Series("evaluation", evaluation, "points", 1),
    ]
    few_shot = summary.get("baseline_few_shot_loss")
    if is_finite(few_shot) and evaluation:
        losses.append(Series("base, few-shot", [(evaluation[0][0], few_shot)], "dashed", 5))
    accuracy = [Series("evaluation", _points(rows, "token_accuracy"), "points", 1)]
    charts = [
        line_chart("Loss", losses),
        line_chart("Answer tokens guessed right", accuracy, show=lambda y: f"{y:.0%}"),
        line_chart("Tokens/s", [Series("training", _points(rows, "tokens_per_s"))], from_zero=True),
        line_chart(
            "Memory in use (GiB)",
            [Series("memory", _points(rows, "memory_bytes", 1 / _GIB), color=2)],
            from_zero=True,
        ),
        line_chart("Gradient norm, before clipping", [Series("norm", _points(rows, "grad_norm"))]),
        line_chart("Learning rate", [Series("schedule", _points(rows, "learning_rate"), color=3)]),
    ]
    return f'<div class="grid-2">{"".join(charts)}</div>' if any(charts) else ""


def _answers(samples: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    best = summary["best_step"]
    before = {row["question"]: row for row in samples if row["step"] == 0}
    after = {row["question"]: row["answer"] for row in samples if row["step"] == best}
    cards = []
    for question, row in before.items():
        columns = [("Before", row["answer"])]
        if question in after:
            columns.append((f"Step {best}", after[question]))
        if row.get("reference"):
            columns.append(("Hoped for", row["reference"]))
        cards.append(side_by_side(question, columns))
    return "".join(cards)


def _time(summary: Mapping[str, Any]) -> str:
    named = [
        ("training", summary["train_s"]),
        ("compiling", summary["compile_s"]),
        ("evaluating", summary["evaluation_s"]),
        ("sampling answers", summary["sampling_s"]),
        ("loading and reading", summary["setup_s"]),
        ("saving and the rest", 0.0),
    ]
    rest = max(0.0, summary["wall_s"] - sum(seconds for _, seconds in named))
    named[-1] = (named[-1][0], rest)
    waited = summary["data_wait_fraction"]
    step = summary["step_time_s"]
    words = (
        '<p class="muted">Half of the steps took '
        f"{_figure(step['p50'], 2)} s or less, 95 % took "
        f"{_figure(step['p95'], 2)} s or less; {_percent(waited)} of training was waiting for "
        "batches.</p>"
    )
    return shares([(name, seconds, clock(seconds)) for name, seconds in named]) + words


def _data(statistics: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    if not statistics:
        return ""
    spread = statistics.get("tokens_per_example", {})
    left = table(
        [
            ("rows read", f"{statistics.get('num_examples', 0):,} from {statistics.get('path')}"),
            (
                "rows left out",
                f"{statistics.get('num_dropped', 0):,} too long, "
                f"{statistics.get('num_bad_rows', 0):,} bad; "
                f"{statistics.get('num_truncated', 0):,} cut",
            ),
            ("examples consumed", f"{summary['examples']:,} (each as often as it was)"),
            ("tokens a row", ", ".join(f"{key} {value:,.0f}" for key, value in spread.items())),
            (
                "answer tokens",
                f"{statistics.get('answer_tokens', 0):,} of {statistics.get('tokens', 0):,}",
            ),
            (
                "packing",
                f"{statistics.get('rows_per_epoch', 0):,} rows of "
                f"{statistics.get('sequence_length', 0):,} positions an epoch, "
                f"{_percent(statistics.get('fill_fraction'))} full",
            ),
            ("evaluation questions", f"{statistics.get('num_evaluation_items', 0):,} (unseen)"),
            ("sha256", statistics.get("sha256", "")),
        ]
    )
    right = "".join(
        f'<div class="card"><h3>{title}</h3>{table((k, f"{v:,}") for k, v in counts.items())}</div>'
        for title, counts in (
            ("Rows by kind", statistics.get("kinds", {})),
            ("Rows by source", statistics.get("sources", {})),
        )
        if counts
    )
    return f'<div class="grid-2"><div>{left}</div><div>{right}</div></div>'


def _provenance(manifest: Mapping[str, Any]) -> str:
    model, devices = manifest.get("model", {}), manifest.get("devices", {})
    program = manifest.get("program", {})
    return table(
        [
            ("model", f"{model.get('name')}: {model.get('source')}"),
            ("model sha256", model.get("sha256", "")),
            (
                "devices",
                f"{devices.get('count')} of {devices.get('kind')} ({devices.get('platform')}), "
                f"{devices.get('cpu_cores')} cores, {devices.get('processes')} process(es)",
            ),
            ("program", ", ".join(f"{key} {value}" for key, value in program.items())),
            ("commit", manifest.get("commit") or "not a checkout"),
            (
                "versions",
                ", ".join(f"{key} {value}" for key, value in manifest.get("versions", {}).items()),
            ),
        ]
    )


def _raw(*parts: Mapping[str, Any]) -> str:
    titles = ("config.json", "manifest.json", "summary.json")
    return "".join(
        unfold(title, f"<pre>{text(json.dumps(part, indent=1, ensure_ascii=False))}</pre>")
        for title, part in zip(titles, parts, strict=True)
    )


def _points(rows: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> list[Point]:
    """(step, value) of the rows that have the figure; null stands for a value not finite."""
    return [
        (row["step"], float("nan") if row[name] is None else row[name] * scale)
        for row in rows
        if name in row
    ]


def _median(summary: Mapping[str, Any]) -> float | None:
    return summary["step_time_s"]["p50"]


def _figure(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"


def _or_dash(value: Any) -> str:
    return _NONE if value is None else str(value)
