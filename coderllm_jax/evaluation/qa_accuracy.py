"""The qa_accuracy suite: questions with known answers, seen and unseen symbols apart.

    figure                 what it says                                              over
    <split>/fact_f1        names, arguments, defaults and rare words, found and      every item
                           nothing invented beside them (`facts`)
    <split>/rouge_l, bleu, overlap with the reference, tokens that code and prose    every item
             chrf          have (`text_metrics`)
    <split>/parses         Python in the answer that parses                          code items
    <split>/runs           the answer's program runs in the sandbox                  examples whose
                                                                                     reference runs
    <split>/perplexity     how surprising the reference answer is                    every item
    judge/at_least_as_good a second model's opinion (`opinions`)                    some, if asked

Means over items come with intervals; corpus BLEU and chrF, which are no means, stand in the details
with sacrebleu's signature.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from coderllm_jax.data.prompts import PromptStyle
from coderllm_jax.evaluation.code_metrics import code_parses
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.examples import Example, run_examples
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.evaluation.opinions import Pair, judge_pairs
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.evaluation.text_metrics import corpus_scores, sentence_scores
from coderllm_jax.generation.scoring import Score
from coderllm_jax.records import Answer, Answerer, Estimate, EvalItem, Query

# Kinds whose answers are code to be run, not code to be read.
_EXECUTED_KINDS = frozenset({"example"})
_TEXT_SCORES = ("bleu", "chrf", "rouge1", "rouge2", "rouge_l")
_PERCENTAGES = ("bleu", "chrf")
_FACT_SCORES = ("fact_f1", "fact_precision", "fact_recall")


class ScoresReferences(Protocol):
    """An answerer whose weights are at hand."""

    style: PromptStyle

    def score_reference(self, query: Query, reference: str) -> Score:
        """The loss of `reference` as the answer to `query`."""


def run_qa_accuracy(context: Context) -> SuiteResult:
    """Asks every item once and compares with its reference."""
    section, items = context.config.answers, context.items
    if not items:
        return SuiteResult(
            "qa_accuracy", {}, notes=("there are no evaluation items; run prepare first",)
        )
    queries = questions_of(items, max_new_tokens=section.max_new_tokens)
    context.note(f"asking {len(queries)} questions")
    answers = context.ask(queries)
    rows = [
        score_answer(item, query, answer)
        for item, query, answer in zip(items, queries, answers, strict=True)
    ]
    runs = run_examples(
        {
            item.id: Example(item.answer, answer.text, item.symbol.rpartition(".")[2])
            for item, answer in zip(items, answers, strict=True)
            if item.kind in _EXECUTED_KINDS
        },
        context.folder / "examples.jsonl",
        note=context.note,
    )
    for row in rows:
        if (ran := runs.outcomes.get(row["item"])) is not None:
            row["scores"]["runs"] = float(ran.answer_runs)
            row["run"] = ran.reason
    notes = list(runs.notes)
    if section.perplexity and scores_references(context.answerer):
        context.note("scoring the reference answers")
        for row, query, item in zip(rows, queries, items, strict=True):
            score = context.answerer.score_reference(query, item.answer)
            row["reference"] = {"nats": score.nats, "tokens": score.num_tokens}
            row["scores"]["negative_log_likelihood"] = score.nats / max(score.num_tokens, 1)
    summary = summarize_answers(rows, seed=context.config.seed, notes=notes)
    summary = dataclasses.replace(summary, is_whole=summary.is_whole and runs.is_whole)
    return _with_opinions(context, summary) if context.judge is not None else summary


def _with_opinions(context: Context, summary: SuiteResult) -> SuiteResult:
    """The judge's opinion of answers beside their references, some of either split."""
    assert context.judge is not None
    rows = vary_splits(summary.samples)[: context.config.judge.max_items]
    context.note(f"asking the judge about {len(rows)} answers, twice each")
    opinions = judge_pairs(
        [Pair(row["id"], row["question"], row["answer"], row["reference_answer"]) for row in rows],
        context.judge,
    )
    figures = {
        "judge/at_least_as_good": wilson_interval(
            sum(opinion in ("first", "tie") for opinion in opinions.by_id.values()),
            sum(opinion != "none" for opinion in opinions.by_id.values()),
        ),
        "judge/agreement": opinions.agreement,
    }
    return dataclasses.replace(
        summary,
        figures={**summary.figures, **figures},
        details={**summary.details, "judge": opinions.by_id},
        notes=[
            *summary.notes,
            *(
                [f"the judge gave no verdict on {opinions.num_unclear} of {len(rows)} answers"]
                if opinions.num_unclear
                else []
            ),
        ],
    )


def vary_splits(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, one of each split in turn."""
    seen = [row for row in rows if row["split"] == "seen"]
    unseen = [row for row in rows if row["split"] != "seen"]
    mixed = [row for pair in itertools.zip_longest(seen, unseen) for row in pair]
    return [row for row in mixed if row is not None]


def scores_references(answerer: Answerer) -> TypeGuard[ScoresReferences]:
    """Whether the answerer can say how surprising a text is to it."""
    return hasattr(answerer, "score_reference")


def questions_of(items: Sequence[EvalItem], *, max_new_tokens: int) -> list[Query]:
    """One greedy query an item."""
    return [
        Query.from_question(f"qa/{item.id}", item.question, max_new_tokens=max_new_tokens)
        for item in items
    ]


def score_answer(item: EvalItem, query: Query, answer: Answer) -> dict[str, Any]:
    """One item's row of samples.jsonl, with every score that the answer alone decides."""
    text = answer.text.strip()
    facts = score_facts(text, item)
    # sacrebleu's 100 is a product of roundings, and may lie a little above.
    scores = {
        name: min(score, 100.0 if name in _PERCENTAGES else 1.0)
        for name, score in sentence_scores(text, item.answer).items()
    }
    if facts is not None:
        scores |= {
            "fact_f1": facts.f1,
            "fact_precision": facts.precision,
            "fact_recall": facts.recall,
        }
    if "```" in item.answer:
        scores["parses"] = float(code_parses(text))
    return {
        "suite": "qa_accuracy",
        "id": query.id,
        "item": item.id,
        "split": item.split,
        "kind": item.kind,
        "symbol": item.symbol,
        "question": item.question,
        "reference_answer": item.answer,
        "answer": answer.text,
        "finish": answer.finish,
        "error": answer.error,
        "scores": scores,
        "facts": facts._asdict() if facts is not None else None,
        "times": {"total_s": answer.total_s, "new_tokens": answer.num_new_tokens},
    }


def summarize_answers(
    rows: Sequence[Mapping[str, Any]], *, seed: int, notes: Sequence[str] = ()
) -> SuiteResult:
    """Means with intervals by split, corpus scores, and means by kind."""
    figures: dict[str, Estimate] = {}
    details: dict[str, Any] = {"lower_is_better": [], "corpus": {}, "by_kind": {}}
    for split in ("seen", "unseen"):
        of_split = [row for row in rows if row["split"] == split]
        if not of_split:
            continue
        for name in (*_FACT_SCORES, *_TEXT_SCORES, "parses", "runs"):
            values = [row["scores"][name] for row in of_split if name in row["scores"]]
            if values:
                bounds = (0.0, 100.0) if name in _PERCENTAGES else (0.0, 1.0)
                figures[f"{split}/{name}"] = bootstrap_mean(values, bounds=bounds, seed=seed)
        if scored := [row for row in of_split if "reference" in row]:
            figures[f"{split}/perplexity"] = _perplexity(scored, seed=seed)
            details["lower_is_better"].append(f"{split}/perplexity")
        details["corpus"][split] = corpus_scores(
            [row["answer"].strip() for row in of_split],
            [row["reference_answer"] for row in of_split],
        )
        details["by_kind"][split] = {
            kind: {
                "items": len(of_kind),
                "fact_f1": sum(row["scores"].get("fact_f1", 0.0) for row in of_kind) / len(of_kind),
            }
            for kind in sorted({row["kind"] for row in of_split})
            if (of_kind := [row for row in of_split if row["kind"] == kind])
        }
    failed = [row for row in rows if row["finish"] == "error"]
    if failed:
        notes = [*notes, f"{len(failed)} questions were not answered: {failed[0]['error']}"]
    return SuiteResult(
        "qa_accuracy", figures, details=details, samples=rows, notes=notes, is_whole=not failed
    )


def _perplexity(rows: Sequence[Mapping[str, Any]], *, seed: int) -> Estimate:
    """exp of nats a token over all tokens; its interval resamples items."""
    tokens = [row["reference"]["tokens"] for row in rows]
    nats = [row["scores"]["negative_log_likelihood"] for row in rows]
    figure = bootstrap_mean(nats, weights=tokens, seed=seed)

    def exp(value: float | None) -> float | None:
        return None if value is None else math.exp(min(value, 700.0))

    return Estimate(exp(figure.value), exp(figure.low), exp(figure.high), figure.num_items)
