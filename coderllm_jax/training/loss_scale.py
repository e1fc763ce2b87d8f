"""Dynamic loss scaling, for float16 alone: small gradients are lifted over its smallest number.

float16 holds 6e-8 to 65,504. Backward's cotangents pass through it as operands, so the loss is
multiplied by a scale first, and the gradients, float32 by then, are divided by it:

    a gradient is not finite   the batch is skipped (see guard), the scale is halved
    500 finite steps in a row  the scale is doubled

The scale lies beside the optimizer's state, so that a resume goes on with it; runs of other
precisions have none. What overflows in the forward pass no scale can mend: the run then ends by
`safety.max_skipped`.

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Losses are summed over tokens here, not averaged, so the usual 65,536 is far too much: backward of
# Gemma 3 270M overflows at 512, and its gradients at 1 and at 64 agree to five digits.
_FIRST_SCALE = 64.0
_STEPS_UNTIL_DOUBLED = 500
_SMALLEST, _LARGEST = 1.0, 2.0**24


class Scaled(NamedTuple):
    """An optimizer's state, the next step's loss scale, and finite steps since it changed."""

    opt_state: Any
    scale: jax.Array  # float32 []
    num_finite: jax.Array  # int32 []


def start_scaling(opt_state: Any) -> Scaled:
    """The beginning of a float16 run."""
    return Scaled(opt_state, jnp.float32(_FIRST_SCALE), jnp.int32(0))


def split_scale(opt_state: Any) -> tuple[Any, jax.Array]:
    """The optimizer's own state and the loss scale, which is 1 where nothing is scaled."""
    if isinstance(opt_state, Scaled):
        return opt_state.opt_state, opt_state.scale
    return opt_state, jnp.float32(1.0)


def adjust_scale(before: Any, opt_state: Any, *, is_finite: jax.Array) -> Any:
    """`opt_state` with the next step's scale beside it, where `before` had one."""
    if not isinstance(before, Scaled):
        return opt_state
    num_finite = jnp.where(is_finite, before.num_finite + 1, 0)
    is_due = num_finite >= _STEPS_UNTIL_DOUBLED
    factor = jnp.where(is_finite, jnp.where(is_due, 2.0, 1.0), 0.5)
    scale = jnp.clip(before.scale * factor, _SMALLEST, _LARGEST)
    return Scaled(opt_state, scale, jnp.where(is_due, 0, num_finite))
