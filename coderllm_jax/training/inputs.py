"""Everything a run reads, put together once: packed training rows, evaluation batches, questions.

    rows of data.path ──► examples ──► tokens ──► PackedRows (any step's batch)
    evaluation items  ──► unseen split ──► chat-turn batches, few-shot batches, sampled questions

Knows where default data lies; making it when it is missing is the entry's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.holdout import hold_out
from coderllm_jax.data.pipeline import (
    Batches,
    BatchPart,
    PackedRows,
    evaluation_batches,
    make_train_iterator,
)
from coderllm_jax.data.prompts import encode_few_shot
from coderllm_jax.data.sources import SourceReport, read_examples
from coderllm_jax.data.tokenized import TokenizedExamples, tokenize_examples
from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.records import EvalItem, Example, Sample
from coderllm_jax.training.loop import EvalBatches

DEFAULT_TRAINING, DEFAULT_EVALUATION = Path("data/training"), Path("data/evaluation")
_SHOTS = 2


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run trains on, is judged by and is asked."""

    rows: PackedRows
    examples: Sequence[Example]
    evaluation: EvalBatches
    questions: Sequence[Sample]
    sha256: str
    statistics: dict[str, Any]
    locate: Callable[[int], str]
    part: BatchPart | None = None

    def rows_of_step(self, step: int) -> list[str]:
        """File and line of every row in the batch of `step` (from 1), for a person to look at."""
        return [self.locate(int(place)) for place in self.rows.examples_in_step(step - 1)]

    def num_steps(self, config: TrainingConfig) -> int:
        """Steps of the whole run: as asked, or as many as the epochs take."""
        return config.steps or self.rows.num_steps(config.num_epochs)

    def batches(self, config: TrainingConfig, *, start_step: int, stop_step: int) -> Batches:
        """This host's part of every batch from `start_step` on; close it after use."""
        return make_train_iterator(
            self.rows,
            start_step=start_step,
            stop_step=stop_step,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            part=self.part,
        )


class Consumption:
    """Which rows and symbols were trained on, and how often, up to a step.

    Evaluation asks it which symbols a model has seen.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._step = 0
        self._times = np.zeros(len(inputs.examples), np.int64)

    def advance(self, step: int, *, skipped: Collection[int] = ()) -> None:
        """Counts on to the end of step `step`; nothing was learnt from the `skipped` ones."""
        left_out = {each - 1 for each in skipped}  # batches are numbered from 0
        for each in set(range(self._step, step)) - left_out:
            np.add.at(self._times, self._inputs.rows.examples_in_step(each), 1)
        self._step = step

    @property
    def examples(self) -> int:
        """Examples consumed, each as often as it was."""
        return int(self._times.sum())

    def to_dict(self) -> dict[str, Any]:
        """What training_rows.json holds."""
        times = self._times.tolist()
        symbols: Counter[str] = Counter()
        for example, seen in zip(self._inputs.examples, times, strict=True):
            symbols[example.symbol] += seen
        return {
            "data_sha256": self._inputs.sha256,
            "steps": self._step,
            "examples": self.examples,
            "rows": len(times),
            "rows_by_times_seen": {
                str(seen): count for seen, count in sorted(Counter(times).items())
            },
            "times_seen_by_symbol": dict(sorted(symbols.items())),
        }


def read_rows(config: TrainingConfig) -> tuple[list[Example], SourceReport]:
    """The training rows as they are written, and where each lies; needs no model."""
    return read_examples(config.data.path or str(DEFAULT_TRAINING), config.data)


def read_inputs(
    config: TrainingConfig,
    tokenizer: Tokenizer,
    items: Sequence[EvalItem] | None,
    *,
    rows: tuple[list[Example], SourceReport] | None = None,
    part: BatchPart | None = None,
) -> Inputs:
    """Tokenizes and plans; reads the rows first unless they are handed in.

    `items` None: evaluation rows are held out of the training rows. `part`: the rows of every batch
    that this host makes. Raises DataError naming file, row and remedy.
    """
    examples, report = read_rows(config) if rows is None else rows
    places = list(range(len(examples)))
    if items is None:
        places, items = hold_out(examples, max_items=config.evaluation.max_items)
        examples = [examples[place] for place in places]
    length = config.data.sequence_length

    def locate(index: int) -> str:
        return report.locate(places[index])

    tokenized = tokenize_examples(
        tokenizer,
        examples,
        sequence_length=length,
        on_long_example=config.data.on_long_example,
        locate=locate,
    )
    packed = PackedRows(
        tokenized.examples,
        sequence_length=length,
        batch_size=config.batch_size,
        seed=config.seed,
        packing=config.data.packing,
    )
    chosen = choose_items(items, config.evaluation.max_items)
    shots = choose_shots(examples)

    def batches(encoded: TokenizedExamples) -> Any:
        return evaluation_batches(
            encoded,
            sequence_length=length,
            batch_size=config.batch_size,
            part=part,
        )

    asked = [Example.from_question(item.question, item.answer) for item in chosen]
    turns = tokenize_examples(tokenizer, asked, sequence_length=length, on_long_example="drop")
    fitting = [chosen[place] for place in turns.examples.sources]
    few_shot = few_shot_examples(tokenizer, shots, fitting, sequence_length=length)
    return Inputs(
        rows=packed,
        examples=examples,
        evaluation=EvalBatches(
            unseen=batches(turns.examples), few_shot=batches(few_shot) if few_shot else ()
        ),
        questions=[
            Sample(item.question, "", item.answer)
            for item in vary_kinds(fitting)[: config.evaluation.samples]
        ],
        sha256=report.sha256,
        locate=locate,
        part=part,
        statistics={
            **report.to_dict(),
            "num_trained": len(tokenized.examples),
            "num_dropped": tokenized.num_dropped,
            "num_truncated": tokenized.num_truncated,
            "num_evaluation_items": len(fitting),
            "evaluation_sha256": items_sha256(fitting),
            "sequence_length": length,
            "tokens": int(tokenized.examples.lengths.sum()),
            "answer_tokens": int(tokenized.examples.supervised.sum()),
            "tokens_per_example": _spread(tokenized.examples.lengths),
            "rows_per_epoch": len(packed.plan(0)),
            "steps_per_epoch": packed.num_steps(1),
            "fill_fraction": packed.plan(0).fill_fraction(tokenized.examples.lengths, length),
            "kinds": _counts(example.kind for example in examples),
            "sources": _counts(example.source for example in examples),
        },
    )


def choose_items(items: Sequence[EvalItem], max_items: int) -> list[EvalItem]:
    """The unseen items that are scored, the same ones whatever order the file has."""
    unseen = [item for item in items if item.split == "unseen"]
    if not unseen:
        raise DataError(
            f"none of {len(items)} evaluation items is of the split 'unseen'; "
            "prepare the data again or set data.evaluation_path"
        )
    ordered = sorted(unseen, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    return ordered[:max_items]


def vary_kinds(items: Sequence[EvalItem]) -> list[EvalItem]:
    """The same items, one of every kind first, then a second of every kind, and so on."""
    met: Counter[str] = Counter()
    rounds = []
    for item in items:
        rounds.append(met[item.kind])
        met[item.kind] += 1
    return [item for _, item in sorted(zip(rounds, items, strict=True), key=lambda pair: pair[0])]


def choose_shots(examples: Sequence[Example], count: int = _SHOTS) -> list[tuple[str, str]]:
    """Short examples of different kinds, to show a base model what is wanted of it."""
    shots: dict[str, tuple[str, str]] = {}
    for example in sorted(examples, key=lambda e: (len(e.question) + len(e.answer), e.question)):
        if len(example.answer) >= 20 and len(example.turns) == 2:
            shots.setdefault(example.kind or example.question, (example.question, example.answer))
        if len(shots) >= count:
            break
    return list(shots.values())[:count]


def few_shot_examples(
    tokenizer: Tokenizer,
    shots: Sequence[tuple[str, str]],
    items: Sequence[EvalItem],
    *,
    sequence_length: int,
) -> TokenizedExamples | None:
    """Every item under the plain prompt, with as many shots as leave room; None if one has none."""
    encoded = []
    for item in items:
        for count in range(len(shots), -1, -1):
            one = encode_few_shot(
                tokenizer, shots[:count], question=item.question, answer=item.answer
            )
            if len(one.ids) - 1 <= sequence_length:
                encoded.append(one)
                break
        else:
            return None
    return TokenizedExamples.from_encoded(encoded)


def items_sha256(items: Sequence[EvalItem]) -> str:
    """Digest of what is asked and of what is hoped for."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.id}\0{item.question}\0{item.answer}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _spread(lengths: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(lengths, [5, 50, 95])
    return {"p5": float(low), "p50": float(middle), "p95": float(high), "max": int(lengths.max())}


def _counts(values: Any) -> dict[str, int]:
    """The most frequent values; what a page can show."""
    return dict(Counter(value for value in values if value).most_common(12))
