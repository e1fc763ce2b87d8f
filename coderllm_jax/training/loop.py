"""The order of a run, and nothing else: what is computed, written or sampled is handed in.

    baseline evaluation
    for every step:   next batch → dispatch step n → fetch the metrics of step n-1
                      every k steps: evaluate, sample, save
    last evaluation, last save

The metrics of a step are fetched after the next step was dispatched, so the device never waits
for Python. Before an evaluation or a save the step in flight is fetched too: its time then belongs
to training, and theirs to them. A request to stop arrives the same way, with the metrics of a step,
so that all processes obey it at the same one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import RunError
from coderllm_jax.records import PackedBatch, Sample, Writer
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.control import Control
from coderllm_jax.training.guard import REASONS
from coderllm_jax.training.meter import Meter
from coderllm_jax.training.record import RunRecord, is_finite
from coderllm_jax.training.steering import Steering

# A run is lost when too many of these last batches had to be skipped.
_SKIP_WINDOW = 100


class Steps(Protocol):
    """The part of `training.step.Program` that the loop calls."""

    @property
    def train_step(self) -> Callable[[Any, PackedBatch, Any], tuple[Any, Any]]:
        """State, batch and control in, next state and StepMetrics out; donates the state."""

    @property
    def eval_step(self) -> Callable[[Any, PackedBatch], Any]:
        """State and batch in, LossSums out; leaves the state alone."""

    @property
    def put_batch(self) -> Callable[[PackedBatch], PackedBatch]:
        """This host's part of a batch onto the mesh."""

    @property
    def put_control(self) -> Callable[[Control], Any]:
        """This host's word on a step onto the mesh."""


class EvalBatches(NamedTuple):
    """This host's part of the evaluation rows: as chat turns, and as a plain few-shot prompt."""

    unseen: Sequence[PackedBatch]
    few_shot: Sequence[PackedBatch] = ()


class Observers(NamedTuple):
    """Who looks on. None of them changes what is computed.

    `sample` answers a few fixed questions with the state's weights; `after_evaluation` sees the
    record once the evaluation's row is in it; `note` takes a line about what happens now; `journal`
    takes an event that somebody will ask about later; `beat` hears what is being done, and at which
    step, each time something new begins.
    """

    writer: Writer
    sample: Callable[[Any], Sequence[Sample]] = lambda state: ()
    after_evaluation: Callable[[RunRecord], None] = lambda record: None
    note: Callable[[str], None] = lambda text: None
    journal: Callable[[str, int, Mapping[str, Any]], None] = lambda event, step, details: None
    beat: Callable[[str, int], None] = lambda phase, step: None


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
    steering: Steering | None = None,
) -> Any:
    """Trains from `record.step` to `num_steps` and returns the last state.

    `batches` yields this host's part of step `record.step` first. `state` is donated. `record` is
    updated in place and saved with every checkpoint. It ends with `record.status`

        finished      all steps done, or `evaluation.patience` evaluations brought nothing
        interrupted   a signal asked for it; the state was saved
        stopped       live.yaml asked for it; the state was saved
        diverged      an evaluation loss is not finite, or too many batches had to be skipped;
                      `record.failure` says which, and nothing was saved since
    """
    if record.has_finished(num_steps):
        return state
    record.status, record.failure, record.planned_steps = "running", "", num_steps
    steering = Steering(config, record) if steering is None else steering
    meter = Meter(record, observers.writer, every_steps=steering.logging_every_steps)
    judge = _Judge(
        program,
        record=record,
        meter=meter,
        evaluation=evaluation,
        observers=observers,
        steering=steering,
    )
    if judge.catch_up(state, config, num_steps):
        checkpoints.save(state, record)
    if record.status != "running":  # broken as it came, or asked to stop before the first step
        return state
    observers.note("compiling the training step")

    in_flight: tuple[int, Any] | None = None

    def finish_step_in_flight() -> None:
        nonlocal in_flight
        if in_flight:
            _finish_step(
                *in_flight,
                config=config,
                record=record,
                meter=meter,
                observers=observers,
                steering=steering,
            )
        in_flight = None

    # Whatever a step needs is put on the devices on purpose, by put_batch. A value that Python
    # passes by accident would be copied anew at every step, unseen: here it raises. Saving and
    # sampling are Orbax's and the generator's business, and rare: they may copy.
    with jax.transfer_guard("disallow"):
        for step in range(record.step + 1, num_steps + 1):
            observers.beat("waiting for a batch", step)
            with meter.data_wait():
                batch = next(batches)
            observers.beat("training", step)
            control = program.put_control(steering.word(step))
            with meter.apart("compile_s") if meter.first("train") else contextlib.nullcontext():
                state, metrics = program.train_step(state, program.put_batch(batch), control)
            finish_step_in_flight()
            in_flight = (step, metrics)

            evaluates = _is_due(step, steering.evaluation_every_steps, num_steps)
            saves = _is_due(step, steering.checkpoint_every_steps, num_steps)
            if evaluates or saves or record.status != "running":
                finish_step_in_flight()
            if evaluates and record.status == "running":
                saves |= judge.evaluate(state)
                _stop_early(config, record)
            if record.status == "diverged":
                break
            if step == num_steps and record.status == "running":
                record.status = "finished"
            ends = record.status != "running"
            if saves or ends:
                observers.beat("saving", step)
                with meter.apart("checkpoint_wait_s"), jax.transfer_guard("allow"):
                    checkpoints.save(state, record)
            if ends:
                break
        meter.flush()
        observers.beat("saving", record.step)
        with meter.apart("checkpoint_wait_s"):
            _wait_for_saves(checkpoints, record, observers)
    return state


def score(
    program: Steps,
    state: Any,
    batches: Sequence[PackedBatch],
    meter: Meter,
    *,
    give_up: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Loss in nats a token, perplexity and token accuracy over all supervised tokens.

    None where `give_up` said so between two batches; `beat` is told of each.
    """
    sums = []
    for batch in batches:
        beat()
        if give_up():
            return None
        first = meter.first(("eval", batch.inputs.shape))
        with meter.apart("compile_s" if first else "evaluation_s"):
            sums.append(program.eval_step(state, program.put_batch(batch)))
            # One after another: a queue of all of them could not be given up.
            jax.block_until_ready(sums[-1])
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
        *,
        record: RunRecord,
        meter: Meter,
        evaluation: EvalBatches,
        observers: Observers,
        steering: Steering,
    ) -> None:
        self._program, self._meter, self._record = program, meter, record
        self._evaluation, self._observers, self._steering = evaluation, observers, steering

    def catch_up(self, state: Any, config: TrainingConfig, num_steps: int) -> bool:
        """The evaluation that the step gone on from should have had: an interrupted run owes it.

        Returns whether a saved step has been evaluated by it.
        """
        record = self._record
        owes = record.is_unevaluated
        if owes and record.step == 0:
            self._observers.note("measuring the model as it is")
            self._measure_few_shot(state)
            self.evaluate(state)
            return False
        owes &= _is_due(record.step, self._steering.evaluation_every_steps, num_steps)
        if owes:
            self.evaluate(state)
            _stop_early(config, record)
        if record.step == num_steps and record.status == "running":  # that was all it owed
            record.status = "finished"
        return owes and record.status in ("running", "finished")

    def _measure_few_shot(self, state: Any) -> None:
        """The untrained model under the plain prompt, which it may know better than chat turns."""
        if self._evaluation.few_shot:
            scores = self._score(state, self._evaluation.few_shot)
            self._record.baseline_few_shot_loss = scores["eval_loss"] if scores else None

    def evaluate(self, state: Any) -> bool:
        """Scores the unseen items and samples; returns whether this step is the best so far."""
        record, meter = self._record, self._meter
        best_before = record.best
        meter.flush()
        scores = self._score(state, self._evaluation.unseen)
        if scores is None:  # the next session does it
            record.status = "interrupted"
            return False
        row = {"step": record.step, "time": time.time(), **scores}
        if record.step == 0 and record.baseline_few_shot_loss is not None:
            row["few_shot_loss"] = record.baseline_few_shot_loss
        record.evaluations.append(row)
        if not is_finite(row["eval_loss"]):
            record.status = "diverged"
            record.failure = f"the evaluation loss of step {record.step} is {row['eval_loss']}"
        self._observers.writer.write(row)
        if not self._steering.must_hurry():
            self._sample(state)
        self._observers.after_evaluation(record)
        return record.best is not best_before

    def _score(self, state: Any, batches: Sequence[PackedBatch]) -> dict[str, Any] | None:
        return score(
            self._program,
            state,
            batches,
            self._meter,
            give_up=self._steering.must_hurry,
            beat=lambda: self._observers.beat("evaluating", self._record.step),
        )

    def _sample(self, state: Any) -> None:
        self._observers.beat("sampling", self._record.step)
        with self._meter.apart("sampling_s"), jax.transfer_guard("allow"):
            samples = self._observers.sample(state)
        if samples:
            self._observers.writer.write_samples(self._record.step, samples)


def _finish_step(
    step: int,
    metrics: Any,
    *,
    config: TrainingConfig,
    record: RunRecord,
    meter: Meter,
    observers: Observers,
    steering: Steering,
) -> None:
    """Waits for a step's metrics, and only for them; counts it and obeys what was agreed in it."""
    fetched = jax.device_get(metrics)._asdict()
    control = Control(*map(float, fetched.pop("control")))
    reason = REASONS[int(fetched.pop("verdict"))]
    figures = {name: float(value) for name, value in fetched.items()}
    meter.finish_step(step, figures, skipped=reason != "accepted")
    if reason != "accepted":
        record.skipped_steps.append(step)
        observers.journal(
            "skipped",
            step,
            {"reason": reason, "loss": figures["loss"], "grad_norm": figures["grad_norm"]},
        )
        observers.note(
            f"step {step}: batch skipped ({reason.replace('_', ' ')}: loss {figures['loss']:.4g}, "
            f"gradient norm {figures['grad_norm']:.4g}{_scaled(figures)}); "
            "its rows are in journal.jsonl"
        )
    recent = [each for each in record.skipped_steps if each > step - _SKIP_WINDOW]
    if reason != "accepted" and len(recent) > config.safety.max_skipped:
        record.status = "diverged"
        record.failure = (
            f"{len(recent)} of the last {min(step, _SKIP_WINDOW)} batches had to be skipped, the "
            f"last for being {reason.replace('_', ' ')}{_scaled(figures)}"
        )
    elif record.status == "running":
        record.status = steering.hear(control) or "running"
        meter.every_steps = steering.logging_every_steps


def _scaled(figures: Mapping[str, float]) -> str:
    """What a float16 run's line adds: a scale that is still large may yet fall to a usable one."""
    scale = figures.get("loss_scale", 1.0)
    return "" if scale == 1 else f", loss scale {scale:g}"


def _wait_for_saves(checkpoints: Checkpoints, record: RunRecord, observers: Observers) -> None:
    """RunError where the last save failed, unless the run ends with worse news than that."""
    try:
        checkpoints.wait()
    except RunError as error:
        if record.status != "diverged":
            raise
        observers.note(str(error))


def _stop_early(config: TrainingConfig, record: RunRecord) -> None:
    """Ends a run whose last `patience` evaluations brought nothing better."""
    patience, best = config.evaluation.patience, record.best
    if not patience or best is None or record.status != "running":
        return
    # `best` is the last of equals; what is only as good as before is no progress.
    reached = next(
        row["step"]
        for row in record.evaluations
        if row["step"] > 0 and row["eval_loss"] == best["eval_loss"]
    )
    since = max(reached, record.stopped_early_at or 0)
    if sum(row["step"] > since for row in record.evaluations) >= patience:
        record.status = "finished"
        record.stopped_early_at = record.step


def _is_due(step: int, every_steps: int, num_steps: int) -> bool:
    return step == num_steps or (every_steps > 0 and step % every_steps == 0)
