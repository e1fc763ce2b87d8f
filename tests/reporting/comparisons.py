"""A comparison's content for tests of its page, made by hand after the schema.

Scores are drawn, everything told of them is computed from them: means, differences, verdicts.
Intervals are normal ones here; how they are made is no business of the page.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABELS = {
    "trained": "Fine-tuned",
    "rag": "Retrieval",
    "base": "Base",
    "trained_rag": "Fine-tuned + retrieval",
    "endpoint": "Endpoint",
}
ARMS = ("trained", "rag", "base", "trained_rag")
SETS = {"seen": "what was trained on", "unseen": "what is newer", "asked": "your questions"}
KINDS = ("signature", "purpose", "argument", "example", "which")
# Chance that an answer is right, and that it is right in part.
_SKILL = {
    "trained": (0.3, 0.4),
    "rag": (0.5, 0.4),
    "base": (0.02, 0.15),
    "trained_rag": (0.55, 0.35),
    "endpoint": (0.6, 0.3),
}
_SECONDS = {"trained": 0.9, "rag": 1.9, "base": 0.9, "trained_rag": 2.0, "endpoint": 0.5}
_CHIP_SECONDS = {"trained": 412.0, "rag": 873.0, "base": 405.0, "trained_rag": 902.0}
_OPTIMIZERS = ("sgd", "adam", "adamw", "lion", "rmsprop", "lamb", "novograd", "yogi", "adafactor")
_FIGURES = (
    ("accuracy", "fact_f1", "Fact F1", "share", "higher", True),
    ("accuracy", "right", "Right answers", "share", "higher", True),
    ("accuracy", "runs", "Examples that run", "share", "higher", False),
    ("quality", "clear", "Clear answers", "share", "higher", True),
    ("quality", "num_words", "Length", "words", "", False),
    ("quality", "chrf", "chrF", "percent", "higher", False),
    ("quality", "groundedness", "Groundedness", "share", "higher", False),
)


def a_comparison(
    *,
    num_seen: int = 12,
    num_unseen: int = 4,
    num_asked: int = 0,
    arms: Sequence[str] = ARMS,
    words: str = "",
    passage_words: int = 40,
    has_prices: bool = False,
    seed: int = 7,
) -> dict[str, Any]:
    """What comparison.json holds; `words` stand behind every text, name and label in it."""
    chance = random.Random(seed)
    names = [f"{arm}{words}" for arm in arms]
    questions = [
        _question(chance, number, of_set, names, words, passage_words)
        for of_set, count in (("seen", num_seen), ("unseen", num_unseen), ("asked", num_asked))
        for number in range(count)
    ]
    sets = list(dict.fromkeys(each["set"] for each in questions))
    dimensions = _dimensions(questions, names, sets, words, chance)
    comparisons = _comparisons(questions, names, sets)
    return {
        "status": "finished",
        "results_sha256": "5f" * 32,
        "manifest": _manifest(words, len(questions)),
        "arms": [_arm(name, words) for name in names],
        "sets": [
            {
                "name": each,
                "label": SETS[each] + words,
                "words": f"Symbols of {SETS[each]}.{words}",
                "num_questions": sum(question["set"] == each for question in questions),
                "is_scored": each != "asked",
                "is_headline": each == "seen",
            }
            for each in sets
        ],
        "questions": questions,
        "dimensions": dimensions,
        "comparisons": comparisons,
        "latency": {
            "alone": {name: _times(chance, name, 12) for name in names},
            "together": {name: _times(chance, name, len(questions)) for name in names},
        },
        "cost": _cost(names, words, has_prices=has_prices),
        "recommendations": _recommendations(names, words),
        "deployment": [
            {
                "arm": name,
                "artifact": f"runs/lora/adapter{words}",
                "command": f"python -m coderllm_jax.serve --config.run=runs/lora{words}",
                "hardware": f"2 cores, 2 GB{words}",
                "words": f"One process serves it.{words}",
            }
            for name in names[:2]
        ],
        "next_iteration": {
            "card": f"runs/comparison/next.py{words}",
            "words": f"Two changes, each for questions that failed so.{words}",
            "changes": [
                {
                    "option": f"lora.rank{words}",
                    "before": 8,
                    "after": 16,
                    "words": f"Facts are missed in answers that are otherwise right.{words}",
                    "items": [question["id"] for question in questions[:3]],
                },
                {
                    "option": "data.kinds",
                    "before": ["signature"],
                    "after": ["signature", "example"],
                    "words": "Examples were asked for and never trained on.",
                    "items": [*(each["id"] for each in questions[3:4]), "not/asked"],
                },
            ],
        },
        "unscored": [f"Questions of your own have no reference.{words}"] if num_asked else [],
        "notes": [f"3 of 40 turns were cut and count for no rate.{words}"],
    }


def an_estimate(values: Sequence[float]) -> dict[str, Any]:
    """The mean with a normal interval."""
    if not values:
        return {"value": None, "low": None, "high": None, "num_items": 0}
    mean, count = statistics.fmean(values), len(values)
    around = 1.96 * statistics.stdev(values) / math.sqrt(count) if count > 1 else 0.0
    return {"value": mean, "low": mean - around, "high": mean + around, "num_items": count}


def texts_of(value: Any, at: str = "") -> Iterable[tuple[str, str]]:
    """Every text of the content, with its place."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from texts_of(each, f"{at}/{name}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from texts_of(each, f"{at}/{number}")


def _kind(name: str) -> str:
    """The arm's own name, before whatever was planted behind it."""
    return next(arm for arm in sorted(LABELS, key=len, reverse=True) if name.startswith(arm))


def _question(
    chance: random.Random,
    number: int,
    of_set: str,
    names: Sequence[str],
    words: str,
    passage_words: int,
) -> dict[str, Any]:
    optimizer = _OPTIMIZERS[number % len(_OPTIMIZERS)]
    kind = KINDS[number % len(KINDS)]
    has_reference = of_set != "asked"
    facts = ["learning_rate", "0.9", f"{optimizer}_decay{words}", "mask"] if has_reference else []
    return {
        "id": f"{of_set}:optax.{optimizer}:{kind}:{number}{words}",
        "set": of_set,
        "kind": kind + words,
        "symbol": f"optax.{optimizer}{words}",
        "question": f"Which arguments has optax.{optimizer}, and what is no. {number}?{words}",
        "reference": f"`optax.{optimizer}(learning_rate, b1=0.9, mask=None)`{words}"
        if has_reference
        else "",
        "facts": facts,
        "round": 1 + number // 8,
        "answers": {
            name: _given(chance, name, optimizer, kind, facts, words, passage_words)
            for name in names
        },
    }


def _given(
    chance: random.Random,
    name: str,
    optimizer: str,
    kind: str,
    facts: Sequence[str],
    words: str,
    passage_words: int,
) -> dict[str, Any]:
    arm = _kind(name)
    looks_up = arm.endswith("rag")
    right_chance, part_chance = _SKILL[arm]
    drawn = chance.random()
    found = 4 if drawn < right_chance else 2 if drawn < right_chance + part_chance else 0
    f1 = found / 4
    runs = bool(found) if kind == "example" and facts else None
    code = f"```python\nimport optax\ntx = optax.{optimizer}(0.1)\n```"
    text = f"`optax.{optimizer}` takes `learning_rate`{', `b1=0.9`' * (found > 2)}."
    if kind == "example":
        text = f"{code}\n{text}"
    scores: dict[str, float] = {"num_words": float(len(text.split())), "clear": 1.0}
    text += words
    if facts:
        scores |= {"fact_f1": f1, "right": float(found == 4), "chrf": 20 + 60 * f1}
    if runs is not None:
        scores["runs"] = float(runs)
    if looks_up:
        scores["groundedness"] = chance.uniform(0.4, 1.0)
    return {
        "text": text,
        "finish": "stop" if drawn < 0.9 else "length",
        "error": f"it leaks{words}" if drawn > 0.98 else "",
        "num_prompt_tokens": 420 if looks_up else 38,
        "num_new_tokens": 44,
        "sources": [
            {
                "id": f"optax.{optimizer}#{part}{words}",
                "text": f"optax.{optimizer} "
                + "an optimizer's passage " * (passage_words // 3)
                + words,
                "source": f"optax 0.2.8{words}",
                "score": 0.9 - 0.2 * part,
            }
            for part in range(2)
        ]
        if looks_up
        else [],
        "cited": [1] if looks_up and found else [],
        "num_false_citations": int(looks_up and drawn > 0.8),
        "facts": {
            "found": list(facts[:found]),
            "missed": list(facts[found:]),
            "wrong": [f"b3=0.5{words}"] if found < 4 else [],
            "num_new_words": 5,
        }
        if facts
        else None,
        "checks": {
            "answered": True,
            "finished": drawn < 0.9,
            "repeats": drawn > 0.95,
            "has_code": kind == "example",
            "right": (found == 4) if facts else None,
            "parses": True if kind == "example" else None,
            "runs": runs,
            "found": (drawn < 0.9) if looks_up and facts else None,
        },
        "run_reason": f"NameError: name 'jnp' is not defined{words}" if runs is False else "",
        "scores": scores,
        "times": {
            "time_to_first_token_s": _SECONDS[arm] * chance.uniform(0.1, 0.2),
            "time_per_token_s": 0.018,
            "total_s": _SECONDS[arm] * chance.lognormvariate(0, 0.3),
            "retrieval_s": 0.03 if looks_up else 0.0,
        },
    }


def _values(
    questions: Sequence[Mapping[str, Any]], name: str, of_set: str, figure: str
) -> dict[str, float]:
    return {
        each["id"]: each["answers"][name]["scores"][figure]
        for each in questions
        if each["set"] == of_set and figure in each["answers"][name]["scores"]
    }


def _dimensions(
    questions: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    sets: Sequence[str],
    words: str,
    chance: random.Random,
) -> list[dict[str, Any]]:
    figures: dict[str, list[dict[str, Any]]] = {"accuracy": [], "quality": []}
    for of_set in sets:
        for dimension, figure, label, unit, better, is_headline in _FIGURES:
            values = {name: _values(questions, name, of_set, figure) for name in names}
            values = {name: found for name, found in values.items() if found}
            if values:
                figures[dimension].append(
                    _figure(
                        figure,
                        label + words,
                        {name: an_estimate(list(found.values())) for name, found in values.items()},
                        of_set=of_set,
                        unit=unit,
                        better=better,
                        is_headline=is_headline,
                        items=list(dict.fromkeys(itertools.chain(*values.values()))),
                    )
                )
    figures["performance"] = [
        _figure(
            name,
            label,
            {arm: an_estimate([chance.gauss(size, size / 9) for _ in range(12)]) for arm in names},
            unit=unit,
            better=better,
            is_headline=is_headline,
        )
        for name, label, unit, better, size, is_headline in (
            (
                "alone/time_to_first_token_s/p50",
                "First token, median",
                "seconds",
                "lower",
                0.2,
                True,
            ),
            ("together/total_s/p95", "End to end, 95th percentile", "seconds", "lower", 3.1, False),
            ("tokens_per_s", "Throughput", "tokens/s", "higher", 96.0, True),
            ("tokens_in", "Tokens in", "tokens", "lower", 210.0, False),
            ("memory_bytes", "Memory", "bytes", "lower", 1.4e9, True),
        )
    ]
    figures["consistency"] = [
        _figure(
            "paraphrases",
            "Agreement over paraphrases",
            {arm: an_estimate([chance.uniform(0.3, 0.9) for _ in range(12)]) for arm in names},
            is_headline=True,
        ),
        _figure(
            "repetitions",
            "Agreement over repetitions",
            {arm: an_estimate([1.0] * 12) for arm in names},
        ),
    ]
    figures["cost"] = [
        _figure(
            "chip_seconds_per_1000",
            "Chip time of 1,000 answers",
            {arm: _around(_CHIP_SECONDS.get(_kind(arm), 300.0)) for arm in names},
            unit="chip-seconds",
            better="lower",
        )
    ]
    return [
        {"name": name, "label": name.capitalize() + words, "figures": found}
        for name, found in figures.items()
    ]


def _figure(name: str, label: str, arms: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    of_set = others.pop("of_set", "")
    return {
        "name": name,
        "label": label,
        "words": f"What {label} says.",
        "set": of_set,
        "unit": "share",
        "better": "higher",
        "is_headline": False,
        "is_clocked": False,
        "arms": dict(arms),
        "items": [],
        **others,
    }


def _comparisons(
    questions: Sequence[Mapping[str, Any]], names: Sequence[str], sets: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for of_set, (dimension, figure, _, unit, better, is_headline) in itertools.product(
        sets, _FIGURES
    ):
        if not better:
            continue
        for first, second in itertools.combinations(names, 2):
            a, b = (_values(questions, name, of_set, figure) for name in (first, second))
            differences = [a[item] - b[item] for item in a if item in b]
            if differences:
                rows.append(
                    {
                        "first": first,
                        "second": second,
                        "dimension": dimension,
                        "figure": figure,
                        "set": of_set,
                        "family": dimension,
                        "is_headline": is_headline and of_set == "seen",
                        "better": better,
                        "unit": unit,
                        **_tested(differences, first, second),
                    }
                )
    return rows


def _tested(differences: Sequence[float], first: str, second: str) -> dict[str, Any]:
    difference = an_estimate(differences)
    value, low, high = (difference[name] for name in ("value", "low", "high"))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no_difference"
    return {
        "difference": difference,
        "p_value": 0.0004 if verdict != "no_difference" else 0.31,
        "adjusted_p": 0.004 if verdict != "no_difference" else 1.0,
        "test": "sign_flip",
        "effect": "cohens_dz",
        "effect_size": value / (statistics.pstdev(differences) or 1.0),
        "detectable_difference": (high - low) / 1.4,
        "num_items": len(differences),
        "num_clusters": len(differences),
        "num_better": sum(each > 0 for each in differences),
        "num_worse": sum(each < 0 for each in differences),
        "verdict": verdict,
        "words": f"{first} against {second}",
    }


def _times(chance: random.Random, name: str, count: int) -> dict[str, list[float]]:
    size = _SECONDS[_kind(name)]
    return {
        "time_to_first_token_s": [size * chance.lognormvariate(-2, 0.3) for _ in range(count)],
        "time_per_token_s": [0.018 * chance.lognormvariate(0, 0.1) for _ in range(count)],
        "total_s": [size * chance.lognormvariate(0, 0.4) for _ in range(count)],
        "retrieval_s": [0.03 * chance.lognormvariate(0, 0.2) for _ in range(count)]
        if _kind(name).endswith("rag")
        else [],
    }


def _around(value: float) -> dict[str, Any]:
    return {"value": value, "low": 0.92 * value, "high": 1.07 * value, "num_items": 100}


def _cost(names: Sequence[str], words: str, *, has_prices: bool) -> dict[str, Any]:
    price = 1.2 / 3600
    nothing = {"value": None, "low": None, "high": None, "num_items": 0}
    arms = {}
    for name in names:
        seconds = _CHIP_SECONDS.get(_kind(name), 300.0)
        right = seconds / 1000 / (sum(_SKILL[_kind(name)]) / 2)
        fixed = {"training": 476.2} if _kind(name).startswith("trained") else {}
        fixed |= {"index": 12.5} if _kind(name).endswith("rag") else {}
        spread = [
            (volume, seconds + 1000 * sum(fixed.values()) / volume)
            for volume in (1_000, 100_000, 10_000_000)
        ]
        arms[name] = {
            "chip_seconds_per_1000": _around(seconds),
            "price_per_1000": _around(seconds * price) if has_prices else nothing,
            "chip_seconds_per_right": _around(right),
            "price_per_right": _around(right * price) if has_prices else nothing,
            "fixed": fixed,
            "amortised": [
                {
                    "answers": volume,
                    "chip_seconds_per_1000": each,
                    "price_per_1000": each * price if has_prices else None,
                }
                for volume, each in spread
            ],
        }
    return {
        "currency": "USD" if has_prices else "",
        "price_per_chip_hour": 1.2 if has_prices else None,
        "price_words": ("USD 1.20 an hour, by the user." if has_prices else "No price was set.")
        + words,
        "device": "cpu",
        "num_chips": 1,
        "chip_words": f"One chip is this machine, all of its processors.{words}",
        "arms": arms,
        "break_even": [
            {
                "first": names[0],
                "second": names[-1],
                "answers": 12_000,
                "words": f"From 12,000 answers on, the first is cheaper.{words}",
            }
        ],
    }


def _recommendations(names: Sequence[str], words: str) -> list[dict[str, Any]]:
    uses = (
        ("offline_batch", "Offline batch", names[-1], "strong"),
        ("interactive", "People who wait", names[0], "moderate"),
        ("must_cite", "Must cite", names[1], "strong"),
        ("changing", "Knowledge that changes weekly", names[1], "weak"),
        ("tight_memory", "Tight memory", "", "none"),
    )
    return [
        {
            "use_case": use,
            "label": label + words,
            "arm": arm,
            "strength": strength,
            "words": f"It is the best that the rule lets through.{words}",
            "rule": f"The highest fact F1 under 1 s.{words}",
            "evidence": [
                {"figure": "accuracy/seen/fact_f1", "words": f"0.52 against 0.41{words}"},
                {"figure": "", "words": f"nothing else is fit{words}"},
            ],
            "ranking": [arm] if arm else [],
        }
        for use, label, arm, strength in uses
    ]


def _arm(name: str, words: str) -> dict[str, Any]:
    kind = _kind(name)
    parts = {"weights": 1_072_000_000, "cache": 26_000_000}
    parts |= {"index": 900_000, "embedder": 91_000_000} if kind.endswith("rag") else {}
    return {
        "name": name,
        "label": LABELS[kind] + words,
        "model": f"gemma3_270m{words}",
        "looks_up": kind.endswith("rag"),
        "prompt": {
            "chosen": f"plain text, 2 examples{words}",
            "num_items": 16,
            "candidates": [
                {
                    "words": f"plain text, {shots} examples{words}",
                    "is_chosen": shots == 2,
                    "fact_f1": _around(0.3 + 0.05 * shots),
                }
                for shots in (2, 0)
            ],
        },
        "memory": {
            "total_bytes": sum(parts.values()),
            "parts": parts,
            "shared_with": [f"base{words}"] if kind == "rag" else [],
        },
    }


def _manifest(words: str, num_questions: int) -> dict[str, Any]:
    return {
        "created": f"2026-11-27T10:00:00+00:00{words}",
        "config": {"arms": ["trained", "rag"], "run": f"runs/lora{words}"},
        "versions": {"jax": "0.10.2", "coderllm_jax": f"0.1{words}"},
        "commit": "c09b5a3",
        "devices": {"platform": "cpu", "count": 1},
        "wall_s": 1034.2,
        "items": {"sha256": "ab" * 32, "compared": num_questions},
        "identities": {f"trained{words}": {"step": 60}},
        "indexes": {"known": {"chunks": 310}},
    }
