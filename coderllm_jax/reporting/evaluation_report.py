"""The page of an evaluation, made from results.json and samples.jsonl alone.

results.json ──┐
samples.jsonl ─┴──► report/index.html   one file, opens offline

A suite that this page knows nothing about is shown by its figures and its notes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.monitoring.progress import clock
from coderllm_jax.reporting.answers_section import answers_section
from coderllm_jax.reporting.code_section import code_section
from coderllm_jax.reporting.evaluation_figures import (
    NONE,
    Figure,
    busiest_load,
    closed_loads,
    gate_of,
    load_in_words,
    name_in_words,
    read_figures,
)
from coderllm_jax.reporting.evaluation_reading import read_evaluation
from coderllm_jax.reporting.page import (
    grid_table,
    notes_list,
    page,
    section,
    table,
    text,
    tiles,
    unfold,
)
from coderllm_jax.reporting.performance_section import performance_section
from coderllm_jax.reporting.regression_section import regression_section
from coderllm_jax.reporting.robustness_section import robustness_section

_SECTIONS: dict[str, Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], str]] = {
    "code_generation": code_section,
    "qa_accuracy": answers_section,
    "performance": performance_section,
    "robustness": robustness_section,
    "regression": regression_section,
}
# Suite, figure, what to call it.
_HEADLINES = (
    ("code_generation", "human_eval/pass@1", "HumanEval pass@1"),
    ("code_generation", "hand_written/pass@1", "Hand-written pass@1"),
    ("qa_accuracy", "seen/fact_f1", "Fact F1, seen"),
    ("qa_accuracy", "unseen/fact_f1", "Fact F1, unseen"),
    ("robustness", "survival/passed", "Survived"),
    ("robustness", "repetition/identical", "Same when repeated"),
)


def write_evaluation_report(
    folder: Path, content: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> Path:
    """Writes report/index.html, whole or not at all; returns its path.

    content: what results.json holds. samples: rows of samples.jsonl.
    """
    path = folder / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    # Answers may hold what is no Unicode; the page must be written all the same.
    html = render(content, samples).encode("utf-8", "backslashreplace")
    unfinished.write_bytes(html)
    unfinished.replace(path)
    return path


def render(content: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """The page's HTML."""
    manifest, suites = content.get("manifest", {}), content.get("suites", {})
    name = manifest.get("answerer", {}).get("name") or manifest.get("samples") or "evaluation"
    return page(
        f"{name}: evaluation",
        [
            _header(name, content),
            _headline(suites),
            section("What it says", _findings(content)),
            *(_section(suite, suites[suite], samples) for suite in _order(content)),
            section("The evaluation", _provenance(content), _raw(content)),
            "<footer>Made by coderllm_jax from this folder's results.json and samples.jsonl."
            "</footer>",
        ],
    )


def _header(name: str, content: Mapping[str, Any]) -> str:
    gate = gate_of(content)
    state = {"passed": "good", "failed": "bad"}.get(gate, "muted")
    judged = (
        f' · regression gate <b class="{state}">{text(name_in_words(gate))}</b>' if gate else ""
    )
    took = sum(suite.get("wall_s", 0.0) for suite in content.get("suites", {}).values())
    manifest = content.get("manifest", {})
    return (
        f"<header><h1>{text(name)}</h1><p>{text(content.get('status', ''))} in "
        f"{clock(took)} · {text(_what_answered(manifest))}{text(manifest.get('created', ''))}"
        f"{judged}</p></header>"
    )


def _what_answered(manifest: Mapping[str, Any]) -> str:
    """The model behind the name, and what was trained onto it."""
    model = manifest.get("answerer", {}).get("model", {})
    if not isinstance(model, Mapping):
        return f"{model} · "
    trained = model.get("trained")
    parts = [model.get("name", "")]
    if isinstance(trained, Mapping):
        parts += [trained.get("kind", ""), f"step {trained['step']}" if "step" in trained else ""]
    return "".join(f"{part} · " for part in parts if part)


def _headline(suites: Mapping[str, Any]) -> str:
    wanted = [*_HEADLINES, *_load_headlines(read_figures(suites.get("performance", {})))]
    found = []
    for suite, name, title in wanted:
        figure = read_figures(suites.get(suite, {})).get(name)
        if figure is not None:
            found.append((title, figure.in_words(), _under(figure)))
    return tiles(found) if found else ""


def _load_headlines(figures: Mapping[str, Figure]) -> list[tuple[str, str, str]]:
    """The wait under the least load for which it is known, and the best throughput."""
    waits = (f"{load}/time_to_first_token_s/p50" for load in closed_loads(figures))
    wait = next((name for name in waits if name in figures and figures[name].value), "")
    best = busiest_load(figures)
    found = []
    if wait:
        least = load_in_words("/".join(wait.split("/")[:2]))
        found.append(("performance", wait, f"First token p50, {least}"))
    if best:
        title = f"New tokens, {load_in_words(best)}"
        found.append(("performance", f"{best}/tokens_out_per_s", title))
    return found


def _under(figure: Figure) -> str:
    around = figure.interval_in_words()
    return f"{around}, n = {figure.num_items:,}" if around else f"n = {figure.num_items:,}"


def _findings(content: Mapping[str, Any]) -> str:
    items = "".join(
        f'<li><b class="{finding.state}">{text(finding.sentence)}</b> '
        f'<span class="muted">{text(finding.figures)}</span></li>'
        for finding in read_evaluation(content)
    )
    return f'<ul class="findings card">{items}</ul>' if items else ""


def _order(content: Mapping[str, Any]) -> list[str]:
    """Suites as they ran; a regression is what there is to see first."""
    names = list(content.get("suites", {}))
    return sorted(names, key=lambda name: (name, gate_of(content)) != ("regression", "failed"))


def _section(name: str, suite: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in samples if name == "regression" or row.get("suite") == name]
    body = _SECTIONS[name](suite, rows) if name in _SECTIONS else _figures_table(suite)
    reason = suite.get("details", {}).get("reason")
    return section(
        name_in_words(name),
        # The gate's reason is its section's first line already.
        notes_list(note for note in suite.get("notes", ()) if note != reason),
        body,
        unfold("All figures of this suite", _figures_table(suite))
        if name in _SECTIONS and suite.get("figures")
        else "",
        "" if name in _SECTIONS else _details(suite),
    )


def _provenance(content: Mapping[str, Any]) -> str:
    manifest = content.get("manifest", {})
    answerer, devices = manifest.get("answerer", {}), manifest.get("devices", {})
    items = manifest.get("items", {})
    rows = [
        ("answered by", answerer.get("name") or manifest.get("samples", NONE)),
        *((name, _plain(value)) for name, value in answerer.items() if name != "name"),
        ("questions", _plain(items)),
        ("devices", _plain(devices)),
        ("commit", manifest.get("commit") or "not a checkout"),
        ("versions", _plain(manifest.get("versions", {}))),
        ("results sha256", content.get("results_sha256", "")),
    ]
    return table((name, value) for name, value in rows if value)


def _figures_table(suite: Mapping[str, Any]) -> str:
    return grid_table(
        ["figure", "value", "interval", "items"],
        [
            [name, figure.in_words(), figure.interval_in_words(), f"{figure.num_items:,}"]
            for name, figure in read_figures(suite).items()
        ],
    )


def _details(suite: Mapping[str, Any]) -> str:
    details = suite.get("details")
    return unfold("Its details", f"<pre>{_json(details)}</pre>") if details else ""


def _raw(content: Mapping[str, Any]) -> str:
    return unfold(
        "The manifest, with the configuration", f"<pre>{_json(content.get('manifest', {}))}</pre>"
    )


def _json(value: Any) -> str:
    return text(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return str(value)
