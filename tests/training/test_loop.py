"""The loop's order and its accounts, over a program small enough to check by hand."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.model.loss import LossSums
from coderllm_jax.records import PackedBatch, Sample
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.control import Control
from coderllm_jax.training.loop import EvalBatches, Observers, train
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.steering import Steering
from tests.training.bigram import BigramProgram, batch_of_step, batches_from

EVALUATION = EvalBatches(unseen=[batch_of_step(1000), batch_of_step(1001)])


class Notebook:
    """A Writer that remembers."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.samples: list[tuple[int, Sequence[Sample]]] = []

    def write(self, row: Any) -> None:
        self.rows.append(dict(row))

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        self.samples.append((step, samples))

    def close(self) -> None:
        pass

    @property
    def losses(self) -> dict[int, float]:
        return {row["step"]: row["loss"] for row in self.rows if "loss" in row}

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "eval_loss" in row]


@dataclasses.dataclass
class Outcome:
    state: Any
    record: RunRecord
    notebook: Notebook
    steps_kept: list[int]
    events: list[tuple[str, int, Any]]


def config_with(**changes: Any) -> TrainingConfig:
    values = TrainingConfig.create_default()
    values.evaluation.every_steps = 5
    values.checkpoint.every_steps = 5
    values.update_from_flattened_dict(changes)
    return TrainingConfig.from_config_dict(values)


@functools.cache
def shared_program() -> BigramProgram:
    """Compiled once for all tests that want nothing special."""
    return BigramProgram()


def run(
    folder: Path,
    num_steps: int,
    *,
    config: TrainingConfig | None = None,
    program: Any = None,
    evaluation: EvalBatches = EVALUATION,
    sample: Callable[[Any], Sequence[Sample]] = lambda state: (),
    batches: Callable[[int], Iterator[PackedBatch]] = batches_from,
    steering: Callable[[RunRecord], Steering] | None = None,
) -> Outcome:
    """One session, as the entry puts it together: restore, then train."""
    program = program or shared_program()
    notebook = Notebook()
    events: list[tuple[str, int, Any]] = []
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore_latest(program.init_state())
        state, record = restored or (program.init_state(), RunRecord())
        state = train(
            config or config_with(),
            program,
            state,
            record,
            num_steps=num_steps,
            batches=batches(record.step),
            evaluation=evaluation,
            checkpoints=checkpoints,
            observers=Observers(notebook, sample, journal=lambda *event: events.append(event)),
            steering=steering(record) if steering else None,
        )
        return Outcome(state, record, notebook, checkpoints.steps(), events)


def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 10)
    run(tmp_path / "halves", 5)
    second = run(tmp_path / "halves", 10)

    assert second.notebook.losses == {s: whole.notebook.losses[s] for s in range(6, 11)}
    jax.tree.map(np.testing.assert_array_equal, second.state, whole.state)
    for counter in ("step", "tokens", "loss_tokens", "baseline_few_shot_loss"):
        assert getattr(second.record, counter) == getattr(whole.record, counter)
    assert [
        {name: value for name, value in row.items() if name != "time"}
        for row in second.record.evaluations
    ] == [
        {name: value for name, value in row.items() if name != "time"}
        for row in whole.record.evaluations
    ]


def test_evaluates_at_start_every_few_steps_and_at_the_end(tmp_path: Path) -> None:
    outcome = run(tmp_path, 12)
    assert [row["step"] for row in outcome.notebook.evaluations] == [0, 5, 10, 12]
    only_ends = run(tmp_path / "ends", 12, config=config_with(**{"evaluation.every_steps": 0}))
    assert [row["step"] for row in only_ends.notebook.evaluations] == [0, 12]


def test_an_untrained_table_has_the_loss_of_a_uniform_guess(tmp_path: Path) -> None:
    baseline = run(tmp_path, 1).notebook.evaluations[0]
    assert baseline["eval_loss"] == pytest.approx(math.log(16), abs=1e-6)
    assert baseline["perplexity"] == pytest.approx(16, abs=1e-4)
    assert baseline["eval_loss_tokens"] == 2 * 2 * 4  # batches, rows, supervised positions


def test_tokens_count_no_padding(tmp_path: Path) -> None:
    record = run(tmp_path, 3).record
    assert (record.tokens, record.loss_tokens) == (3 * 2 * 6, 3 * 2 * 4)


def test_metrics_are_fetched_after_the_next_step_is_dispatched(tmp_path: Path) -> None:
    events: list[str] = []

    class Watched(BigramProgram):
        def __init__(self) -> None:
            super().__init__()
            inner = self.train_step
            steps = iter(range(1, 99))

            def train_step(state: Any, batch: PackedBatch, control: Any) -> Any:
                events.append(f"dispatch {next(steps)}")
                return inner(state, batch, control)

            self.train_step = train_step

    notebook_write = Notebook.write

    def write(self: Notebook, row: Any) -> None:
        if "loss" in row:
            events.append(f"fetched {row['step']}")
        notebook_write(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Notebook, "write", write)
        run(tmp_path, 4, program=Watched())
    assert events == [
        "dispatch 1",
        "dispatch 2",
        "fetched 1",
        "dispatch 3",
        "fetched 2",
        "dispatch 4",
        "fetched 3",
        "fetched 4",
    ]


def test_an_accidental_transfer_raises(tmp_path: Path) -> None:
    class Careless(BigramProgram):
        def __init__(self) -> None:
            super().__init__()
            self.put_batch = lambda batch: batch  # numpy straight into the compiled step

    only_training = EvalBatches(unseen=[])
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(tmp_path, 1, program=Careless(), evaluation=only_training)


def test_the_row_of_several_steps_is_their_token_weighted_mean(tmp_path: Path) -> None:
    def uneven(step: int) -> Iterator[PackedBatch]:
        for batch in batches_from(step):
            weights = batch.weights.copy()
            weights[0] *= step % 2  # every other batch supervises half as much
            yield batch._replace(weights=weights)
            step += 1

    each = run(tmp_path / "each", 4, batches=uneven).notebook
    pairs = run(
        tmp_path / "pairs", 4, batches=uneven, config=config_with(**{"logging.every_steps": 2})
    ).notebook
    assert list(pairs.losses) == [2, 4]
    assert each.losses[1] == pytest.approx(math.log(16), rel=1e-6)  # of an untrained table
    expected = (each.losses[1] * 4 + each.losses[2] * 8) / 12
    assert pairs.losses[2] == pytest.approx(expected, rel=1e-6)


def test_a_batch_that_is_not_finite_is_skipped_and_named(tmp_path: Path) -> None:
    clean = run(tmp_path / "clean", 9)
    outcome = run(tmp_path / "poisoned", 10, program=BigramProgram(poisoned=[4]))
    assert outcome.record.status == "finished"
    assert outcome.record.skipped_steps == [4]
    (event,) = outcome.events
    assert event[:2] == ("skipped", 4)
    assert event[2]["reason"] == "not_finite"
    assert math.isnan(outcome.notebook.losses[4])
    # Nothing was learnt from it: neither weights nor counters know of it.
    assert outcome.record.tokens == 9 * 2 * 6
    assert outcome.notebook.losses[5] != clean.notebook.losses[5]
    assert [row.get("skipped") for row in outcome.notebook.rows if row["step"] == 4] == [1]


def test_a_skipped_batch_leaves_the_weights_bit_for_bit(tmp_path: Path) -> None:
    def without(step: int) -> Iterator[PackedBatch]:
        yield from (batch_of_step(each) for each in range(step, 99) if each != 3)

    never = run(tmp_path / "never", 9, batches=without)
    skipped = run(tmp_path / "skipped", 10, program=BigramProgram(poisoned=[4]))
    jax.tree.map(np.testing.assert_array_equal, skipped.state.trainable, never.state.trainable)
    jax.tree.map(np.testing.assert_array_equal, skipped.state.opt_state, never.state.opt_state)


def test_a_spike_is_skipped_and_ordinary_batches_are_not(tmp_path: Path) -> None:
    def one_bad(step: int) -> Iterator[PackedBatch]:
        for each in range(step, 99):
            batch = batch_of_step(each)
            wrong = (batch.inputs * 5 + 2) % 16  # what the table has learnt does not hold here
            yield batch._replace(targets=wrong) if each == 60 else batch

    outcome = run(tmp_path, 70, batches=one_bad, program=BigramProgram(learning_rate=0.3))
    assert [(event[1], event[2]["reason"]) for event in outcome.events] == [(61, "spike")]
    with_switch_off = BigramProgram(learning_rate=0.3, deviations=0.0)
    assert run(tmp_path / "off", 70, batches=one_bad, program=with_switch_off).events == []


def test_too_many_skipped_batches_end_the_run_and_name_the_step_to_go_on_from(
    tmp_path: Path,
) -> None:
    poisoned = BigramProgram(poisoned=range(8, 99))
    config = config_with(**{"safety.max_skipped": 3})
    outcome = run(tmp_path, 40, program=poisoned, config=config)
    assert outcome.record.status == "diverged"
    # The fourth is step 11, whose metrics come when step 12 is already on its way.
    assert outcome.record.step == 12
    assert outcome.record.failure.startswith("5 of the last 12 batches had to be skipped")
    assert outcome.steps_kept == [5, 10]
    # A skipped batch has left the weights alone, so what was saved meanwhile is sound.
    again = run(tmp_path, 12)
    assert list(again.notebook.losses) == [11, 12]
    assert again.record.status == "finished"


def test_a_few_skipped_batches_here_and_there_do_not_end_it(tmp_path: Path) -> None:
    poisoned = BigramProgram(poisoned=[5, 50, 160])
    config = config_with(**{"safety.max_skipped": 2, "evaluation.every_steps": 0})
    assert run(tmp_path, 170, program=poisoned, config=config).record.status == "finished"


class NanEvaluation(BigramProgram):
    """From step 10 on, the evaluation alone is not finite."""

    def _eval_step(self, state: Any, batch: PackedBatch) -> LossSums:
        sums = super()._eval_step(state, batch)
        return sums._replace(loss=jnp.where(state.step >= 10, jnp.nan, sums.loss))


def test_weights_whose_evaluation_is_not_finite_are_never_saved(tmp_path: Path) -> None:
    outcome = run(tmp_path, 20, program=NanEvaluation())
    assert outcome.record.status == "diverged"
    assert outcome.record.step == 10
    assert outcome.steps_kept == [5]


def test_a_model_that_is_broken_as_it_came_is_not_trained(tmp_path: Path) -> None:
    class Broken(BigramProgram):
        def _eval_step(self, state: Any, batch: PackedBatch) -> LossSums:
            return super()._eval_step(state, batch)._replace(loss=jnp.float32(jnp.inf))

    outcome = run(tmp_path, 5, program=Broken())
    assert (outcome.record.status, outcome.record.step) == ("diverged", 0)
    assert outcome.steps_kept == []


def test_the_best_of_equals_is_one_whose_checkpoint_is_kept(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 2.0, 2.5, 2.5]
    rows = [{"step": at, "eval_loss": loss} for at, loss in enumerate(losses, start=1)]
    state = shared_program().init_state()
    with Checkpoints(tmp_path, keep_latest=1, keep_best=1) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(state, RunRecord(step=step, evaluations=rows[:step]))
        checkpoints.wait()
        best = RunRecord(step=5, evaluations=rows).best
        assert best is not None
        assert best["step"] in checkpoints.steps()


def scripted(losses: Sequence[float]) -> BigramProgram:
    """A program whose evaluations say these losses, one after another."""
    told, one = iter(losses), jax.device_put(np.float32(1))
    program = BigramProgram()
    program.eval_step = lambda state, batch: LossSums(
        jax.device_put(np.float32(next(told))), one, one
    )
    return program


def test_the_best_step_has_a_checkpoint_even_between_periods(tmp_path: Path) -> None:
    program = scripted([5.0, 4.0, 2.0, 3.0, 3.5, 4.0])  # at steps 0, 2, 4, ... 10
    config = config_with(**{"evaluation.every_steps": 2, "checkpoint.every_steps": 100})
    one_batch = EvalBatches(unseen=[batch_of_step(1000)])
    outcome = run(tmp_path, 10, config=config, program=program, evaluation=one_batch)
    best = outcome.record.best
    assert best is not None
    assert best["step"] == 4
    assert outcome.steps_kept == [4, 10]  # the best, and the end


def test_a_finished_run_does_no_step_and_more_steps_go_on(tmp_path: Path) -> None:
    run(tmp_path, 4)
    again = run(tmp_path, 4)
    assert again.notebook.rows == []
    assert again.record.step == 4
    assert list(run(tmp_path, 6).notebook.losses) == [5, 6]


def test_sampling_may_move_data_and_is_not_counted_as_training(tmp_path: Path) -> None:
    def sample(state: Any) -> list[Sample]:
        answer = int(
            jax.numpy.argmax(jax.numpy.asarray(np.ones(3)) * state.trainable["table"]["a"][0, 0])
        )
        return [Sample("which?", str(answer))]

    outcome = run(tmp_path, 5, sample=sample)
    assert [step for step, _ in outcome.notebook.samples] == [0, 5]
    assert outcome.record.sampling_s > 0


def test_seconds_are_counted_once(tmp_path: Path) -> None:
    record = run(tmp_path, 12).record
    parts = (
        record.compile_s
        + record.train_s
        + record.checkpoint_wait_s
        + record.evaluation_s
        + record.sampling_s
    )
    assert 0 <= record.data_wait_s <= record.train_s
    assert parts <= record.wall_s + 0.05
    assert len(record.step_times_s) == 12


@pytest.mark.parametrize(
    ("losses", "ends_at"),
    [
        ([5.0, 4.0, 3.0, 3.5, 3.2, 2.0], 8),  # two worse in a row
        ([5.0, 4.0, 3.0, 3.0, 3.0, 2.0], 8),  # as good as before is no progress
        ([5.0, 4.0, 4.5, 3.0, 3.5, 2.0, 2.1], 12),  # never two in a row before the end
    ],
)
def test_patience(tmp_path: Path, losses: list[float], ends_at: int) -> None:
    config = config_with(**{"evaluation.every_steps": 2, "evaluation.patience": 2})
    one_batch = EvalBatches(unseen=[batch_of_step(1000)])
    program = scripted(losses)  # at steps 0, 2, 4, ...
    outcome = run(tmp_path, 12, config=config, program=program, evaluation=one_batch)
    assert (outcome.record.status, outcome.record.step) == ("finished", ends_at)
    assert outcome.steps_kept[-1] == ends_at


def test_a_signal_in_the_last_step_does_not_make_a_run_that_never_ends(tmp_path: Path) -> None:
    class AtTheEnd(Steering):
        def word(self, step: int) -> Control:
            return super().word(step)._replace(stop=float(step == 10))

    whole = run(tmp_path / "whole", 10)
    first = run(tmp_path / "run", 10, steering=lambda record: AtTheEnd(config_with(), record))
    assert (first.record.status, first.record.step) == ("interrupted", 10)
    second = run(tmp_path / "run", 10)
    assert second.record.status == "finished"
    assert [row["step"] for row in second.notebook.evaluations] == [10]  # which was owed
    assert second.record.best == {**whole.record.best, "time": second.record.best["time"]}
