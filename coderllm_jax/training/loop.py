"""The order of a run, and nothing else: what is computed, written or sampled is handed in.

    baseline evaluation
    for every step:   next batch → dispatch step n → fetch the metrics of step n-1
                      every k steps: evaluate, sample, save
    last evaluation, last save

The metrics of a step are fetched after the next step was dispatched, so the device never waits
for Python. Before an evaluation or a save the step in flight is fetched too: its time then belongs
to training, and theirs to them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.records import PackedBatch, Sample, Writer
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.meter import Meter
from coderllm_jax.training.record import RunRecord, is_finite


class Steps(Protocol):
    """The part of `training.step.Program` that the loop calls."""

    @property
    def train_step(self) -> Callable[[Any, PackedBatch], tuple[Any, Any]]:
        """State and batch in, next state and StepMetrics out; donates the state."""

    @property
    def eval_step(self) -> Callable[[Any, PackedBatch], Any]:
        """State and batch in, LossSums out; leaves the state alone."""

    @property
    def put_batch(self) -> Callable[[PackedBatch], PackedBatch]:
        """This host's part of a batch onto the mesh."""


class EvalBatches(NamedTuple):
    """This host's part of the evaluation rows: as chat turns, and as a plain few-shot prompt."""

    unseen: Sequence[PackedBatch]
    few_shot: Sequence[PackedBatch] = ()


class Observers(NamedTuple):
    """Who looks on. None of them changes what is computed.

    `sample` answers a few fixed questions with the state's weights; `after_evaluation` sees the
    record once the evaluation's row is in it; `note` takes a line about what happens now.
    """

    writer: Writer
    sample: Callable[[Any], Sequence[Sample]] = lambda state: ()
    after_evaluation: Callable[[RunRecord], None] = lambda record: None
    note: Callable[[str], None] = lambda text: None


def train(
    config: TrainingConfig,
    program: Steps,
    state: Any,
    record: RunRecord,
    *,
    num_steps: int,
    batches: Iterator[PackedBatch],
    evaluation: EvalBatches,
    checkpoints: Checkpoints,
    observers: Observers,
) -> Any:
    """Trains from `record.step` to `num_steps` and returns the last state.

    `batches` yields this host's part of step `record.step` first. `state` is donated. `record` is
    updated in place and saved with every checkpoint. A loss, gradient norm or evaluation loss that
    is not finite ends the run with status `diverged`: its weights are never saved.
    """
    meter = Meter(record, observers.writer, every_steps=config.logging.every_steps)
    judge = _Judge(program, meter, record, evaluation, observers)
    if record.step == num_steps:
        return state
    record.status = "running"
    if record.step == 0:
        observers.note("measuring the model as it is")
        judge.measure_baseline(state)
        if record.status == "diverged":  # the model is broken as it came
            return state
    observers.note("compiling the training step")

    in_flight: tuple[int, Any] | None = None
    # Whatever a step needs is put on the devices on purpose, by put_batch. A value that Python
    # passes by accident would be copied anew at every step, unseen: here it raises. Saving and
    # sampling are Orbax's and the generator's business, and rare: they may copy.
    with jax.transfer_guard("disallow"):
        for step in range(record.step + 1, num_steps + 1):
            with meter.data_wait():
                batch = next(batches)
            with meter.apart("compile_s") if meter.first("train") else contextlib.nullcontext():
                state, metrics = program.train_step(state, program.put_batch(batch))
            if in_flight:
                _finish_step(record, meter, *in_flight)
            in_flight = (step, metrics)

            evaluates = _is_due(step, config.evaluation.every_steps, num_steps)
            saves = _is_due(step, config.checkpoint.every_steps, num_steps)
            if evaluates or saves:
                _finish_step(record, meter, *in_flight)
                in_flight = None
            if record.status == "diverged":
                break
            if evaluates:
                saves |= judge.evaluate(state)
                if record.status == "diverged":
                    break
            if saves:
                record.status = "finished" if step == num_steps else "running"
                with meter.apart("checkpoint_wait_s"), jax.transfer_guard("allow"):
                    checkpoints.save(state, record)
        meter.flush()
        with meter.apart("checkpoint_wait_s"):
            checkpoints.wait()
    return state


def score(program: Steps, state: Any, batches: Sequence[PackedBatch], meter: Meter) -> dict:
    """Loss in nats a token, perplexity and token accuracy over all supervised tokens."""
    sums = []
    for batch in batches:
        first = meter.first(("eval", batch.inputs.shape))
        with meter.apart("compile_s" if first else "evaluation_s"):
            sums.append(program.eval_step(state, program.put_batch(batch)))
    with meter.apart("evaluation_s"):
        fetched = jax.device_get(sums)
    tokens = float(np.sum([each.weight for each in fetched], dtype=np.float64))
    loss = float(np.sum([each.loss for each in fetched], dtype=np.float64)) / max(tokens, 1)
    correct = float(np.sum([each.correct for each in fetched], dtype=np.float64))
    return {
        "eval_loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),  # exp overflows a double at 710
        "token_accuracy": correct / max(tokens, 1),
        "eval_loss_tokens": int(tokens),
    }


class _Judge:
    """Evaluates, samples and reports; a part of the loop that is called at several places."""

    def __init__(
        self,
        program: Steps,
        meter: Meter,
        record: RunRecord,
        evaluation: EvalBatches,
        observers: Observers,
    ) -> None:
        self._program, self._meter, self._record = program, meter, record
        self._evaluation, self._observers = evaluation, observers

    def measure_baseline(self, state: Any) -> None:
        """The untrained model: under chat turns, and under the plain prompt it may know better."""
        if self._evaluation.few_shot:
            scores = score(self._program, state, self._evaluation.few_shot, self._meter)
            self._record.baseline_few_shot_loss = scores["eval_loss"]
        self.evaluate(state)

    def evaluate(self, state: Any) -> bool:
        """Scores the unseen items and samples; returns whether this step is the best so far."""
        record, meter = self._record, self._meter
        best_before = record.best
        meter.flush()
        scores = score(self._program, state, self._evaluation.unseen, meter)
        row = {"step": record.step, "time": time.time(), **scores}
        if record.step == 0 and record.baseline_few_shot_loss is not None:
            row["few_shot_loss"] = record.baseline_few_shot_loss
        record.evaluations.append(row)
        if not is_finite(row["eval_loss"]):
            record.status = "diverged"
        self._observers.writer.write(row)
        with meter.apart("sampling_s"), jax.transfer_guard("allow"):
            samples = self._observers.sample(state)
        if samples:
            self._observers.writer.write_samples(record.step, samples)
        self._observers.after_evaluation(record)
        return record.best is not best_before


def _finish_step(record: RunRecord, meter: Meter, step: int, metrics: Any) -> None:
    """Waits for a step's metrics, and only for them."""
    fetched = {name: float(value) for name, value in jax.device_get(metrics)._asdict().items()}
    meter.finish_step(step, fetched)
    # A gradient that is not finite has already made the weights so, whatever the loss says.
    if not (is_finite(fetched["loss"]) and is_finite(fetched["grad_norm"])):
        record.status = "diverged"


def _is_due(step: int, every_steps: int, num_steps: int) -> bool:
    return step == num_steps or (every_steps > 0 and step % every_steps == 0)
