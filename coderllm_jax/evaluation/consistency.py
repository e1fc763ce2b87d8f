"""Whether greedy answers stay the same when nothing but the circumstances change.

    first         a b c d           together, in this order
    repetition    a b c d           the same again
    order         c a d b           other neighbours, other slots
    batch         a │ b │ c │ d     each alone

Compared with the first round: text and how it ended. The answerer is asked directly, because what
comes from a cache is always the same. Equality is promised within one setting of our generator
(slots, number formats), and by few servers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.disturbance import choose_items
from coderllm_jax.evaluation.ledger import Ledger
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.records import Answer, EvalItem, Query

_NUM_FAULTS_TOLD = 3
# Alone, a token costs what it costs all together: answers that differ do so early.
_MOST_TOKENS = 32


def measure_consistency(context: Context) -> SuiteResult:
    """Asks `consistency_items` questions four times."""
    section = context.config.robustness
    items = choose_items(context.items, section.consistency_items)
    if not items:
        return SuiteResult("robustness", {})
    context.note(f"asking {len(items)} questions four times")
    ledger = Ledger(context.answerer, patience_s=context.config.endpoint.timeout_s)

    def ask(name: str, batches: Sequence[Sequence[EvalItem]]) -> dict[str, Answer]:
        answers = {}
        for batch in batches:
            queries = [
                Query.from_question(
                    f"consistency/{name}/{item.id}",
                    item.question,
                    max_new_tokens=min(section.max_new_tokens, _MOST_TOKENS),
                )
                for item in batch
            ]
            for item, answer in zip(batch, ledger.ask(queries), strict=True):
                answers[item.id] = answer
        return answers

    first = ask("first", [items])
    again = {
        "repetition": ask("repetition", [items]),
        "order": ask("order", [_reordered(items, seed=context.config.seed)]),
        "batch": ask("batch", [[item] for item in items]),
    }
    samples = [
        {
            "suite": "robustness",
            "id": f"{name}:{item.id}",
            "group": name,
            "question": item.question,
            "answer": answers[item.id].text,
            "first_answer": first[item.id].text,
            "finish": answers[item.id].finish,
            "scores": {"identical": float(are_identical(first[item.id], answers[item.id]))},
        }
        for name, answers in again.items()
        for item in items
    ]
    counts = {
        name: sum(are_identical(first[item.id], answers[item.id]) for item in items)
        for name, answers in again.items()
    }
    notes = [
        f"{len(items) - count} of {len(items)} greedy answers change with {name}"
        for name, count in counts.items()
        if count < len(items)
    ]
    return SuiteResult(
        "robustness",
        {f"{name}/identical": wilson_interval(count, len(items)) for name, count in counts.items()},
        details={"consistency": {"questions": len(items), "faults": ledger.faults}},
        samples=samples,
        notes=notes + [f"while asking again: {f}" for f in ledger.faults[:_NUM_FAULTS_TOLD]],
    )


def are_identical(one: Answer, other: Answer) -> bool:
    """Whether both were answered, and alike."""
    return one.finish in ("stop", "length") and (one.text, one.finish) == (other.text, other.finish)


def _reordered(items: Sequence[EvalItem], *, seed: int) -> list[EvalItem]:
    """The items in another order, unless there is only one."""
    shuffled = random.Random(seed).sample(items, len(items))  # noqa: S311 - no secret
    return shuffled if shuffled != list(items) else shuffled[::-1]
