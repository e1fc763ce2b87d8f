"""A comparison page's questions: all of them, each with every arm's answer side by side.

    ▸ Which arguments does optax.sgd take?     Fine-tuned right 1.000   Base wrong 0.000
      reference, facts
      Fine-tuned      Retrieval       Base              the answers, what each found, missed and
      …               …               …                 made up, its checks, its times
      scores of all arms
      passages: each once, with who was shown it, as which number, and who cited it

A folded question is one line, on paper too. Long texts are cut, and it is said by how much; the
whole ones are in answers.jsonl.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    dot,
    number_of,
    read_arms,
    read_figures,
    set_labels,
    show_in,
)
from coderllm_jax.reporting.comparison_filter import OUTCOMES, filter_bar
from coderllm_jax.reporting.evaluation_figures import NONE, show_seconds
from coderllm_jax.reporting.page import text, unfold

_MAIN = "fact_f1"
_STATES = {"right": "good", "runs": "good", "wrong": "bad", "fails": "bad", "none": "bad"}
_ENDED = {"length": "cut off at its longest", "error": "ended in an error", "": "not answered"}
# Check, words where it holds, words where it does not, which of the two is good.
_CHECKS = (
    ("parses", "its code parses", "its code does not parse", True),
    ("runs", "its program runs", "its program does not run", True),
    ("repeats", "goes round in circles", "", False),
    ("found", "a passage about it was found", "no passage about it was found", True),
    ("found_something", "passages were found", "nothing relevant was found", True),
)
_MOST_LETTERS, _MOST_PASSAGE_LETTERS, _MOST_FACTS = 12_000, 1_500, 24
Given = Mapping[str, Any]


def questions_part(content: Content) -> str:
    """The bar and every question; "" where nothing was asked."""
    questions = content.get("questions", ())
    if not questions:
        return ""
    arms = read_arms(content)
    sets = list(dict.fromkeys(str(each.get("set", "")) for each in questions))
    kinds = sorted({str(each.get("kind", "")) for each in questions})
    outcomes = {
        arm: {outcome_of(each.get("answers", {}).get(arm)) for each in questions} for arm in arms
    }
    labels = set_labels(content)
    bar = filter_bar(
        arms,
        sets=[labels.get(each, each) for each in sets],
        kinds=[each or "of no kind" for each in kinds],
        outcomes={arm: sorted(found) for arm, found in outcomes.items()},
    )
    shown = {figure.name: (figure.label, figure.unit) for figure in read_figures(content)}
    cards = "".join(
        _card(
            question,
            arms,
            number,
            place=(
                sets.index(str(question.get("set", ""))),
                kinds.index(str(question.get("kind", ""))),
            ),
            of_set=labels.get(str(question.get("set", "")), str(question.get("set", ""))),
            shown=shown,
        )
        for number, question in enumerate(questions)
    )
    return f'{bar}<div id="questions">{cards}</div>'


def outcome_of(given: Given | None) -> str:
    """How an answer ended, for a word, a colour and the filter: a key of OUTCOMES."""
    if not given:
        return "none"
    checks, score = given.get("checks", {}), given.get("scores", {}).get(_MAIN)
    if checks.get("answered") is False:
        return "none"
    if checks.get("right") is not None:
        return "right" if checks["right"] else "part" if score else "wrong"
    if checks.get("runs") is not None:
        return "runs" if checks["runs"] else "fails"
    return "given"


def question_links(ids: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Ways to questions by their ids; an id that was not asked stays a word."""
    links = [
        f'<a href="#q{numbers[each]}">{text(each)}</a>' if each in numbers else text(each)
        for each in ids
    ]
    return ", ".join(links)


def _card(
    question: Mapping[str, Any],
    arms: Mapping[str, Arm],
    number: int,
    *,
    place: tuple[int, int],
    of_set: str,
    shown: Mapping[str, tuple[str, str]],
) -> str:
    answers = question.get("answers", {})
    given = {name: answers.get(name) or {} for name in arms}
    outcomes = {name: outcome_of(each) for name, each in given.items()}
    scores = [s for each in given.values() if (s := each.get("scores", {}).get(_MAIN)) is not None]
    spread = f"{max(scores) - min(scores):.3f}" if scores else ""
    mean = f"{sum(scores) / len(scores):.3f}" if scores else ""
    chips = "".join(_chip(arms[name], outcomes[name], given[name]) for name in arms)
    about = (of_set, question.get("kind"), question.get("symbol"), question.get("id"))
    told = " · ".join(str(each) for each in about if each)
    if question.get("round"):
        told += f" · round {question['round']}"
    return (
        f'<details class="question" data-number="{number}" data-set="{place[0]}" '
        f'data-kind="{place[1]}" data-outcomes="{" ".join(outcomes.values())}" '
        f'data-spread="{spread}" data-mean="{mean}">'
        f'<summary><span class="said">{text(question.get("question", ""))}</span>'
        f'<span class="chips">{chips}</span></summary>'
        f'<div class="card" id="q{number}"><p class="muted small said">{text(told)}</p>'
        f"{_reference(question)}"
        f'<div class="answers">{"".join(_answer(arms[name], given[name]) for name in arms)}</div>'
        f"{_scores(arms, given, shown)}{_passages(arms, given)}</div></details>"
    )


def _chip(arm: Arm, outcome: str, given: Given) -> str:
    score = given.get("scores", {}).get(_MAIN)
    figure = f" {score:.2f}" if score is not None else ""
    return (
        f'<span class="chip {_STATES.get(outcome, "muted")}">'
        f'<i class="dot" style="--c:var(--series-{arm.color})"></i>'
        f"<span>{text(arm.label)}</span> {OUTCOMES[outcome]}{figure}</span>"
    )


def _reference(question: Mapping[str, Any]) -> str:
    reference, facts = str(question.get("reference", "")), question.get("facts", ())
    if not reference.strip() and not facts:
        return '<p class="muted">No reference: nobody can say which answer is right.</p>'
    told = f"<h4>Reference</h4>{_pre(reference)}" if reference.strip() else ""
    return f'<div class="reference">{told}{_facts("facts", facts, "")}</div>'


def _answer(arm: Arm, given: Given) -> str:
    words = str(given.get("text", ""))
    body = _pre(words) if words.strip() else '<p class="muted">nothing</p>'
    facts = given.get("facts") or {}
    found = "".join(
        _facts(name, facts.get(name, ()), state)
        for name, state in (("found", "good"), ("missed", "muted"), ("wrong", "bad"))
    )
    notes = "".join(f'<li class="{state}">{text(note)}</li>' for note, state in _notes(given))
    return (
        f"<div><h4>{dot(arm)}</h4>{body}{found}"
        f'<ul class="checks">{notes}</ul><p class="muted small">{text(_usage(given))}</p></div>'
    )


def _notes(given: Given) -> list[tuple[str, str]]:
    checks = given.get("checks", {})
    notes = []
    finish = given.get("finish", "")
    if finish in _ENDED:
        notes.append((_ENDED[finish], "bad"))
    if given.get("error"):
        notes.append((str(given["error"]), "bad"))
    for name, holds, fails, is_good in _CHECKS:
        value = checks.get(name)
        words = holds if value else fails
        if value is not None and words:
            notes.append((words, "good" if bool(value) == is_good else "bad"))
    if given.get("run_reason"):
        notes.append((str(given["run_reason"]), "muted"))
    if cited := given.get("cited"):
        notes.append((f"cites {', '.join(f'[{n}]' for n in cited)}", "muted"))
    if false := given.get("num_false_citations"):
        what = "marker that points" if false == 1 else "markers that point"
        notes.append((f"{false} {what} nowhere, removed", "bad"))
    return notes


def _usage(given: Given) -> str:
    times = given.get("times", {})
    parts = [
        f"{given.get('num_prompt_tokens') or 0:,} tokens in",
        f"{given.get('num_new_tokens') or 0:,} out",
        *(
            f"{words} {show_seconds(times[name])}"
            for name, words in (
                ("time_to_first_token_s", "first token"),
                ("total_s", "in all"),
                ("retrieval_s", "of it retrieval"),
            )
            if times.get(name)
        ),
    ]
    return " · ".join(parts)


def _scores(
    arms: Mapping[str, Arm], given: Mapping[str, Given], shown: Mapping[str, tuple[str, str]]
) -> str:
    names = dict.fromkeys(name for each in given.values() for name in each.get("scores", {}))
    if not names:
        return ""
    heads = "".join(f"<th>{text(arm.label)}</th>" for arm in arms.values())
    rows = "".join(
        f"<tr><th>{text(shown.get(name, (name, ''))[0])}</th>"
        + "".join(
            f"<td>{text(_score(given[arm], name, shown.get(name, ('', 'share'))[1]))}</td>"
            for arm in arms
        )
        + "</tr>"
        for name in names
    )
    return unfold(
        "Scores", f'<div class="wide"><table><tr><th></th>{heads}</tr>{rows}</table></div>'
    )


def _score(given: Given, name: str, unit: str) -> str:
    value = given.get("scores", {}).get(name)
    return NONE if value is None else show_in(unit)(float(value))


def _passages(arms: Mapping[str, Arm], given: Mapping[str, Given]) -> str:
    """Every passage once: what it says, and which arm was shown it as which number."""
    held: dict[str, Mapping[str, Any]] = {}
    shown_to: dict[str, list[str]] = {}
    for name, arm in arms.items():
        cited = set(given[name].get("cited") or ())
        for number, source in enumerate(given[name].get("sources") or (), 1):
            key = f"{source.get('id', '')}\0{source.get('text', '')}"
            held.setdefault(key, source)
            score = number_of(source, "score")
            told = f" {score:.3f}" if score is not None else ""
            told += ", cited" if number in cited else ""
            shown_to.setdefault(key, []).append(f"<span>{dot(arm)} [{number}]{text(told)}</span>")
    parts = [
        f'<div class="passage"><p class="small"><b>{text(source.get("id", ""))}</b> '
        f'<span class="muted">{text(source.get("source", ""))}</span></p>'
        f'<p class="small shown-to">{"".join(shown_to[key])}</p>'
        f"{_pre(str(source.get('text', '')), most=_MOST_PASSAGE_LETTERS)}</div>"
        for key, source in held.items()
    ]
    title = f"{len(parts)} passages that were looked up, with scores"
    return unfold(title, "".join(parts)) if parts else ""


def _facts(name: str, facts: Sequence[Any], state: str) -> str:
    if not facts:
        return ""
    shown = "".join(f"<code>{text(each)}</code>" for each in facts[:_MOST_FACTS])
    more = f" and {len(facts) - _MOST_FACTS} more" if len(facts) > _MOST_FACTS else ""
    return f'<p class="facts {state}"><span>{name}</span> {shown}{more}</p>'


def _pre(words: str, *, most: int = _MOST_LETTERS) -> str:
    left_out = len(words) - most
    cut = (
        f'<p class="muted small">and {left_out:,} letters more, in answers.jsonl</p>'
        if left_out > 0
        else ""
    )
    return f"<pre>{text(words[:most])}</pre>{cut}"
