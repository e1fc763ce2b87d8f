"""What one answer is worth, and the checks behind it.

    scored by        figures
    the reference    fact_f1, fact_precision, fact_recall, right; chrf, rouge_l
    the sandbox      runs                     where the reference is a program that runs
    the text alone   clear = finished, not repeating, code closed; parses; num_words
    its sources      cites, groundedness, citation_precision, citation_recall
    the passages     found: one of them is about the symbol that was asked for

A user's own questions have no reference: the first two rows are then empty.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.comparison.questions import Question
from coderllm_jax.evaluation.code_metrics import code_parses, is_program
from coderllm_jax.evaluation.examples import Example, Outcome, run_examples
from coderllm_jax.evaluation.extraction import FENCE, extract_code
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.evaluation.text_metrics import sentence_scores
from coderllm_jax.records import Answer
from coderllm_jax.retrieval.citations import clean_citations
from coderllm_jax.retrieval.metrics import judge_grounds

# Kinds whose answers are code to be run, not code to be read.
_EXECUTED_KINDS = frozenset({"example"})
_TEXT_SCORES = ("chrf", "rouge_l")
# A text that says a fifth of its runs of four words again goes round in circles.
_RUN_WORDS, _MOST_REPEATED = 4, 0.2
_OPEN_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})", re.MULTILINE)


class Scored(NamedTuple):
    """One arm's answer to one question, with everything that is known of it."""

    question: Question
    answer: Answer
    scores: dict[str, float]
    checks: dict[str, bool | None]
    facts: dict[str, Any] | None
    cited: tuple[int, ...]
    run_reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds of it."""
        answer = self.answer
        first, each = answer.time_to_first_token_s, answer.time_per_token_s
        return {
            "text": answer.text,
            "finish": answer.finish,
            "error": answer.error,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": answer.num_new_tokens,
            "sources": [source._asdict() for source in answer.sources],
            "cited": list(self.cited),
            "num_false_citations": answer.num_false_citations,
            "facts": self.facts,
            "checks": self.checks,
            "run_reason": self.run_reason,
            "scores": self.scores,
            "times": {
                "time_to_first_token_s": first,
                "time_per_token_s": each,
                "total_s": answer.total_s,
                "retrieval_s": answer.retrieval_s,
            },
        }


def score(
    question: Question,
    answer: Answer,
    *,
    looks_up: bool,
    right_from: float,
    symbol_of: Mapping[str, str],
) -> Scored:
    """Every score that needs no program to be run. symbol_of: of each chunk, by its id."""
    text = answer.text.strip()
    item = question.item
    is_answered = answer.finish in ("stop", "length") and bool(text)
    scores: dict[str, float] = {"num_words": float(len(text.split()))}
    checks: dict[str, bool | None] = {
        "answered": is_answered,
        "finished": answer.finish == "stop",
        "repeats": repeated_share(text) > _MOST_REPEATED,
        "has_code": has_code(text),
        "right": None,
        "parses": None,
        "runs": None,
        "found": None,
    }
    clear = is_answered and bool(checks["finished"]) and not checks["repeats"]
    if checks["has_code"]:
        checks["parses"] = code_parses(text)
        clear = clear and fences_are_closed(text)
    scores["clear"] = float(clear)
    wants_code = item is not None and "```" in item.answer
    if wants_code or checks["has_code"]:
        scores["parses"] = float(bool(checks["parses"]))
    facts = None
    if item is not None:
        text_scores = sentence_scores(text, item.answer)
        scores |= {name: text_scores[name] for name in _TEXT_SCORES}
        if (found := score_facts(text, item)) is not None:
            checks["right"] = found.f1 >= right_from
            scores |= {
                "fact_f1": found.f1,
                "fact_precision": found.precision,
                "fact_recall": found.recall,
                "right": float(found.f1 >= right_from),
            }
            facts = {
                "found": list(found.found),
                "missed": list(found.missed),
                "wrong": list(found.wrong),
                "num_new_words": found.num_new_words,
            }
    cited: tuple[int, ...] = ()
    if looks_up:
        cited = cited_by(answer)
        scores |= _source_scores(question, answer, cited)
        if item is not None and item.symbol:
            symbols = {symbol_of.get(source.id, "") for source in answer.sources}
            checks["found"] = item.symbol in symbols
            scores["found"] = float(item.symbol in symbols)
    return Scored(question, answer, scores, checks, facts, cited)


def _source_scores(question: Question, answer: Answer, cited: Sequence[int]) -> dict[str, float]:
    grounds = judge_grounds(answer.text, answer.sources, question=question.text)
    figures = {
        "cites": float(bool(cited)),
        "groundedness": grounds.groundedness,
        "citation_precision": grounds.citation_precision,
        "citation_recall": grounds.citation_recall,
    }
    return {name: value for name, value in figures.items() if value is not None}


class Ran(NamedTuple):
    """All arms' answers with what running their programs showed, and notes for a person."""

    scored: dict[str, list[Scored]]
    notes: tuple[str, ...]


def run_programs(
    scored: Mapping[str, Sequence[Scored]], folder: Path, *, note: Callable[[str], None]
) -> Ran:
    """Adds `runs` where a program was asked for and the reference's runs by itself."""
    examples = {
        f"{arm}\0{each.question.id}": Example(
            each.question.item.answer,
            each.answer.text,
            each.question.item.symbol.rpartition(".")[2],
        )
        for arm, of_arm in scored.items()
        for each in of_arm
        if each.question.item is not None and each.question.item.kind in _EXECUTED_KINDS
    }
    runs = run_examples(examples, folder / "examples.jsonl", note=note)
    added: dict[str, list[Scored]] = {}
    for arm, of_arm in scored.items():
        added[arm] = [
            _with_run(each, runs.outcomes.get(f"{arm}\0{each.question.id}")) for each in of_arm
        ]
    return Ran(added, runs.notes)


def _with_run(scored: Scored, outcome: Outcome | None) -> Scored:
    if outcome is None:
        return scored
    return scored._replace(
        scores={**scored.scores, "runs": float(outcome.answer_runs)},
        checks={**scored.checks, "runs": outcome.answer_runs},
        run_reason=outcome.reason,
    )


def cited_by(answer: Answer) -> tuple[int, ...]:
    """Numbers of the sources that an answer cites."""
    return clean_citations(answer.text, len(answer.sources))[1]


def has_code(text: str) -> bool:
    """Whether an answer shows a program, fenced or bare."""
    return FENCE.search(text) is not None or is_program(extract_code(text))


def fences_are_closed(text: str) -> bool:
    """Whether every fence that was opened is closed."""
    return len(_OPEN_FENCE.findall(text)) % 2 == 0


def repeated_share(text: str) -> float:
    """The part of a text's runs of four words that it has said before."""
    words = text.split()
    runs = Counter(
        tuple(words[place : place + _RUN_WORDS]) for place in range(len(words) - _RUN_WORDS + 1)
    )
    total = sum(runs.values())
    return 1 - len(runs) / total if total else 0.0
