"""What an evaluation's figures say, in a few sentences, each with the figures that it rests on.

    seen/fact_f1 0.41 ┐
    unseen/… 0.22     ┴──►  "It knows more of what it was trained on …"   "0.19 more, 0.08 to 0.30"

Plain rules over results.json. A rule whose figures are missing says nothing. Covers what one
evaluation can show; what to choose instead of this model is the comparison's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from coderllm_jax.reporting.evaluation_figures import (
    HUMAN_EVAL,
    Figure,
    busiest_load,
    closed_loads,
    load_in_words,
    name_in_words,
    read_figures,
)

_ALPHA = 0.05  # after Holm, as the robustness suite has it


class Finding(NamedTuple):
    """A sentence and the figures behind it. state: `good`, `bad` or "", which is neither."""

    sentence: str
    figures: str
    state: str = ""


def read_evaluation(content: Mapping[str, Any]) -> list[Finding]:
    """What was missing, then every rule's findings, the gate's first."""
    suites = content.get("suites", {})
    missing = [
        Finding(f"{name_in_words(name)}: not all of it could be done.", _first_note(suite), "bad")
        for name, suite in suites.items()
        if not suite.get("is_whole", True)
    ]
    return missing + [
        finding
        for name, rule in _RULES.items()
        if name in suites
        for finding in rule(read_figures(suites[name]), suites[name].get("details", {}))
    ]


def subtract(one: Figure, other: Figure) -> tuple[float, float, float] | None:
    """Difference of two independent figures and its interval; None where either has none.

    "Square and add" (Zou and Donner 2008, Statistics in Medicine 27), from the figures' intervals
    alone. Not for figures of the same items, whose differences are paired.
    """
    ends = (one.value, one.low, one.high, other.value, other.low, other.high)
    if None in ends:
        return None
    a, a_low, a_high, b, b_low, b_high = (float(end) for end in ends if end is not None)
    return (
        a - b,
        a - b - math.hypot(a - a_low, b_high - b),
        a - b + math.hypot(a_high - a, b - b_low),
    )


Figures = Mapping[str, Figure]
Details = Mapping[str, Any]


def _regression(_: Figures, details: Details) -> Iterator[Finding]:
    gate = details.get("gate")
    if gate == "failed":
        names = ", ".join(
            name_in_words(name.partition("/")[2]) for name in details.get("regressions", ())
        )
        yield Finding("It answers worse than the baseline.", names, "bad")
    elif gate == "passed":
        yield Finding(
            "No drop against the baseline is shown.", str(details.get("reason", "")), "good"
        )


def _code(figures: Figures, details: Details) -> Iterator[Finding]:
    figure, found = figures.get(f"{HUMAN_EVAL}/pass@1"), details.get("sets", {}).get(HUMAN_EVAL, {})
    if figure is None:
        return
    if figure.value is None:
        yield Finding(
            "How much of HumanEval it solves is not known.", "nothing was executed", "bad"
        )
        return
    causes = found.get("causes", {})
    failures = "".join(f"; {cause} {count:,}" for cause, count in causes.items())
    if not figure.value:
        sentence = "No attempt at a HumanEval problem succeeds."
    elif figure.value <= 0.5:
        sentence = f"One attempt at a HumanEval problem in {1 / figure.value:.0f} succeeds."
    else:
        sentence = f"{figure.value:.0%} of attempts at HumanEval's problems succeed."
    yield Finding(sentence, _with_interval("pass@1", figure) + failures)


def _answers(figures: Figures, _: Details) -> Iterator[Finding]:
    seen, unseen = figures.get("seen/fact_f1"), figures.get("unseen/fact_f1")
    if seen is None or unseen is None or (difference := subtract(seen, unseen)) is None:
        return
    value, low, high = difference
    if low > 0:
        sentence = "It knows more of what it was trained on than of what it was not."
    elif high < 0:
        sentence = "It knows less of what it was trained on than of what it was not."
    else:
        sentence = "These items show no difference between what it was trained on and what not."
    yield Finding(
        sentence,
        f"fact F1 {seen.in_words()} seen and {unseen.in_words()} unseen: {value:+.3f}, "
        f"{low:+.3f} to {high:+.3f}",
    )


def _performance(figures: Figures, _: Details) -> Iterator[Finding]:
    best = busiest_load(figures)
    if not best:
        return
    waits = [
        f"{figure.in_words()} with {load_in_words(load)}"
        for load in dict.fromkeys((closed_loads(figures)[0], best))
        if (figure := figures.get(f"{load}/time_to_first_token_s/p50")) and figure.value is not None
    ]
    yield Finding(
        f"It writes up to {figures[f'{best}/tokens_out_per_s'].value or 0.0:,.0f} tokens a "
        f"second, with {load_in_words(best)}.",
        f"half wait at most {' and '.join(waits)} for the first token" if waits else "",
    )


def _robustness(figures: Figures, details: Details) -> Iterator[Finding]:
    disturbed = details.get("disturbed", {})
    costly = [
        f"{name_in_words(way)} {figure.in_words()}"
        for way, found in disturbed.items()
        if (figure := figures.get(f"{way}/fact_f1_drop")) is not None
        and figure.value
        and figure.value > 0
        and found.get("adjusted_p", 1.0) <= _ALPHA
    ]
    if costly:
        yield Finding("How a question is written matters.", f"fact F1 lost: {', '.join(costly)}")
    elif disturbed:
        yield Finding("How a question is written costs nothing that these items could show.", "")
    changed = [
        f"{name_in_words(figure.group)} {figure.in_words()}"
        for figure in figures.values()
        if figure.measure == "identical" and figure.value is not None and figure.value < 1
    ]
    if changed:
        yield Finding(
            "Its answers depend on how they are asked for.",
            f"identical greedy answers: {', '.join(changed)}",
        )
    survived = figures.get("survival/passed")
    if survived is not None and survived.value is not None and survived.value < 1:
        yield Finding(
            "Some questions are not survived.", _with_interval("survived", survived), "bad"
        )


_RULES: dict[str, Callable[[Figures, Details], Iterator[Finding]]] = {
    "regression": _regression,
    "code_generation": _code,
    "qa_accuracy": _answers,
    "performance": _performance,
    "robustness": _robustness,
}


def _first_note(suite: Mapping[str, Any]) -> str:
    return next(iter(suite.get("notes", ())), "")


def _with_interval(name: str, figure: Figure) -> str:
    around = figure.interval_in_words()
    return f"{name} {figure.in_words()}" + (f", {around}" if around else "")
