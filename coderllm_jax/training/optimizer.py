"""Optimizers and schedules, by name, from optax. Owns no state and no step."""

from __future__ import annotations

from collections.abc import Callable

import optax

from coderllm_jax.config.training import OptimizerSection


def make_schedule(
    section: OptimizerSection, *, learning_rate: float, num_steps: int
) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then the named shape down to final_fraction."""
    warmup = round(section.warmup_fraction * num_steps)
    rest = max(num_steps - warmup, 1)
    final = learning_rate * section.final_fraction
    shapes: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, final, rest),
        "cosine": lambda: optax.cosine_decay_schedule(
            learning_rate, rest, alpha=section.final_fraction
        ),
        # Warm-up, stable, decay over the last fifth (MiniCPM, Hu et al. 2024, section 4).
        "wsd": lambda: optax.join_schedules(
            [
                optax.constant_schedule(learning_rate),
                optax.linear_schedule(learning_rate, final, max(rest // 5, 1)),
            ],
            [rest - rest // 5],
        ),
    }
    shape = shapes[section.schedule]()
    if not warmup:
        return shape
    # From 1/warmup, not from 0: a first step that changes nothing is a step wasted.
    ramp = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([ramp, shape], [warmup])


def make_optimizer(section: OptimizerSection) -> optax.GradientTransformation:
    """The named optimizer at a learning rate of 1, after clipping by global norm where asked.

    The step multiplies the update by its learning rate: one number for all of them, which a run
    may scale while it is going and which does not count on past a batch that was skipped. Weight
    decay is multiplied with it, as in AdamW, also adafactor's.
    """
    decay, b1, b2, eps = section.weight_decay, section.b1, section.b2, section.eps
    makers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.adamw(1.0, b1=b1, b2=b2, eps=eps, weight_decay=decay),
        "adam": lambda: optax.adam(1.0, b1=b1, b2=b2, eps=eps),
        "lion": lambda: optax.lion(1.0, b1=b1, b2=b2, weight_decay=decay),
        "adafactor": lambda: optax.adafactor(1.0, weight_decay_rate=decay or None),
        "sgd": lambda: optax.sgd(1.0, momentum=b1 or None),
    }
    optimizer = makers[section.name]()
    if not section.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(section.clip_norm), optimizer)
