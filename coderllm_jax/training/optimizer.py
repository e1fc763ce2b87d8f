"""Optimizers and schedules, by name, from optax. Owns no state and no step."""

from __future__ import annotations

from collections.abc import Callable

import optax

from coderllm_jax.config.training import OptimizerSection

Schedule = Callable[[int], float]


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


def make_optimizer(
    section: OptimizerSection, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The named optimizer with its schedule, after clipping by global norm where asked."""
    decay, b1, b2, eps = section.weight_decay, section.b1, section.b2, section.eps
    makers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=decay),
        "adam": lambda: optax.adam(schedule, b1=b1, b2=b2, eps=eps),
        "lion": lambda: optax.lion(schedule, b1=b1, b2=b2, weight_decay=decay),
        "adafactor": lambda: optax.adafactor(schedule, weight_decay_rate=decay or None),
        "sgd": lambda: optax.sgd(schedule, momentum=b1 or None),
    }
    optimizer = makers[section.name]()
    if not section.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(section.clip_norm), optimizer)
