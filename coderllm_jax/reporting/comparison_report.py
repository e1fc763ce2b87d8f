"""The page of a comparison, made from comparison.json alone.

    comparison.json ──► report/index.html      one file, opens offline

What to use comes first, for whoever has to decide; then what it rests on, for whoever has to check;
last, every question with everybody's answer. One script filters those (`comparison_filter`): the
page says all that it has to say without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.monitoring.progress import clock
from coderllm_jax.reporting.comparison_advice import (
    deployment_part,
    next_part,
    recommendations_table,
)
from coderllm_jax.reporting.comparison_content import (
    Content,
    in_words,
    is_known,
    listed,
    make_visible,
    number_of,
    read_arms,
    section_of,
    show_in,
)
from coderllm_jax.reporting.comparison_cost import cost_part
from coderllm_jax.reporting.comparison_dimensions import dimension_part, glance_table
from coderllm_jax.reporting.comparison_filter import SCRIPT
from coderllm_jax.reporting.comparison_latency import latency_part
from coderllm_jax.reporting.comparison_questions import questions_part
from coderllm_jax.reporting.comparison_reading import read_verdict
from coderllm_jax.reporting.comparison_statistics import statistics_part
from coderllm_jax.reporting.comparison_style import STYLE
from coderllm_jax.reporting.page import grid_table, notes_list, page, table, text, unfold

_LATENCIES = ("alone/", "together/")


def write_comparison_report(folder: Path, content: Mapping[str, Any]) -> Path:
    """Writes report/index.html, whole or not at all; returns its path.

    content: what comparison.json holds.
    """
    path = folder / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(render(content).encode())
    unfinished.replace(path)
    return path


def render(content: Mapping[str, Any]) -> str:
    """The page's HTML."""
    content = make_visible(content)
    sections = {
        "glance": ("At a glance", glance_table(content)),
        "statistics": ("Arm against arm", statistics_part(content)),
        "cost": ("Cost", cost_part(content) + dimension_part(content, "cost")),
        **_dimension_sections(content),
        "next": ("What to train next", next_part(content)),
        "deployment": ("How to run each arm", deployment_part(content)),
        "prompts": ("How each arm was asked", _prompts(content)),
        "unscored": ("What could not be scored, and what else to know", _notes(content)),
        "provenance": ("The comparison", _provenance(content)),
        "questions-and-answers": ("Every question", questions_part(content)),
    }
    shown = {name: part for name, part in sections.items() if part[1]}
    links = "".join(f'<a href="#{name}">{text(title)}</a>' for name, (title, _) in shown.items())
    return page(
        f"{_title(content)}: comparison",
        [
            _header(content),
            f'<nav aria-label="Sections">{links}</nav>' if links else "",
            *(
                f'<section id="{name}"><h2>{text(title)}</h2>{body}</section>'
                for name, (title, body) in shown.items()
            ),
            "<footer>Made by coderllm_jax from this folder's comparison.json. On paper, questions "
            "are printed as they are folded on the screen.</footer>",
        ],
        style=STYLE,
        script=SCRIPT,
    )


def _title(content: Content) -> str:
    labels = [arm.label for arm in read_arms(content).values()]
    return listed(labels) or "Nothing"


def _header(content: Content) -> str:
    manifest = content.get("manifest", {})
    number = len(content.get("questions", ()))
    took = number_of(manifest, "wall_s")
    told = [
        str(content.get("status", "")),
        f"{number:,} questions" if number else "",
        f"in {clock(took)}" if took is not None else "",
        str(manifest.get("created", "")),
    ]
    sentences = "".join(
        f'<p class="verdict-words">{text(sentence)}</p>' for sentence in read_verdict(content)
    )
    return (
        f"<header><h1>{text(_title(content))}, compared</h1>"
        f'<p class="muted">{text(" · ".join(part for part in told if part))}</p>{sentences}'
        f"</header>{recommendations_table(content)}"
    )


def _dimension_sections(content: Content) -> dict[str, tuple[str, str]]:
    """Accuracy, quality, performance, consistency, and any that this page has not heard of."""
    sections = {}
    for each in content.get("dimensions", ()):
        name = str(each.get("name", ""))
        if name == "cost" or not (place := section_of(content, name)):
            continue
        body = dimension_part(
            content, name, leave_out=lambda figure: figure.name.startswith(_LATENCIES)
        )
        if name == "performance" and (latencies := latency_part(content)):
            rest = f"<h3>Throughput, tokens and memory</h3>{body}" if body else ""
            body = f"{latencies}{rest}"
        sections[place] = (str(each.get("label") or name), body)
    return sections


def _prompts(content: Content) -> str:
    """What was chosen for each arm on the validation questions, and what else was tried."""
    arms = read_arms(content).values()
    chosen = grid_table(
        ["arm", "model", "prompt", "questions it was chosen on"],
        [
            [
                arm.label,
                arm.about.get("model", ""),
                arm.about.get("prompt", {}).get("chosen", ""),
                arm.about.get("prompt", {}).get("num_items", 0) or "not chosen, the only one",
            ]
            for arm in arms
        ],
        has_texts=True,
    )
    tried = grid_table(
        ["arm", "prompt", "fact F1 on the validation questions", ""],
        [
            [
                arm.label,
                each.get("words", ""),
                in_words(each.get("fact_f1"), "share"),
                "chosen" if each.get("is_chosen") else "",
            ]
            for arm in arms
            for each in arm.about.get("prompt", {}).get("candidates", ())
            if is_known(each.get("fact_f1"))
        ],
        has_texts=True,
    )
    words = (
        "Every arm gets the prompt that suits it best, chosen on questions that are not compared. "
        "A figure by which something was chosen flatters it, so none of these is a result."
    )
    if not chosen:
        return ""
    folded = unfold("Everything that was tried", tried) if tried else ""
    return f'<p class="muted">{text(words)}</p>{chosen}{folded}'


def _notes(content: Content) -> str:
    sets = [
        f"{each.get('label') or each.get('name', '')}: {each.get('words', '')}"
        for each in content.get("sets", ())
        if each.get("words")
    ]
    unscored, notes = content.get("unscored", ()), content.get("notes", ())
    parts = [
        (f"<h3>{title}</h3>{listing}" if (listing := notes_list(lines)) else "")
        for title, lines in (
            ("Could not be scored", unscored),
            ("The questions", sets),
            ("Notes", notes),
        )
    ]
    return "".join(parts)


def _provenance(content: Content) -> str:
    manifest = content.get("manifest", {})
    took = number_of(manifest, "wall_s")
    rows = [
        ("made", manifest.get("created", "")),
        ("took", clock(took) if took is not None else ""),
        *(
            (name.replace("_", " "), _plain(manifest[name]))
            for name in manifest
            if name not in ("created", "wall_s", "config", "commit") and manifest[name]
        ),
        ("commit", manifest.get("commit") or ("not a checkout" if manifest else "")),
        ("results sha256", content.get("results_sha256", "")),
    ]
    facts = table((name, value) for name, value in rows if value)
    config = manifest.get("config")
    folded = unfold("The configuration", f"<pre>{_json(config)}</pre>") if config else ""
    return _memory(content) + (facts if any(value for _, value in rows) else "") + folded


def _memory(content: Content) -> str:
    show = show_in("bytes")
    arms = read_arms(content)
    rows = [
        [
            arm.label,
            show(memory["total_bytes"]),
            ", ".join(f"{name} {show(size)}" for name, size in memory.get("parts", {}).items()),
            listed([arms[each].label if each in arms else each for each in memory["shared_with"]])
            if memory.get("shared_with")
            else "",
        ]
        for arm in arms.values()
        if (memory := arm.about.get("memory", {})).get("total_bytes")
    ]
    head = ["arm", "memory, served alone", "of it", "shares weights with"]
    return grid_table(head, rows, has_texts=True)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _json(value: Any) -> str:
    return text(json.dumps(value, indent=1, ensure_ascii=False, default=str))
