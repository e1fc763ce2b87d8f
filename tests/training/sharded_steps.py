"""Twenty steps of `tiny` on one device and on three meshes of eight simulated ones.

Run by test_sharded.py in a process of its own, because the number of devices is fixed when jax
starts. Prints one JSON object: by mesh, the losses, where large variables live, and every
collective of the compiled step with its operand shapes.
"""

from __future__ import annotations

import json
import re

import jax
import numpy as np

from coderllm_jax.config import TrainingConfig
from coderllm_jax.model.load import load_model
from coderllm_jax.model.sharding import make_mesh
from coderllm_jax.training.step import build_program
from tests.model.tiny_model import pack, random_sequences

MESHES = {"1x1x1": (1, 1, 1), "8x1x1": (8, 1, 1), "2x4x1": (2, 4, 1), "2x2x2": (2, 2, 2)}
STEPS = 20
LENGTH = 23  # a prime: a collective that carries positions is known by its shape


def batches(num_rows):
    """Packed rows whose supervised positions differ in number from device to device."""
    for step in range(STEPS):
        generator = np.random.default_rng(step)
        lengths = generator.integers(3, 12, size=(num_rows, 2))
        rows = [random_sequences(pair, seed=step * 8 + i) for i, pair in enumerate(lengths)]
        yield pack(rows, length=LENGTH, supervised_from=2)


def run(sizes, *, lora, num_rows=8):
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.batch_size = num_rows
    config.data.sequence_length = LENGTH
    config.learning_rate = 1e-2 if lora else 1e-3
    config.lora.enabled = lora
    config.step.precision = "float32"
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = sizes
    config = TrainingConfig.from_config_dict(config)
    mesh = make_mesh(config.mesh, devices=jax.devices()[: int(np.prod(sizes))])
    model = load_model("tiny", dtype="float32", cache_dir=config.model.cache_dir)
    program = build_program(config, model, num_steps=STEPS, mesh=mesh)
    state = program.init_state()
    hlo = program.compiled_step_text(state, program.put_batch(next(batches(num_rows))))
    placed = {
        jax.tree_util.keystr(path): [list(leaf.shape), list(leaf.sharding.shard_shape(leaf.shape))]
        for path, leaf in jax.tree_util.tree_leaves_with_path((program.frozen, state.trainable))
    }
    losses = []
    for batch in batches(num_rows):
        state, metrics = program.train_step(state, program.put_batch(batch))
        losses.append(float(metrics.loss))
    return {"losses": losses, "placed": placed, "collectives": collectives(hlo)}


def collectives(hlo):
    """[kind, result shape, [devices that take part together]] of every collective in the text."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = []
    for line in hlo.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line)
        if match:
            for shape in re.findall(r"[a-z]\w*\[([\d,]*)\]", match.group(1)):
                size = [int(each) for each in shape.split(",") if each]
                found.append([match.group(2), size, device_groups(line)])
    return found


def device_groups(line):
    """Groups of device numbers, from any of the three ways in which XLA writes them."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line)
    if listed:
        groups = re.findall(r"\{([\d,]*)\}", listed.group(1))
        return [[int(each) for each in group.split(",")] for group in groups]
    iota = re.search(rf"replica_groups=(\[[\d,]+\])<=({_IOTA})", line)
    if iota:
        shape = [int(each) for each in iota.group(1).strip("[]").split(",")]
        return _iota(iota.group(2)).reshape(shape).tolist()
    named = re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(({_IOTA})\))? \{{([^}}]*)\}}", line
    )
    if not named:
        raise ValueError(f"cannot tell which devices take part: {line}")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
    order = _iota(named.group(2)) if named.group(2) else np.arange(np.prod(list(sizes.values())))
    crossed = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", named.group(3))]
    devices = order.reshape(list(sizes.values()))
    moved = np.moveaxis(devices, crossed, range(-len(crossed), 0))
    return moved.reshape(-1, np.prod([devices.shape[axis] for axis in crossed])).tolist()


_IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"


def _iota(text):
    """XLA's `[2,4]T(1,0)`: 0, 1, 2 … in that shape, transposed, flat."""
    dims, *order = ([int(n) for n in part.split(",")] for part in re.findall(r"[\d,]+", text))
    devices = np.arange(np.prod(dims)).reshape(dims)
    return (devices.transpose(order[0]) if order else devices).ravel()


if __name__ == "__main__":
    results = {name: run(sizes, lora=True) for name, sizes in MESHES.items()}
    results["4 rows 8x1x1"] = run(MESHES["8x1x1"], lora=True, num_rows=4)
    results["4 rows 1x1x1"] = run(MESHES["1x1x1"], lora=True, num_rows=4)
    results["full 1x1x1"] = run(MESHES["1x1x1"], lora=False)
    results["full 2x2x2"] = run(MESHES["2x2x2"], lora=False)
    print(json.dumps(results))
