"""An evaluation page's sections about what answers are worth: code, and questions with answers.

Both end with answers to read: no figure says what an answer that scored 0.2 is like.
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
from coderllm_jax.reporting.page import grid_table, shares, side_by_side, text, unfold
from coderllm_jax.reporting.row_charts import Group, Interval, Spread, histogram, interval_chart

_MOST_SHOWN, _MOST_FAILURES = 4, 60
_MOST_EXTREME = 5
_VERDICTS = ("passed", "failed", "error", "timeout", "refused")
_SCORE_KINDS = {
    "Facts and words, 0 to 1": ("fact_f1", "fact_precision", "fact_recall", "rouge_l"),
    "Code, 0 to 1": ("parses", "runs"),
    "Overlap with the reference, 0 to 100": ("bleu", "chrf"),
    "Perplexity of the reference answers, lower is better": ("perplexity",),
}
_ENDS = {"Facts and words, 0 to 1": (0.0, 1.0), "Code, 0 to 1": (0.0, 1.0)}
Rows = Sequence[Mapping[str, Any]]


# ------------------------------------------------------------------------------------------ code


def code_sections(suite: Mapping[str, Any], rows: Rows) -> str:
    """pass@k by set, what became of the programs, and failures to read."""
    figures = read_figures(suite)
    groups = [
        Group(
            name_in_words(set_name),
            [
                _interval(figure, figure.measure, what="problems")
                for figure in figures.values()
                if figure.group == set_name
            ],
        )
        for set_name in dict.fromkeys(figure.group for figure in figures.values())
    ]
    return (
        interval_chart("Programs that pass", groups, show=show_number, low=0.0, high=1.0)
        + _verdicts(suite)
        + _failures(rows)
    )


def _verdicts(suite: Mapping[str, Any]) -> str:
    cards = []
    for name, found in suite.get("details", {}).get("sets", {}).items():
        counts, causes = found.get("verdicts", {}), found.get("causes", {})
        parts = [("passed", counts.get("passed", 0), "good")]
        parts += [(cause, count, "") for cause, count in causes.items()]
        unexplained = sum(counts.values()) - sum(count for _, count, _ in parts)
        parts += [("no cause given", unexplained, "")]
        bar = shares([(what, count, f"{count:,}") for what, count, _ in parts])
        cards.append(
            f'<div class="card"><h3>{text(name_in_words(name))}</h3>'
            f'<p class="muted">{found.get("samples", 0):,} programs for '
            f"{found.get('problems', 0):,} problems</p>{bar}</div>"
        )
    return f'<div class="grid-2">{"".join(cards)}</div>' if cards else ""


def _failures(rows: Rows) -> str:
    failed = [row for row in rows if row.get("verdict") not in (None, "passed")]
    if not failed:
        return ""
    cards = [
        side_by_side(
            str(row.get("task_id") or row.get("id", "")),
            [("Asked", row.get("question", "")), ("Answered", _said(row))],
            under=" · ".join(
                str(part) for part in (row["verdict"], row.get("cause"), row.get("reason")) if part
            ),
        )
        for row in _varied(failed)[:_MOST_FAILURES]
    ]
    return _to_read("Failures to read", cards, len(failed))


def _varied(rows: Rows) -> list[Mapping[str, Any]]:
    """Every set and cause in turn, so that the first ones shown are not all of one kind."""
    piles: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        piles.setdefault((row.get("set"), row.get("cause")), []).append(row)
    ranked = [(rank, row) for pile in piles.values() for rank, row in enumerate(pile)]
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def _said(row: Mapping[str, Any]) -> str:
    return row.get("completion") or row.get("answer") or ""


# --------------------------------------------------------------------------------------- answers


def answer_sections(suite: Mapping[str, Any], rows: Rows) -> str:
    """Figures of seen and unseen questions, by kind, corpus scores, and answers to read."""
    figures = read_figures(suite)
    details = suite.get("details", {})
    charts = [_chart(title, names, figures) for title, names in _SCORE_KINDS.items()]
    return (
        f'<div class="grid-2">{"".join(charts)}{_spreads(rows)}</div>'
        + _kinds(details.get("by_kind", {}))
        + _corpus(details.get("corpus", {}))
        + _extremes(rows)
    )


def _chart(title: str, names: Sequence[str], figures: Mapping[str, Figure]) -> str:
    splits = list(dict.fromkeys(figure.group for figure in figures.values()))
    groups = [
        Group(
            name_in_words(name),
            [
                _interval(figures[f"{split}/{name}"], split, what="items", color=color)
                for color, split in enumerate(splits)
                if f"{split}/{name}" in figures
            ],
        )
        for name in names
    ]
    low, high = _ENDS.get(title, (None, None))
    return interval_chart(title, groups, show=show_as(names[0]), low=low, high=high)


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
        for color, split in enumerate(dict.fromkeys(row["split"] for row in rows))
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


def _extremes(rows: Rows) -> str:
    """The worst and the best answers of each split."""
    name = _main_score(rows)
    scored = [row for row in rows if name in row["scores"]]
    parts = []
    for split in dict.fromkeys(row["split"] for row in scored):
        ranked = sorted(
            (row for row in scored if row["split"] == split), key=lambda row: row["scores"][name]
        )
        count = min(_MOST_EXTREME, (len(ranked) + 1) // 2)
        for what, chosen in (("worst", ranked[:count]), ("best", ranked[::-1][:count])):
            cards = "".join(map(_answer_card, chosen))
            parts.append(unfold(f"The {len(chosen)} {what} answers, {split}", cards))
    return "".join(parts)


def _answer_card(row: Mapping[str, Any]) -> str:
    scores = "; ".join(
        f"{name_in_words(name)} {show_as(name)(value)}" for name, value in row["scores"].items()
    )
    return side_by_side(
        row["question"],
        [
            ("Answer", row["answer"]),
            ("Reference", row.get("reference_answer", "")),
            *_facts(row.get("facts")),
        ],
        under=" · ".join(part for part in (row.get("kind"), scores, row.get("error")) if part),
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


# ---------------------------------------------------------------------------------------- shared


def _interval(figure: Figure, name: str, *, what: str, color: int = 0) -> Interval:
    return Interval(
        name, figure.value, figure.low, figure.high, f"{figure.num_items:,} {what}", color
    )


def _to_read(title: str, cards: Sequence[str], total: int) -> str:
    """The first cards open, the others folded, and how many more there are."""
    more = total - len(cards)
    rest = "".join(cards[_MOST_SHOWN:])
    return (
        f"<h3>{text(title)}</h3>"
        + "".join(cards[:_MOST_SHOWN])
        + (unfold(f"{len(cards) - _MOST_SHOWN} more", rest) if rest else "")
        + (f'<p class="muted">and {more:,} more in samples.jsonl</p>' if more > 0 else "")
    )
