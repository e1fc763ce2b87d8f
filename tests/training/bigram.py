"""A `Program` small enough to reason about: next token from the current one, by a table [V, V].

It has the real one's interface, donates its state and runs under `jit`, so the loop cannot tell.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from coderllm_jax.model.loss import LossSums
from coderllm_jax.model.sharding import MESH_AXES
from coderllm_jax.records import PackedBatch
from coderllm_jax.training import guard
from coderllm_jax.training.control import Control, agree, put_control

VOCABULARY = 16


class TrainState(NamedTuple):
    step: jax.Array
    trainable: dict[str, Any]
    opt_state: Any
    recent: guard.Recent


class StepMetrics(NamedTuple):
    loss: jax.Array
    loss_tokens: jax.Array
    tokens: jax.Array
    grad_norm: jax.Array
    loss_scale: jax.Array
    learning_rate: jax.Array
    verdict: jax.Array
    control: Control


class BigramProgram:
    """`poisoned`: the loss of these steps is NaN."""

    flops_per_step = 1e6

    def __init__(
        self, learning_rate: float = 0.1, poisoned: Sequence[int] = (), deviations: float = 6.0
    ) -> None:
        self._optimizer = optax.adam(learning_rate)
        self._learning_rate = learning_rate
        self._deviations = deviations
        self._poisoned = jnp.array([-1, *poisoned])
        self.train_step = jax.jit(self._train_step, donate_argnums=0)
        self.eval_step = jax.jit(self._eval_step)
        self.put_batch = jax.device_put
        self.put_control = functools.partial(
            put_control, mesh=jax.make_mesh((1, 1, 1), MESH_AXES, (AxisType.Auto,) * 3)
        )

    @property
    def abstract_state(self) -> TrainState:
        return jax.eval_shape(self.init_state)

    def init_state(self) -> TrainState:
        table = {"table": {"a": jnp.zeros((VOCABULARY, VOCABULARY))}}
        return TrainState(jnp.int32(0), table, self._optimizer.init(table), guard.nothing_yet())

    def _logits(self, trainable: dict[str, Any], batch: PackedBatch) -> jax.Array:
        return trainable["table"]["a"][batch.inputs]

    def _loss(self, trainable: dict[str, Any], batch: PackedBatch) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self._logits(trainable, batch), batch.targets
        )
        return (losses * batch.weights).sum()

    def _train_step(
        self, state: TrainState, batch: PackedBatch, words_NC: jax.Array
    ) -> tuple[TrainState, StepMetrics]:
        count = batch.weights.sum()
        loss, grads = jax.value_and_grad(lambda t: self._loss(t, batch) / count)(state.trainable)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        step = state.step + 1
        loss = jnp.where((step == self._poisoned).any(), jnp.nan, loss)
        control, grad_norm = agree(words_NC), optax.tree.norm(grads)
        verdict = guard.judge(state.recent, loss, grad_norm, deviations=self._deviations)
        updates = jax.tree.map(lambda u: control.learning_rate_scale * u, updates)
        new = TrainState(
            step,
            optax.apply_updates(state.trainable, updates),
            opt_state,
            guard.remember(state.recent, loss, grad_norm, verdict == 0),
        )
        kept = jax.tree.map(lambda a, b: jnp.where(verdict == 0, a, b), new, state)
        metrics = StepMetrics(
            loss=loss,
            loss_tokens=count,
            tokens=(batch.segments > 0).sum(),
            grad_norm=grad_norm,
            loss_scale=jnp.float32(1),
            learning_rate=self._learning_rate * control.learning_rate_scale,
            verdict=verdict,
            control=control,
        )
        return kept._replace(step=step), metrics

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
