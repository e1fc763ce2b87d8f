"""Runs suites one after another; what a suite has found is kept, and not found twice.

key: who answers, the options that bear on the suite, the items, and the code that measures
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.config.evaluation import SUITES
from coderllm_jax.evaluation.asking import Kept, read_kept
from coderllm_jax.evaluation.code_generation import run_code_generation
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.performance import run_performance
from coderllm_jax.evaluation.qa_accuracy import run_qa_accuracy
from coderllm_jax.evaluation.regression import run_regression
from coderllm_jax.evaluation.results import SuiteResult, from_json
from coderllm_jax.evaluation.robustness import run_robustness

_RUNNERS: dict[str, Callable[[Context], SuiteResult]] = {
    "code_generation": run_code_generation,
    "qa_accuracy": run_qa_accuracy,
    "performance": run_performance,
    "robustness": run_robustness,
}
# Options that decide a suite's findings, beside the answerer's identity.
_OPTIONS = {
    "code_generation": ("code",),
    "qa_accuracy": ("answers", "judge"),
    "performance": ("performance",),
    "robustness": ("robustness",),
}


def run_suites(context: Context, manifest: Mapping[str, Any]) -> list[SuiteResult]:
    """The suites that the configuration names, in their usual order; regression comes last.

    manifest: what results.json will say of this evaluation, to be held against the baseline's.
    """
    path = context.folder / "suites.jsonl"
    known = read_kept(path, "result")
    results = []
    for name in SUITES:
        if name not in context.config.benchmark_suite or name not in _RUNNERS:
            continue
        key = _key(context, name)
        if key in known:
            context.note(f"{name}: found before, and taken over")
            results.append(from_json(name, known[key]))
            continue
        started_s = time.monotonic()
        found = _RUNNERS[name](context)
        found = dataclasses.replace(found, wall_s=time.monotonic() - started_s)
        results.append(found)
        if found.is_whole:
            with Kept(path, name="result") as kept:
                kept.add(key, found.to_json() | {"samples": list(found.samples)})
    if "regression" in context.config.benchmark_suite:
        gate = run_regression(context, results, manifest=manifest)
        results += [gate] if gate is not None else []
    return results


def _key(context: Context, name: str) -> str:
    options = context.config.to_dict()
    said: dict[str, Any] = {
        "suite": name,
        "answerer": dict(context.answerer.identity),
        "options": {option: options[option] for option in _OPTIONS[name]},
        "seed": context.config.seed,
        "items": [[item.id, item.question, item.answer, item.split] for item in context.items],
        "code": _code_sha256(),
    }
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _code_sha256() -> str:
    """Digest of this package's source: figures of other code are not these figures."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
