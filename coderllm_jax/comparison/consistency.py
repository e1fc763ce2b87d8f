"""Whether an arm says the same when it is asked again, and when it is asked in other words.

    asked                   answer                            compared with the first answer
    What does lars do?      Scales layers by their norms.     -
    the same, later         Scales layers by their norms.     identical: 1
    Explain what lars does  It scales each layer's update.    agreement: ROUGE-L of the two

On a subset of the questions, with neighbours in another order. Agreement is of wording: two right
answers in different words agree little, which is why what a paraphrase costs in facts stands beside
it where there are references.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coderllm_jax.comparison.figures import Figure, Spec
from coderllm_jax.comparison.questions import Question
from coderllm_jax.comparison.verdicts import Contest, hold_contests
from coderllm_jax.evaluation.consistency import are_identical
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.evaluation.perturbations import PERTURBATIONS, perturb, protected_words
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.evaluation.text_metrics import sentence_scores
from coderllm_jax.records import Answer

_PARAPHRASE = next(each for each in PERTURBATIONS if each.name == "paraphrase")
_TRIES = 8
_IDENTICAL = Spec(
    "consistency",
    "identical",
    "Same answer again",
    "Greedy answers that are the same, letter by letter, among other neighbours.",
    binary=True,
    family="",
)
_AGREEMENT = Spec(
    "consistency",
    "agreement",
    "Agreement over paraphrases",
    "ROUGE-L between the answers to a question and to its paraphrases.",
    is_headline=True,
)
_CHANGE = Spec(
    "consistency",
    "paraphrase_cost",
    "Cost of a paraphrase",
    "Fact F1 that an answer loses when its question is put in other words.",
    better="lower",
    bounds=(-1.0, 1.0),
    family="",
)


class Reworded(NamedTuple):
    """A question in other words."""

    original: Question
    text: str


def reword(questions: Sequence[Question], *, count: int, seed: int) -> list[Reworded]:
    """Up to `count` different paraphrases of each question, always the same for the same seed."""
    found = []
    for question in questions:
        protected = protected_words(question.item) if question.item is not None else frozenset()
        texts = dict.fromkeys(
            perturb(_PARAPHRASE, question.text, seed=seed + number, protected=protected)
            for number in range(_TRIES * count)
        )
        texts.pop(question.text, None)
        found += [Reworded(question, text) for text in list(texts)[:count]]
    return found


def reordered(questions: Sequence[Question], *, seed: int) -> list[Question]:
    """The questions in another order, so that each has other neighbours."""
    shuffled = random.Random(seed).sample(list(questions), len(questions))  # noqa: S311 - no secret
    return shuffled if shuffled != list(questions) else shuffled[::-1]


class Consistency(NamedTuple):
    """Figures, and what they are held against one another by."""

    figures: list[Figure]
    contests: list[Contest]


def judge_consistency(
    first: Mapping[str, Mapping[str, Answer]],
    again: Mapping[str, Mapping[str, Answer]],
    reworded: Sequence[Reworded],
    answers: Mapping[str, Sequence[Answer]],
    *,
    set_name: str,
    seed: int,
) -> Consistency:
    """first, again: arm → question's id → answer; answers: arm → one for each of `reworded`."""
    identical = {
        arm: {name: float(are_identical(first[arm][name], now)) for name, now in of_arm.items()}
        for arm, of_arm in again.items()
    }
    agreement: dict[str, dict[str, float]] = {}
    cost: dict[str, dict[str, float]] = {}
    for arm, of_arm in answers.items():
        agreed: dict[str, list[float]] = {}
        lost: dict[str, list[float]] = {}
        for each, answer in zip(reworded, of_arm, strict=True):
            name, item = each.original.id, each.original.item
            before = first[arm][name].text.strip()
            agreed.setdefault(name, []).append(_agree(before, answer.text.strip()))
            if item is not None and (now := score_facts(answer.text.strip(), item)) is not None:
                then = score_facts(before, item)
                assert then is not None, "it has facts"
                lost.setdefault(name, []).append(then.f1 - now.f1)
        agreement[arm] = {name: sum(values) / len(values) for name, values in agreed.items()}
        cost[arm] = {name: sum(values) / len(values) for name, values in lost.items()}
    figures = [
        _figure(spec, values, set_name, seed)
        for spec, values in ((_IDENTICAL, identical), (_AGREEMENT, agreement), (_CHANGE, cost))
        if any(values.values())
    ]
    contests = hold_contests(_AGREEMENT, agreement, set_name=set_name, seed=seed)
    return Consistency(figures, contests)


def _agree(one: str, other: str) -> float:
    if not one or not other:
        return float(one == other)
    return sentence_scores(one, other)["rouge_l"]


def _figure(
    spec: Spec, values: Mapping[str, Mapping[str, float]], set_name: str, seed: int
) -> Figure:
    estimates = {}
    for arm, of_arm in values.items():
        numbers = list(of_arm.values())
        if spec.binary:
            estimates[arm] = wilson_interval(round(sum(numbers)), len(numbers))
        else:
            estimates[arm] = bootstrap_mean(numbers, bounds=spec.bounds, seed=seed)
    return Figure(
        spec.dimension,
        spec.name,
        spec.label,
        spec.words,
        estimates,
        set=set_name,
        unit=spec.unit,
        better=spec.better,
        is_headline=spec.is_headline,
        items=tuple(dict.fromkeys(itertools.chain(*values.values()))),
    )
