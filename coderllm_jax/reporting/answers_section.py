"""An evaluation page's section about questions with known answers, seen and unseen side by side.

It ends with answers to read: no figure says what an answer that scored 0.2 is like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.evaluation_figures import (
    Figure,
    name_in_words,
    read_figures,
    show_as,
    show_number,
)
from coderllm_jax.reporting.page import grid_table, side_by_side, unfold
from coderllm_jax.reporting.row_charts import Group, Spread, histogram, interval_chart

_SCORE_KINDS = {
    "Facts and words, 0 to 1": ("fact_f1", "fact_precision", "fact_recall", "rouge_l"),
    "Code, 0 to 1": ("parses", "runs"),
    "Overlap with the reference, 0 to 100": ("bleu", "chrf"),
    "Perplexity of the reference answers, lower is better": ("perplexity",),
}
_ENDS = {"Facts and words, 0 to 1": (0.0, 1.0), "Code, 0 to 1": (0.0, 1.0)}
_SPLITS = ("seen", "unseen")
_MOST_EXTREME = 5
_ENDED = {"length": "cut off at its longest", "error": "not answered", "": "not answered"}
_OPINIONS = {
    "first": "the judge likes it better than the reference",
    "second": "the judge likes the reference better",
    "tie": "the judge likes both alike",
}
Rows = Sequence[Mapping[str, Any]]


def answers_section(suite: Mapping[str, Any], rows: Rows) -> str:
    """Figures of seen and unseen questions, by kind, corpus scores, and answers to read."""
    figures = read_figures(suite)
    details = suite.get("details", {})
    charts = [
        *(_chart(title, names, figures) for title, names in _SCORE_KINDS.items()),
        _judge(figures),
        _spreads(rows),
    ]
    return (
        f'<div class="grid-2">{"".join(charts)}</div>'
        + _kinds(details.get("by_kind", {}))
        + _corpus(details.get("corpus", {}))
        + _extremes(rows, details.get("judge", {}))
    )


def _chart(title: str, names: Sequence[str], figures: Mapping[str, Figure]) -> str:
    groups = [
        Group(
            name_in_words(name),
            [
                figures[f"{split}/{name}"].as_interval(split, color)
                for color, split in enumerate(_SPLITS)
                if f"{split}/{name}" in figures
            ],
        )
        for name in names
    ]
    low, high = _ENDS.get(title, (None, None))
    return interval_chart(title, groups, show=show_as(names[0]), low=low, high=high)


def _judge(figures: Mapping[str, Figure]) -> str:
    """What a second model says of answers beside their references; usually there is none."""
    found = [
        figure.as_interval(name_in_words(figure.measure), color=3)
        for figure in figures.values()
        if figure.group == "judge"
    ]
    title = "A judge's opinion, and how often it keeps it when the order is swapped"
    return interval_chart(title, [Group("", found)], show=show_number, low=0.0, high=1.0)


def _spreads(rows: Rows) -> str:
    name = _main_score(rows)
    spreads = [
        Spread(
            split,
            [
                row["scores"][name]
                for row in rows
                if row["split"] == split and name in row["scores"]
            ],
            color,
        )
        for color, split in enumerate(_SPLITS)
    ]
    title = f"How {name_in_words(name)} is spread over the answers"
    return histogram(title, spreads, low=0.0, high=1.0, show=show_number)


def _kinds(by_kind: Mapping[str, Any]) -> str:
    splits = list(by_kind)
    kinds = sorted({kind for of_split in by_kind.values() for kind in of_split})
    rows = [
        [kind, *(cell for split in splits for cell in _kind_cells(by_kind[split].get(kind)))]
        for kind in kinds
    ]
    heads = ["kind of question", *(h for s in splits for h in (f"{s}: items", f"{s}: fact F1"))]
    return grid_table(heads, rows)


def _kind_cells(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    score = found.get("fact_f1")
    return str(found.get("items", "")), "" if score is None else show_number(score)


def _corpus(corpus: Mapping[str, Any]) -> str:
    rows = []
    for split, scores in corpus.items():
        for name in ("bleu", "chrf"):
            if scores.get(name) is not None:
                low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
                around = f"{low:.1f} to {high:.1f}" if None not in (low, high) else ""
                signature = scores.get(f"{name}_signature", "")
                words = f"{scores[name]:.1f}"
                rows.append([f"{split}, {name_in_words(name)}", words, around, signature])
    return grid_table(["corpus score", "0 to 100", "interval", "sacrebleu's signature"], rows)


def _extremes(rows: Rows, opinions: Mapping[str, str]) -> str:
    """The worst and the best answers of each split."""
    name = _main_score(rows)
    scored = [row for row in rows if name in row["scores"]]
    parts = []
    for split in _SPLITS:
        ranked = sorted(
            (row for row in scored if row["split"] == split), key=lambda row: row["scores"][name]
        )
        count = min(_MOST_EXTREME, (len(ranked) + 1) // 2)
        for what, chosen in (("worst", ranked[:count]), ("best", ranked[::-1][:count])):
            cards = "".join(_answer_card(row, opinions.get(row["id"], "")) for row in chosen)
            if cards:
                parts.append(unfold(f"The {len(chosen)} {what} answers, {split}", cards))
    return "".join(parts)


def _answer_card(row: Mapping[str, Any], opinion: str) -> str:
    scores = "; ".join(
        f"{name_in_words(name)} {show_as(name)(value)}" for name, value in row["scores"].items()
    )
    told = (
        row.get("kind"),
        _ENDED.get(row.get("finish", "")),
        row.get("error"),
        row.get("run"),
        scores,
        _OPINIONS.get(opinion),
    )
    return side_by_side(
        row["question"],
        [
            ("Answer", row["answer"]),
            ("Reference", row.get("reference_answer", "")),
            *_facts(row.get("facts")),
        ],
        under=" · ".join(part for part in told if part),
    )


def _facts(facts: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not facts:
        return []
    lines = [
        f"{name}: {', '.join(map(str, facts[name]))}"
        for name in ("found", "missed", "wrong")
        if facts.get(name)
    ]
    return [("Facts", "\n".join(lines))] if lines else []


def _main_score(rows: Rows) -> str:
    return "fact_f1" if any("fact_f1" in row["scores"] for row in rows) else "rouge_l"
