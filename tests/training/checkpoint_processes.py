"""What test_integrity.py starts as processes of their own.

save_until_killed FOLDER                 steps 1, 2, 3 … as fast as it can, keeping two
save_on_eight FOLDER                     eight simulated devices, and back onto four and one
be_one_of_two FOLDER ADDRESS INDEX       two processes that save, find damage and go on
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coderllm_jax.errors import RunError
from coderllm_jax.training import checkpoint
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.record import RunRecord

SIZE = 200_000


def state_of(step):
    """Every number tells the step, so that a mixture of two steps is seen."""
    return {"a": np.full(SIZE, step, np.float32), "b": {"c": np.full((8, 3), step, np.int32)}}


def values_of(step):
    """Incompressible, and different in every step."""
    return np.random.default_rng(step).standard_normal((16, 24)).astype(np.float32)


def save_until_killed(folder):
    with Checkpoints(folder, keep_latest=2, keep_best=1) as checkpoints:
        for step in range(1, 10**6):
            losses = [{"step": step, "eval_loss": 1 / (step % 5 + 1)}]
            checkpoints.save(
                jax.tree.map(jnp.asarray, state_of(step)),
                RunRecord(step=step, evaluations=losses),
            )
            # The save before this one is finished, or `save` would not have returned.
            print(step - 1, flush=True)


def save_on_eight(folder):
    def placed(devices, spec):
        return NamedSharding(Mesh(np.array(devices), ("fsdp",)), spec)

    def like(sharding):
        return {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=sharding)}

    eight = placed(jax.devices(), P("fsdp"))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save({"w": jax.device_put(values_of(1), eight)}, RunRecord(step=1))
        checkpoints.wait()
        for num, spec in ((4, P(None, "fsdp")), (1, P())):
            sharding = placed(jax.devices()[:num], spec)
            state, _ = checkpoints.restore_latest(like(sharding))
            assert state["w"].sharding == sharding
            np.testing.assert_array_equal(state["w"], values_of(1))


def be_one_of_two(folder, address, index):
    """Steps 1 to 3; process 0 damages 3; both must go on from 2, then both refuse step 4."""
    jax.distributed.initialize(address, 2, int(index))
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    shape = values_of(1).shape

    def state_at(step):
        return {"w": jax.make_array_from_callback(shape, sharding, values_of(step).__getitem__)}

    like = {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)}
    notes = []
    with Checkpoints(folder, keep_latest=3, note=notes.append) as checkpoints:
        for step in (1, 2, 3):
            assert checkpoints.save(state_at(step), RunRecord(step=step))
        checkpoints.wait()
        steps_before = checkpoints.steps()
        if jax.process_index() == 0:
            path = max((folder / "3/state").rglob("d/*"), key=lambda path: path.stat().st_size)
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        state, record = checkpoints.restore_latest(like)
        for shard in state["w"].addressable_shards:
            np.testing.assert_array_equal(shard.data, values_of(record.step)[shard.index])
        if jax.process_index() == 0:  # the other process must hear of it
            checkpoint.free_bytes = lambda path: 0
        was_saved = checkpoints.save(state_at(4), RunRecord(step=4))
        refusal = ""
        try:
            checkpoints.wait()
        except RunError as error:
            refusal = str(error)
        print(
            json.dumps(
                {
                    "before": steps_before,
                    "restored": record.step,
                    "after": checkpoints.steps(),
                    "set_aside": [each.step for each in checkpoints.set_aside],
                    "was_saved": was_saved,
                    "refusal": refusal,
                    "notes": notes,
                }
            )
        )


def lose_a_peer(folder, address, index):
    jax.config.update("jax_enable_recoverability", True)
    jax.distributed.initialize(address, 2, int(index))
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    state = {"w": jax.make_array_from_callback((16, 24), sharding, values_of(1).__getitem__)}
    with contextlib.suppress(ZeroDivisionError), Checkpoints(folder) as checkpoints:
        checkpoints.save(state, RunRecord(step=1))
        checkpoints.wait()
        checkpoints.save(state, RunRecord(step=2))
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ZeroDivisionError
    print("left", flush=True)
    os._exit(0)  # as a run does whose peer is gone: JAX's farewell would wait for it


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
