"""What a suite is handed: the configuration, who answers, the items, and where to keep things."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from coderllm_jax.config.evaluation import EvaluationConfig
from coderllm_jax.records import Answer, Answerer, EvalItem, Query


@dataclasses.dataclass(frozen=True)
class Context:
    """One evaluation in progress.

    ask: answers for queries, in their order, through the cache of answers; what was answered before
    under the same identity is not asked again, so only suites that measure time talk to `answerer`
    themselves. items: the evaluation items that were chosen for questions and answers. note: a
    line about what is going on, for a person. folder: the evaluation's own. judge: asks the model
    that has an opinion on answers, where there is one.
    """

    config: EvaluationConfig
    answerer: Answerer
    ask: Callable[[Sequence[Query]], list[Answer]]
    items: Sequence[EvalItem]
    folder: Path
    note: Callable[[str], None]
    judge: Callable[[Sequence[Query]], list[Answer]] | None = None
