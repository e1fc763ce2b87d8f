"""A `Program` small enough to reason about: next token from the current one, by a table [V, V].

It has the real one's interface, donates its state and runs under `jit`, so the loop cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coderllm_jax.model.loss import LossSums
from coderllm_jax.records import PackedBatch

VOCABULARY = 16


class TrainState(NamedTuple):
    step: jax.Array
    trainable: dict[str, Any]
    opt_state: Any


class StepMetrics(NamedTuple):
    loss: jax.Array
    loss_tokens: jax.Array
    tokens: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array


class BigramProgram:
    """`poison_step`: the loss of that step is NaN, as a run's that has diverged."""

    flops_per_step = 1e6

    def __init__(self, learning_rate: float = 0.1, poison_step: int = -1) -> None:
        self._optimizer = optax.adam(learning_rate)
        self._learning_rate = learning_rate
        self._poison_step = poison_step
        self.train_step = jax.jit(self._train_step, donate_argnums=0)
        self.eval_step = jax.jit(self._eval_step)
        self.put_batch = jax.device_put

    def init_state(self) -> TrainState:
        table = {"table": {"a": jnp.zeros((VOCABULARY, VOCABULARY))}}
        return TrainState(jnp.int32(0), table, self._optimizer.init(table))

    def _logits(self, trainable: dict[str, Any], batch: PackedBatch) -> jax.Array:
        return trainable["table"]["a"][batch.inputs]

    def _loss(self, trainable: dict[str, Any], batch: PackedBatch) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self._logits(trainable, batch), batch.targets
        )
        return (losses * batch.weights).sum()

    def _train_step(self, state: TrainState, batch: PackedBatch) -> tuple[TrainState, StepMetrics]:
        count = batch.weights.sum()
        loss, grads = jax.value_and_grad(lambda t: self._loss(t, batch) / count)(state.trainable)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        step = state.step + 1
        metrics = StepMetrics(
            loss=jnp.where(step == self._poison_step, jnp.nan, loss),
            loss_tokens=count,
            tokens=(batch.segments > 0).sum(),
            grad_norm=optax.tree.norm(grads),
            learning_rate=jnp.float32(self._learning_rate),
        )
        return TrainState(step, optax.apply_updates(state.trainable, updates), opt_state), metrics

    def _eval_step(self, state: TrainState, batch: PackedBatch) -> LossSums:
        hits = self._logits(state.trainable, batch).argmax(-1) == batch.targets
        return LossSums(
            loss=self._loss(state.trainable, batch),
            correct=(hits * batch.weights).sum(),
            weight=batch.weights.sum(),
        )


def batch_of_step(step: int) -> PackedBatch:
    """A batch [2, 8] that is a function of the step; the last two positions are padding."""
    rng = np.random.default_rng([7, step])
    inputs = rng.integers(0, VOCABULARY, (2, 8), np.int32)
    live = np.arange(8) < 6
    return PackedBatch(
        inputs=inputs,
        targets=(inputs * 3 + 1) % VOCABULARY,
        weights=np.broadcast_to(live & (np.arange(8) > 1), (2, 8)).astype(np.float32),
        positions=np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8)),
        segments=np.broadcast_to(live.astype(np.int32), (2, 8)),
    )


def batches_from(step: int) -> Iterator[PackedBatch]:
    """What the pipeline gives to a run that goes on from `step`."""
    while True:
        yield batch_of_step(step)
        step += 1
