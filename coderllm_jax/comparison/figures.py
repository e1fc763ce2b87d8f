"""What a figure is: its name, its meaning, and how sets of answers become a number.

    accuracy/seen/fact_f1      trained 0.41 (0.33 to 0.49)     rag 0.52 (0.44 to 0.60)     …

Owns the table of everything that one answer's score is a figure of; figures that need more than one
answer (rates, agreement, cost) are made where they are measured.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.comparison.questions import UNSEEN
from coderllm_jax.comparison.scoring import Scored
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.evaluation.text_metrics import corpus_scores
from coderllm_jax.records import Estimate

DIMENSIONS = {
    "accuracy": "Accuracy",
    "quality": "Quality",
    "performance": "Performance",
    "consistency": "Consistency",
    "cost": "Cost",
}


class Spec(NamedTuple):
    """How one score is summed up. binary: 0 or 1. bounds: the least and most it can be.

    family: the tests it is among (accuracy, quality, speed); empty: it is not tested.
    """

    dimension: str
    name: str
    label: str
    words: str
    unit: str = "share"
    better: str = "higher"
    binary: bool = False
    bounds: tuple[float, float] | None = (0.0, 1.0)
    family: str = "quality"
    is_headline: bool = False


SPECS: tuple[Spec, ...] = (
    Spec(
        "accuracy",
        "fact_f1",
        "Fact F1",
        "What an answer says of what it should, against what it says that nothing supports.",
        family="accuracy",
        is_headline=True,
    ),
    Spec(
        "accuracy",
        "right",
        "Right answers",
        "Answers whose fact F1 is at least verdicts.right_from.",
        binary=True,
        is_headline=True,
    ),
    Spec(
        "accuracy",
        "runs",
        "Examples that run",
        "Programs that were asked for, executed: they end without an error and use what was asked.",
        binary=True,
    ),
    Spec(
        "accuracy",
        "fact_precision",
        "Fact precision",
        "Of an answer's claims, those that the reference supports.",
        family="",
    ),
    Spec(
        "quality",
        "fact_recall",
        "Completeness",
        "Of the facts that a right answer has, those that the answer has.",
        family="",
    ),
    Spec(
        "quality",
        "clear",
        "Clear answers",
        "Answers that end by themselves, do not go round in circles and close their code.",
        binary=True,
        is_headline=True,
    ),
    Spec(
        "quality",
        "parses",
        "Code that parses",
        "Of answers with code, or that should have some, those whose code is all Python.",
        binary=True,
        family="",
    ),
    Spec(
        "quality",
        "num_words",
        "Length",
        "Words of an answer.",
        unit="words",
        better="",
        bounds=None,
        family="",
    ),
    Spec(
        "quality",
        "chrf",
        "chrF",
        "Overlap of letters with the reference, by sacrebleu.",
        unit="percent",
        bounds=(0.0, 100.0),
        family="",
    ),
    Spec(
        "quality",
        "rouge_l",
        "ROUGE-L",
        "Longest common run of tokens with the reference.",
        family="",
    ),
    Spec(
        "quality",
        "found",
        "Passage found",
        "Answers whose passages hold one about the symbol that was asked for.",
        binary=True,
        family="",
    ),
    Spec(
        "quality",
        "cites",
        "Answers that cite",
        "Answers with at least one marker that points to a passage.",
        binary=True,
        family="",
    ),
    Spec(
        "quality",
        "groundedness",
        "Groundedness",
        "Of an answer's words, names and numbers, those that stand in its passages.",
        family="",
    ),
    Spec(
        "quality",
        "citation_precision",
        "Citation precision",
        "Of an answer's citations, those whose passage has at least half of what they stand for.",
        family="",
    ),
    Spec(
        "quality",
        "citation_recall",
        "Citation recall",
        "Of an answer's sentences, those that are cited and rest on what they cite.",
        family="",
    ),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of every arm that has it; see FIGURE in `comparison.results`."""

    dimension: str
    name: str
    label: str
    words: str
    arms: Mapping[str, Estimate]
    set: str = ""
    unit: str = "share"
    better: str = "higher"
    is_headline: bool = False
    is_clocked: bool = False
    items: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its name among all: accuracy/seen/fact_f1."""
        return "/".join(part for part in (self.dimension, self.set, self.name) if part)

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds under its dimension."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("arms", "dimension")
        }
        return {**values, "arms": {arm: value._asdict() for arm, value in self.arms.items()}}


def score_figures(
    scored: Mapping[str, Sequence[Scored]], *, set_name: str, seed: int
) -> list[Figure]:
    """Every figure of the table that any answer of the set has a score for."""
    figures = []
    for spec in SPECS:
        values = {
            arm: {
                each.question.id: each.scores[spec.name]
                for each in of_arm
                if each.question.set == set_name and spec.name in each.scores
            }
            for arm, of_arm in scored.items()
        }
        values = {arm: of_arm for arm, of_arm in values.items() if of_arm}
        if not values:
            continue
        figures.append(
            Figure(
                spec.dimension,
                spec.name,
                spec.label,
                spec.words,
                {
                    arm: estimate_score(spec, list(of_arm.values()), seed=seed)
                    for arm, of_arm in values.items()
                },
                set=set_name,
                unit=spec.unit,
                better=spec.better,
                is_headline=spec.is_headline and (set_name != UNSEEN or spec.family == "accuracy"),
                items=tuple(dict.fromkeys(itertools.chain(*values.values()))),
            )
        )
    return figures


def corpus_bleu(
    scored: Mapping[str, Sequence[Scored]], *, set_name: str, seed: int
) -> list[Figure]:
    """BLEU of all of an arm's answers together, with sacrebleu's signature; none without any."""
    arms: dict[str, Estimate] = {}
    signature = ""
    items: tuple[str, ...] = ()
    for arm, of_arm in scored.items():
        pairs = [
            (each.question.id, each.answer.text.strip(), each.question.item.answer)
            for each in of_arm
            if each.question.set == set_name and each.question.item is not None
        ]
        if not pairs:
            continue
        items, answers, references = zip(*pairs, strict=True)
        found = corpus_scores(answers, references, seed=seed)
        arms[arm] = Estimate(found["bleu"], found["bleu_low"], found["bleu_high"], len(pairs))
        signature = f"{found['bleu_signature']}, tokenizer {found['tokenizer']}"
    if not arms:
        return []
    words = f"Overlap of runs of tokens with the references, over all answers ({signature})."
    return [
        Figure("quality", "bleu", "BLEU", words, arms, set=set_name, unit="percent", items=items)
    ]


def estimate_score(spec: Spec, values: Sequence[float], *, seed: int) -> Estimate:
    """The mean of a score with its interval: Wilson's of proportions, else the bootstrap's."""
    if spec.binary:
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_mean(values, bounds=spec.bounds, seed=seed)
