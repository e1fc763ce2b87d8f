"""What a comparison finds, and how it is written: comparison.json.

    comparison.json
      {"status": "finished",
       "results_sha256": "…",            over what does not depend on the clock
       "manifest": {"created", "config", "versions", "commit", "devices", "wall_s",
                    "items": {"count", "sha256"}, "identities": {...}, "indexes": {...},
                    "num_asked"},
       "arms": [ARM, …],                 in the table's order
       "sets": [SET, …],
       "questions": [QUESTION, …],
       "dimensions": [DIMENSION, …],     accuracy, quality, performance, consistency, cost
       "comparisons": [COMPARISON, …],   arm against arm
       "latency": {"alone": {ARM NAME: TIMES, …}, "together": {ARM NAME: TIMES, …}},
       "cost": COST,
       "recommendations": [RECOMMENDATION, …],
       "deployment": [DEPLOYMENT, …],    one an arm
       "next_iteration": {"card": "next.py" or "", "changes": [CHANGE, …], "words": "…"},
       "unscored": ["…"],                what could not be scored, and why, in sentences
       "notes": ["…"]}                   whatever else a reader should know, in sentences

    ARM           {"name": "rag",         trained, rag, base, trained_rag or endpoint
                   "label": "Retrieval",
                   "model": "gemma3_270m", "looks_up": true,
                   "prompt": {"chosen": "plain text, 2 examples, 3 passages, not told to cite",
                              "num_items": 16,            of the validation split
                              "candidates": [{"words": "…", "is_chosen": true, "fact_f1": ESTIMATE,
                                              "cites": ESTIMATE}, …]},     [] where none were tried
                   "memory": {"total_bytes": …, "parts": {"weights": …, "cache": …, "index": …,
                                                          "embedder": …}, "shared_with": ["base"]}}
    SET           {"name": "seen",        seen, unseen, or asked (test_queries)
                   "label": "…", "words": "…", "num_questions": 100,
                   "is_scored": true,     false where there are no references
                   "is_headline": true}
    QUESTION      {"id", "set", "kind", "symbol", "question", "reference" ("" where there is none),
                   "facts": ["0.9", …], "round": 3,
                   "answers": {ARM NAME: GIVEN, …}}
    GIVEN         {"text", "finish", "error", "num_prompt_tokens", "num_new_tokens",
                   "sources": [{"id", "text", "source", "score"}, …], "cited": [1, …],
                   "num_false_citations": 0,
                   "facts": {"found": […], "missed": […], "wrong": […], "num_new_words"} or null,
                   "checks": {"answered": true, "right": …, "has_code": …, "parses": …, "runs": …,
                              "found_something": …},       true, false, or null: does not apply
                   "run_reason": "",      why code did not run
                   "scores": {FIGURE NAME: number, …},
                   "times": {"time_to_first_token_s", "time_per_token_s", "total_s",
                             "retrieval_s"}}               number or null
    DIMENSION     {"name": "accuracy", "label": "Accuracy", "figures": [FIGURE, …]}
    FIGURE        {"name": "fact_f1", "label": "Fact F1", "words": "a sentence about it",
                   "set": "seen",         "" where it is of no set
                   "unit": "share",       share (0 to 1), seconds, tokens, words, percent, bytes,
                                          tokens/s, answers/s, chip-seconds, or a currency
                   "better": "higher",    higher, lower, or "" where neither is
                   "is_headline": true,   shown in the table
                   "is_clocked": false,   depends on the clock
                   "arms": {ARM NAME: ESTIMATE, …},        an arm it does not apply to is left out
                   "items": ["qa/…", …]}  questions behind it; their values are in GIVEN's scores
    ESTIMATE      {"value": 0.41, "low": 0.33, "high": 0.49, "num_items": 100}   nulls: not defined
    COMPARISON    {"first": "trained", "second": "base", "dimension": "accuracy",
                   "figure": "fact_f1", "set": "seen", "family": "accuracy", "is_headline": true,
                   "better": "higher", "unit": "share",
                   "difference": ESTIMATE,                 first - second
                   "p_value", "adjusted_p",                after Holm over the family
                   "test": "sign_flip", "effect": "cohens_dz", "effect_size": 0.4,
                   "detectable_difference": 0.06 or null,
                   "num_items": 100, "num_clusters": 100,
                   "num_better": 40, "num_worse": 12,      items on which first is better, worse
                   "verdict": "better",   of first: better, worse, equivalent, no_difference
                   "words": "trained is better than base by 0.12 (0.05 to 0.19)"}
    TIMES         {"time_to_first_token_s": […], "time_per_token_s": […], "total_s": […],
                   "retrieval_s": […]}    one number an answer
    COST          {"currency": "" or "USD", "price_per_chip_hour": null or 1.2,
                   "price_words": "…",    whose price, of when, or that none was set
                   "device": "cpu", "num_chips": 1, "chip_words": "one chip is …",
                   "arms": {ARM NAME: {"chip_seconds_per_1000": ESTIMATE,
                                       "price_per_1000": ESTIMATE,
                                       "chip_seconds_per_right": ESTIMATE,
                                       "price_per_right": ESTIMATE,
                                       "fixed": {"training": 476.2},    chip-seconds
                                       "amortised": [{"answers": 1000, "chip_seconds_per_1000": …,
                                                      "price_per_1000": … or null}, …]}},
                   "break_even": [{"first", "second", "answers": 12000 or null, "words": "…"}]}
    RECOMMENDATION {"use_case": "interactive", "label": "…", "arm": "trained" or "",
                   "strength": "strong",  strong, moderate, weak, or none where no arm is fit
                   "words": "…", "rule": "…",
                   "evidence": [{"figure": "accuracy/seen/fact_f1" or "", "words": "…"}, …],
                   "ranking": ["trained", "rag"]}          arms that the rule lets through
    DEPLOYMENT    {"arm", "artifact", "command", "hardware", "words"}
    CHANGE        {"option": "lora.rank", "before": 8, "after": 16, "words": "why",
                   "items": ["qa/…", …]}  questions that failed so

The same answers, as they came, lie in answers.jsonl beside it (`comparison.rounds`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.figures import DIMENSIONS
from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.performance import latencies
from coderllm_jax.comparison.prompts import Choice
from coderllm_jax.comparison.questions import ASKED, SEEN, UNSEEN, Question
from coderllm_jax.comparison.rounds import InTurns
from coderllm_jax.comparison.scoring import Scored
from coderllm_jax.training.run_folder import plain, write_json

RESULTS = "comparison.json"
_SETS = {
    SEEN: (
        "Knowledge that was trained on",
        "New phrasings about symbols that were trained on at least twice and whose passages "
        "retrieval may look up: both had the same knowledge.",
    ),
    UNSEEN: (
        "Knowledge that is newer than the training",
        "Symbols of which nothing was trained on; retrieval may look their passages up.",
    ),
    ASKED: ("Your questions", "Without references: what is right cannot be told."),
}


def assemble(
    findings: Findings,
    *,
    ways: Mapping[str, InTurns],
    advice: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """All that comparison.json holds. advice: recommendations, deployment, next_iteration."""
    sets = list(dict.fromkeys(question.set for question in findings.questions))
    content = {
        "status": "finished",
        "results_sha256": results_sha256(findings),
        "manifest": dict(manifest),
        "arms": [_arm(arm, findings.arms, findings.choices[arm.name]) for arm in findings.arms],
        "sets": [
            {
                "name": name,
                "label": _SETS[name][0],
                "words": _SETS[name][1],
                "num_questions": sum(question.set == name for question in findings.questions),
                "is_scored": name != ASKED,
                "is_headline": name == findings.main_set,
            }
            for name in sets
        ],
        "questions": [
            _question(
                question,
                {arm: of_arm[place] for arm, of_arm in findings.scored.items()},
                findings.rounds[question.id],
            )
            for place, question in enumerate(findings.questions)
        ],
        "dimensions": [
            {
                "name": name,
                "label": label,
                "figures": [
                    figure.to_json() for figure in findings.figures if figure.dimension == name
                ],
            }
            for name, label in DIMENSIONS.items()
        ],
        "comparisons": [comparison.to_json() for comparison in findings.comparisons],
        "latency": latencies(ways),
        "cost": findings.costs.to_json(),
        **advice,
        "unscored": list(findings.unscored),
        "notes": list(findings.notes),
    }
    return dict(plain(content))


def write_results(folder: Path, content: Mapping[str, Any]) -> None:
    """comparison.json, whole or not at all."""
    write_json(folder / RESULTS, content)


def results_sha256(findings: Findings) -> str:
    """Digest of everything in it that a second comparison must find again."""
    stable = {
        "choices": {arm: choice and choice.to_json() for arm, choice in findings.choices.items()},
        "answers": {
            arm: [[each.question.id, each.answer.text, each.scores] for each in of_arm]
            for arm, of_arm in findings.scored.items()
        },
        "figures": [figure.to_json() for figure in findings.figures if not figure.is_clocked],
        "comparisons": [
            comparison.to_json()
            for comparison in findings.comparisons
            if comparison.contest.spec.family != "speed"
        ],
    }
    text = json.dumps(plain(stable), sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _arm(arm: Arm, arms: Sequence[Arm], choice: Choice | None) -> dict[str, Any]:
    prompt: dict[str, Any] = {"chosen": "the server's own", "num_items": 0, "candidates": []}
    return {
        "name": arm.name,
        "label": arm.label,
        "model": arm.model,
        "looks_up": arm.looks_up,
        "prompt": choice.to_json() if choice is not None else prompt,
        "memory": {
            "total_bytes": sum(arm.memory.values()) or None,
            "parts": dict(arm.memory),
            "shared_with": [
                other.name
                for other in arms
                if other.name != arm.name and other.weights == arm.weights and arm.weights
            ],
        },
    }


def _question(question: Question, answers: Mapping[str, Scored], round: int) -> dict[str, Any]:
    item = question.item
    return {
        "id": question.id,
        "set": question.set,
        "kind": item.kind if item is not None else "",
        "symbol": item.symbol if item is not None else "",
        "question": question.text,
        "reference": item.answer if item is not None else "",
        "facts": list(item.facts) if item is not None else [],
        "round": round,
        "answers": {arm: each.to_json() for arm, each in answers.items()},
    }
