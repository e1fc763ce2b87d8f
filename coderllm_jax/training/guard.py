"""Which batches are not learnt from: decided inside the step, before anything has changed.

A gradient that is not finite would make every weight so, for good. A spike (one damaged batch, a
bad stretch of text) moves the weights far for nothing. Either way the step gives back the state it
was given, and says why: `accepted`, `not_finite`, `spike`.

    recent losses, gradient norms  [64] ── mean + 6 standard deviations ──► what is still usual

The rule is OLMo's SkipStepOptimizer (github.com/allenai/OLMo-core): loss and gradient norm against
mean and deviation of the last steps. A floor beside the deviation keeps a run whose loss hardly
scatters from calling every wobble a spike. Rejected values are not remembered, or a row of spikes
would become the usual.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

WINDOW = 64
# Fewer steps than these say nothing about what is usual: a run begins with its largest losses.
_ENOUGH = 16
# Below these multiples of the mean nothing is a spike. Gradient norms double without harm.
_LOSS_FLOOR, _NORM_FLOOR = 0.5, 2.0

REASONS = ("accepted", "not_finite", "spike")


class Recent(NamedTuple):
    """The last accepted steps: a part of the state, so that a resume judges as it would have."""

    losses: jax.Array  # float32 [64], a ring
    grad_norms: jax.Array  # float32 [64]
    num_accepted: jax.Array  # int32 []


def nothing_yet() -> Recent:
    """The beginning of a run."""
    return Recent(jnp.zeros(WINDOW), jnp.zeros(WINDOW), jnp.zeros((), jnp.int32))


def judge(recent: Recent, loss: jax.Array, grad_norm: jax.Array, *, deviations: float) -> jax.Array:
    """int32 [], an index of REASONS. `deviations` 0: only what is not finite is refused."""
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    spike = jnp.zeros((), bool)
    if deviations:
        spike = (recent.num_accepted >= _ENOUGH) & (
            _exceeds(loss, recent.losses, recent.num_accepted, deviations, floor=_LOSS_FLOOR)
            | _exceeds(
                grad_norm, recent.grad_norms, recent.num_accepted, deviations, floor=_NORM_FLOOR
            )
        )
    return jnp.where(finite, jnp.where(spike, 2, 0), 1).astype(jnp.int32)


def remember(recent: Recent, loss: jax.Array, grad_norm: jax.Array, accepted: jax.Array) -> Recent:
    """`recent` with this step in it, where it was accepted."""
    place = recent.num_accepted % WINDOW
    return Recent(
        recent.losses.at[place].set(jnp.where(accepted, loss, recent.losses[place])),
        recent.grad_norms.at[place].set(jnp.where(accepted, grad_norm, recent.grad_norms[place])),
        recent.num_accepted + accepted.astype(jnp.int32),
    )


def _exceeds(
    value: jax.Array, ring: jax.Array, count: jax.Array, deviations: float, *, floor: float
) -> jax.Array:
    known = jnp.arange(WINDOW) < count
    number = jnp.maximum(jnp.minimum(count, WINDOW), 1)
    mean = jnp.sum(ring, where=known) / number
    deviation = jnp.sqrt(jnp.sum((ring - mean) ** 2, where=known) / number)
    return value > mean + jnp.maximum(deviations * deviation, floor * mean)
