"""What a disturbed question costs: fact F1 of its answer against that of the clean question's.

    item   question                   fact F1      with typos     drop
    1      What does optax.adam do?      0.8           0.5         0.3
    2      ...                           0.4           0.4         0.0   → mean, interval, p

The same items in every way (`perturbations`), paired, Holm over the ways. An item that a way leaves
as it is does not count for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.data.templates import stable_hash
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.evaluation.perturbations import PERTURBATIONS, perturb, protected_words
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import adjust_holm, compare_pairs
from coderllm_jax.records import Answer, EvalItem, Query

WAYS = {each.name: each for each in PERTURBATIONS if each.keeps_answer}
_ALPHA = 0.05  # adjusted p-value up to which a person is told of a drop


def measure_drops(context: Context) -> SuiteResult:
    """Asks clean and disturbed questions and compares what the answers know."""
    section, seed = context.config.robustness, context.config.seed
    items = choose_items([item for item in context.items if item.facts], section.max_items)
    if not items:
        note = "no item has facts: what a disturbed question costs is not measured"
        return SuiteResult("robustness", {}, notes=(note,))
    asked = [
        (way, item, text)
        for way in WAYS
        for item in items
        if (text := _disturbed(way, item, seed=seed)) != item.question
    ]
    context.note(f"disturbing {len(items)} questions in {len(WAYS)} ways")
    texts = [item.question for item in items] + [text for _, _, text in asked]
    answers = context.ask(
        [
            Query.from_question(f"robustness/{number}", text, max_new_tokens=section.max_new_tokens)
            for number, text in enumerate(texts)
        ]
    )
    clean = {item.id: answer for item, answer in zip(items, answers, strict=False)}
    samples = [
        _sample(way, item, text, clean[item.id], answer)
        for (way, item, text), answer in zip(asked, answers[len(items) :], strict=True)
    ]
    return summarize_drops(samples, seed=seed)


def summarize_drops(samples: Sequence[Mapping[str, Any]], *, seed: int) -> SuiteResult:
    """Drops from rows that hold both scores of an item; a positive drop is a loss."""
    scores = {way: [sample["scores"] for sample in samples if sample["way"] == way] for way in WAYS}
    compared = {
        way: compare_pairs(
            [each["clean_fact_f1"] for each in of_way],
            [each["fact_f1"] for each in of_way],
            binary=False,
            bounds=(0.0, 1.0),
            seed=seed,
        )
        for way, of_way in scores.items()
        if of_way
    }
    adjusted = dict(
        zip(compared, adjust_holm(each.p_value for each in compared.values()), strict=True)
    )
    details = {
        way: {
            "clean": _mean(scores[way], "clean_fact_f1"),
            "disturbed": _mean(scores[way], "fact_f1"),
            "p_value": each.p_value,
            "adjusted_p": adjusted[way],
            "num_worse": each.num_better,  # clean is better: the disturbed one is worse
            "num_better": each.num_worse,
            "detectable_difference": each.detectable_difference,
        }
        for way, each in compared.items()
    }
    notes = [
        f"{way} costs {each.difference.value:.3f} of fact F1 (p {adjusted[way]:.2g} after Holm)"
        for way, each in compared.items()
        if adjusted[way] <= _ALPHA and (each.difference.value or 0) > 0
    ]
    unanswered = [sample for sample in samples if sample["finish"] == "error"]
    if unanswered:
        notes.append(
            f"{len(unanswered)} disturbed questions were not answered: {unanswered[0]['error']}"
        )
    return SuiteResult(
        "robustness",
        {f"{way}/fact_f1_drop": each.difference for way, each in compared.items()},
        details={"disturbed": details},
        samples=samples,
        notes=notes,
        is_whole=not unanswered,
    )


def choose_items(items: Sequence[EvalItem], count: int) -> list[EvalItem]:
    """Up to `count` items, splits in turn; which ones depends on their ids alone."""
    by_split: dict[str, list[EvalItem]] = {}
    for item in sorted(items, key=lambda item: stable_hash(item.id)):
        by_split.setdefault(item.split, []).append(item)
    ranked = [
        (rank, split, item)
        for split, of_split in by_split.items()
        for rank, item in enumerate(of_split)
    ]
    ranked.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in ranked[:count]]


def _disturbed(way: str, item: EvalItem, *, seed: int) -> str:
    return perturb(WAYS[way], item.question, seed=seed, protected=protected_words(item))


def _sample(way: str, item: EvalItem, text: str, clean: Answer, answer: Answer) -> dict[str, Any]:
    """A row of samples.jsonl. All ways of an item are one cluster: they fail together."""
    return {
        "suite": "robustness",
        "id": f"{way}:{item.id}",
        "group": "disturbed",
        "cluster": item.id,
        "way": way,
        "question": text,
        "answer": answer.text,
        "clean_answer": clean.text,
        "finish": answer.finish,
        "error": answer.error,
        "scores": {"fact_f1": _fact_f1(answer, item), "clean_fact_f1": _fact_f1(clean, item)},
    }


def _fact_f1(answer: Answer, item: EvalItem) -> float:
    score = score_facts(answer.text, item)
    assert score is not None, "items without facts are not asked"
    return score.f1


def _mean(scores: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(each[name] for each in scores) / len(scores)
