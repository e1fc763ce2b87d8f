"""What may change while a run is going, agreed on by all processes inside the step itself.

    process 0   stop 0, scale 0.5, evaluate every 10 …  ─┐
    process 1   stop 1 (it got SIGTERM), nothing else   ─┼─ max, in the step ─► metrics of that step
    process 2   stop 0, nothing else                    ─┘

Every process hands its word to every step, next to the batch. The step takes the largest of each
field over all devices and gives it back with its metrics, which are fetched anyway. So all
processes learn at the same step that one of them must stop, without a collective of their own:
there is no moment at which one waits for a barrier that another will not reach.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coderllm_jax.model.sharding import MESH_AXES

_SILENT = -1.0  # below every value a field can have


class Control(NamedTuple):
    """One process's word on a step, or what all of them agreed on.

    Only process 0's word counts for all fields but `stop`. Periods are in steps.
    """

    stop: float = 0.0
    learning_rate_scale: float = 1.0
    evaluation_every_steps: float = 0.0
    checkpoint_every_steps: float = 0.0
    logging_every_steps: float = 1.0


def put_control(control: Control, mesh: Mesh) -> jax.Array:
    """This process's word on each of its devices: float32 [devices, fields]."""
    if jax.process_index():
        control = Control(control.stop, *(_SILENT,) * (len(control) - 1))
    sharding = NamedSharding(mesh, P(MESH_AXES))
    words = np.tile(np.asarray(control, np.float32), (len(sharding.addressable_devices), 1))
    with jax.transfer_guard("allow"):  # this is the place where it is meant
        return jax.make_array_from_process_local_data(sharding, words, (mesh.size, len(control)))


def agree(words_NC: jax.Array) -> Control:
    """What all processes said together, in scalars; called inside the step."""
    return Control(*jnp.max(words_NC, axis=0))
