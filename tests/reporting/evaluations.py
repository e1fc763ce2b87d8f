"""An evaluation as `evaluate` would have found it, through the suites' own arithmetic.

    an_evaluation(words="…")  ──►  what results.json holds, rows of samples.jsonl

`words` stands in every place where somebody else's words can stand.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.config.evaluation import CodeSection
from coderllm_jax.evaluation.code_generation import sample_row, summarize_code
from coderllm_jax.evaluation.disturbance import WAYS, summarize_drops
from coderllm_jax.evaluation.judge import Verdict
from coderllm_jax.evaluation.latency import summarize_load
from coderllm_jax.evaluation.load import Load, Row
from coderllm_jax.evaluation.qa_accuracy import questions_of, score_answer, summarize_answers
from coderllm_jax.evaluation.regression import find_regressions
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.evaluation.survival import Case, Survival
from coderllm_jax.evaluation.usage import Usage
from coderllm_jax.records import Answer, Estimate, EvalItem
from coderllm_jax.training.run_folder import plain

Samples = list[dict[str, Any]]
_SYMBOLS = ("optax.adam", "optax.sgd", "optax.clip", "optax.chain", "optax.lion", "optax.adafactor")
_ENDS: tuple[tuple[str, str, str], ...] = (
    ("passed", "", ""),
    ("failed", "wrong answer", "assert candidate([1.0, 2.0, 3.9], 0.3) == True"),
    ("failed", "wrong answer", "assert candidate('aab') == 2"),
    ("error", "exception", "NameError: name 'numbers' is not defined"),
    ("error", "syntax", "SyntaxError: unexpected EOF while parsing (<string>, line 14)"),
    ("timeout", "timeout", "out of CPU seconds"),
)


def an_evaluation(
    *, words: str = "", num_problems: int = 24, num_items: int = 24, suites: Sequence[str] = ()
) -> tuple[dict[str, Any], Samples]:
    """Content and samples; of all suites, or those that are named."""
    found = [
        the_code(words, num_problems),
        the_answers(words, num_items),
        the_performance(),
        the_robustness(words),
    ]
    found.append(the_regression(found, words))
    kept = [each for each in found if not suites or each.name in suites]
    return the_content(kept, words), [dict(row) for each in kept for row in each.samples]


def the_content(results: Sequence[SuiteResult], words: str = "") -> dict[str, Any]:
    return plain(
        {
            "status": "finished",
            "results_sha256": "5f1c" * 16,
            "manifest": {
                "created": "2026-11-26T12:00:00Z",
                "answerer": {
                    "name": f"gemma3_270m + lora{words}",
                    "model": {"name": f"gemma3_270m{words}", "weights_sha256": "a5fd" * 16},
                    "prompt": {"kind": "chat", "shots": []},
                    "setting": {"slots": 16, "head": "bfloat16"},
                },
                "items": {"num_items": 24, "num_moved": 0, "seen_by": "the file"},
                "config": {"model_path": f"runs/lora{words}", "seed": 0},
                "versions": {"jax": "0.10.2", "keras": "3.15.1"},
                "commit": None,
                "devices": {"platform": "cpu", "kind": "cpu", "count": 1, "cpu_cores": 2},
            },
            "suites": {each.name: each.to_json() for each in results},
        }
    )


def the_code(words: str = "", num_problems: int = 24) -> SuiteResult:
    chance = random.Random(2)
    rows = []
    for set_name, count in (("human_eval", num_problems), ("hand_written", num_problems // 4)):
        for number in range(count):
            verdict, cause, reason = chance.choice(_ENDS)
            task_id = f"{set_name}/{number}"
            sample = {"task_id": task_id, "completion": f"    return numbers[{number}]{words}"}
            judged = Verdict(task_id, verdict, cause, reason + words if reason else "")
            rows.append(
                {
                    **sample_row(set_name, sample, judged),
                    "id": f"code/{task_id}/0",
                    "question": f'def first(numbers):\n    """The first number.{words}"""',
                    "answer": sample["completion"],
                    "finish": "stop",
                }
            )
    return summarize_code(rows, CodeSection(), seed=0, details={"put": {"human_eval": "continued"}})


def the_answers(words: str = "", num_items: int = 24) -> SuiteResult:
    chance = random.Random(0)
    rows = []
    for number in range(num_items):
        symbol = _SYMBOLS[number % len(_SYMBOLS)]
        split = "seen" if number % 2 else "unseen"
        kind = ("signature", "purpose", "example")[number % 3]
        item = EvalItem(
            id=f"{split}:{symbol}:{number}",
            question=f"Which arguments does {symbol} take, and what are they?{words}",
            answer=f"`{symbol}(learning_rate, b1=0.9, eps=1e-08)`{words}",
            split=split,
            symbol=symbol,
            kind=kind,
            facts=("learning_rate", "b1", "eps", "0.9", "1e-08"),
        )
        known = chance.sample(item.facts, chance.randint(1 + 2 * (split == "seen"), 5))
        answer = Answer(
            f"qa/{item.id}", f"It takes {', '.join(known)}.{words}", "stop", num_new_tokens=12
        )
        row = score_answer(item, questions_of([item], max_new_tokens=64)[0], answer)
        row["reference"] = {"nats": 20.0 + 5 * chance.random() - 6 * (split == "seen"), "tokens": 9}
        row["scores"]["negative_log_likelihood"] = row["reference"]["nats"] / 9
        rows.append(row)
    return summarize_answers(rows, seed=0, notes=(f"2 examples are left out{words}",))


def the_performance() -> SuiteResult:
    loads = {
        f"closed/{in_flight}": summarize_load(_load("closed", in_flight, 0.4 + 0.05 * in_flight))
        for in_flight in (1, 4, 16)
    }
    loads["open/2.1"] = summarize_load(_load("open", 2.1, 0.6))
    return SuiteResult(
        "performance",
        {
            f"{name}/{key}": figure
            for name, load in loads.items()
            for key, figure in load.figures().items()
        },
        details={"loads": {name: load.to_json() for name, load in loads.items()}},
        wall_s=95.0,
    )


def _load(kind: str, offered: float, service_s: float, num_requests: int = 100) -> Load:
    chance = random.Random(offered)
    at_once = offered if kind == "closed" else 2
    rows = []
    for number in range(num_requests):
        begun_s = number // at_once * service_s
        took_s = service_s * (0.8 + 0.3 * chance.expovariate(1.0))
        rows.append(
            Row(
                id=f"q{number}",
                intended_s=begun_s,
                submitted_s=begun_s + 0.0004,
                first_token_s=begun_s + 0.3 * took_s,
                finished_s=begun_s + took_s,
                num_prompt_tokens=40,
                num_new_tokens=32,
                num_first_tokens=1,
                finish="stop",
                error="",
            )
        )
    usage = Usage(num_requests * service_s, 1.9 * num_requests * service_s, 1_400_000_000, 0.0)
    return Load(kind, offered, tuple(rows), usage, False, (), Usage(6.1, 8.0, 10**9, 5.2))


def the_robustness(words: str = "") -> SuiteResult:
    chance = random.Random(1)
    disturbed = [
        {
            "suite": "robustness",
            "id": f"{way}:{number}",
            "group": "disturbed",
            "way": way,
            "question": f"Waht does optax.adam do?{words}",
            "answer": f"It takes steps.{words}",
            "clean_answer": f"It takes Adam's steps.{words}",
            "finish": "stop",
            "scores": {
                "clean_fact_f1": (clean := chance.random()),
                "fact_f1": clean * (0.4 if way == "typos" else 1 - 0.1 * chance.random()),
            },
        }
        for way in WAYS
        for number in range(12)
    ]
    drops = summarize_drops(disturbed, seed=0)
    cases = [
        Survival(Case("empty", ""), Answer("e", "", "error", error=f"it is empty{words}"), ""),
        Survival(Case("emoji", f"\U0001f600{words}"), Answer("m", f"a{words}", "stop"), ""),
        Survival(Case("null", f"\x00{words}"), Answer("n", "b", "stop"), f"it leaks{words}"),
        Survival(Case("half", "\ud800"), Answer("h", "c", "length"), ""),
    ]
    figures = {
        **drops.figures,
        "repetition/identical": wilson_interval(24, 24),
        "order/identical": wilson_interval(24, 24),
        "batch/identical": wilson_interval(21, 24),
        "survival/passed": wilson_interval(3, 4),
        "stress/ended_once": wilson_interval(80, 80),
        "stress/memory_growth_bytes": Estimate(3 << 20, num_items=80),
        "stress/threads_growth": Estimate(0, num_items=80),
    }
    stress = {"num_submitted": 80, "num_answered": 66, "num_cancelled": 9, "num_refused": 5}
    return SuiteResult(
        "robustness",
        figures,
        details={"lower_is_better": [], **drops.details, "stress": stress},
        samples=[*disturbed, *(each.to_sample() for each in cases)],
        notes=[*drops.notes, f"not survived: null: it leaks{words}"],
        wall_s=140.0,
    )


def the_regression(results: Sequence[SuiteResult], words: str = "") -> SuiteResult:
    """Against a baseline in which every answer knew more."""
    now = {"manifest": {}, "suites": {each.name: each.to_json() for each in results}}
    rows = [row for each in results for row in each.samples]
    better = [
        {**row, "scores": {name: _raised(name, value) for name, value in row["scores"].items()}}
        for row in rows
    ]
    result = find_regressions(
        now, rows, now, better, margin=0.02, alpha=0.05, scores=("fact_f1", "passed")
    ).result
    details = {**result.details, "baseline": f"runs/earlier{words}/results.json"}
    return SuiteResult("regression", result.figures, details=details, notes=result.notes)


def _raised(name: str, value: float) -> float:
    return min(1.0, value + 0.3) if name == "fact_f1" else value


def a_figure(value: float | None, **others: Any) -> Mapping[str, Any]:
    return {"value": value, "low": None, "high": None, "num_items": 0, **others}
