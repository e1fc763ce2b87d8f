"""A comparison page's advice: what to use for what, how to run it, and what to train next.

    use                    take           how sure   why
    People wait for it     Fine-tuned     strong     first words in 0.13 s, …   ▸ rule and evidence

Which arm, how sure and by which rule is `comparison`'s; a change to the training card comes with
the questions that failed so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coderllm_jax.reporting.comparison_content import (
    Arm,
    Content,
    dot,
    label_of,
    question_numbers,
    read_arms,
    section_of,
)
from coderllm_jax.reporting.comparison_filter import pick
from coderllm_jax.reporting.comparison_questions import question_links
from coderllm_jax.reporting.page import text, unfold

_NOBODY = "none of them"


def recommendations_table(content: Content) -> str:
    """One row a use; "" where nothing is recommended."""
    arms = read_arms(content)
    rows = "".join(_use(each, arms, content) for each in content.get("recommendations", ()))
    if not rows:
        return ""
    heads = "".join(f"<span>{each}</span>" for each in ("use", "take", "how sure", "why"))
    return f'<div class="uses"><div class="use head">{heads}</div>{rows}</div>'


def next_part(content: Content) -> str:
    """Changes to the training card, each with its motive and the questions behind it."""
    found = content.get("next_iteration", {})
    numbers = question_numbers(content)
    changes = "".join(_change(each, numbers) for each in found.get("changes", ()))
    words = f"<p>{text(found['words'])}</p>" if found.get("words") else ""
    card = (
        f'<p class="muted">The card, ready to be trained: {text(found["card"])}</p>'
        if found.get("card")
        else ""
    )
    return words + changes + card


def deployment_part(content: Content) -> str:
    """How to run each arm: what is deployed, the command, and on what."""
    arms = read_arms(content)
    return "".join(
        f'<div class="card deploy"><h3>{_named(arms, each.get("arm"))}</h3>'
        f"<p>{text(each.get('words', ''))}</p>{_commands(each)}</div>"
        for each in content.get("deployment", ())
    )


def _use(each: Mapping[str, Any], arms: Mapping[str, Arm], content: Content) -> str:
    name, strength = str(each.get("arm", "")), str(each.get("strength", ""))
    evidence = "".join(
        f"<li>{text(one.get('words', ''))} {_source(str(one.get('figure', '')), content)}</li>"
        for one in each.get("evidence", ())
    )
    rule = f'<p class="small">Rule: {text(each["rule"])}</p>' if each.get("rule") else ""
    ranking = [label_of(arms, one) for one in each.get("ranking", ())]
    order = f'<p class="small">In order: {text(", ".join(ranking))}</p>' if ranking else ""
    more = f"{rule}{f'<ul>{evidence}</ul>' if evidence else ''}{order}"
    arm = _named(arms, name) if name else f'<span class="muted">{_NOBODY}</span>'
    return (
        f'<div class="use"><span>{text(each.get("label") or each.get("use_case", ""))}</span>'
        f'<b>{arm}</b><span class="strength {_class(strength)}">{text(strength)}</span>'
        f"<div>{text(each.get('words', ''))}"
        f"{unfold('rule and evidence', more) if more else ''}</div></div>"
    )


def _source(path: str, content: Content) -> str:
    """A figure's path, as a way to where it is drawn."""
    place = section_of(content, path.partition("/")[0])
    shown = f'<span class="muted">{text(path)}</span>'
    return f'<a href="#{place}">{shown}</a>' if place else shown if path else ""


def _change(each: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    ids = [str(one) for one in each.get("items", ())]
    known = [numbers[one] for one in ids if one in numbers]
    option = str(each.get("option", ""))
    behind = ""
    if ids:
        many = f"{len(ids):,} question{'s' * (len(ids) != 1)}"
        meaning = f"they speak for changing {option}"
        behind = f'<p class="small">{pick(f"{many} behind it", known, meaning)}</p>' + unfold(
            "which", f'<p class="links">{question_links(ids, numbers)}</p>'
        )
    return (
        f'<div class="card change"><h3><code>{text(option)}</code> '
        f"{text(_value(each.get('before')))} → {text(_value(each.get('after')))}</h3>"
        f"<p>{text(each.get('words', ''))}</p>{behind}</div>"
    )


def _commands(each: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{name}</th><td><code>{text(each[name])}</code></td></tr>"
        for name in ("artifact", "command", "hardware")
        if each.get(name)
    )
    return f"<table>{rows}</table>" if rows else ""


def _named(arms: Mapping[str, Arm], name: Any) -> str:
    return dot(arms[name]) if name in arms else text(name)


def _class(strength: str) -> str:
    return strength if strength in ("strong", "moderate", "weak", "none") else ""


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
