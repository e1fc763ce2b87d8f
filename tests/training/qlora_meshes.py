"""Four steps of `tiny` on an nf4 base, on one device and on meshes of eight simulated ones.

Run by test_qlora.py in a process of its own, as `sharded_steps` is by test_sharded.py. The model
is loaded sharded and quantized. Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import re

import jax
import numpy as np

from coderllm_jax.config import TrainingConfig
from coderllm_jax.model.load import load_model
from coderllm_jax.model.quantization import Quantized
from coderllm_jax.model.sharding import make_mesh, sharding_by_path
from coderllm_jax.training.step import build_program, lora_base
from tests.training.sharded_steps import LENGTH, MESHES, batches, collectives

STEPS = 4


def run(sizes):
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.batch_size = 8
    config.data.sequence_length = LENGTH
    config.learning_rate = 1e-2
    config.lora.base = "nf4"
    config.lora.rank = 4
    config.step.precision = "float32"
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = sizes
    config = TrainingConfig.from_config_dict(config)
    mesh = make_mesh(config.mesh, devices=jax.devices()[: int(np.prod(sizes))])
    model = load_model(
        "tiny",
        dtype="float32",
        cache_dir=config.model.cache_dir,
        sharding=sharding_by_path(mesh),
        base=lora_base(config),
    )
    program = build_program(config, model, num_steps=STEPS, mesh=mesh)
    kernels = {
        name: leaf for name, leaf in program.frozen["blocks"].items() if isinstance(leaf, Quantized)
    }
    digest = hashlib.sha256()
    for name in sorted(kernels):
        for part in (kernels[name].codes, kernels[name].scales):
            digest.update(np.asarray(part).tobytes())
    state = program.init_state()
    rows = list(batches(8))[:STEPS]
    hlo = program.compiled_step_text(state, program.put_batch(rows[0]))
    losses = []
    for batch in rows:
        state, metrics = program.train_step(state, program.put_batch(batch))
        losses.append(float(metrics.loss))
    return {
        "losses": losses,
        "sha256": digest.hexdigest(),
        "codes": {
            name: [list(leaf.codes.shape), list(leaf.codes.sharding.shard_shape(leaf.codes.shape))]
            for name, leaf in kernels.items()
        },
        "collectives": collectives(hlo),
        "gathered_floats": [
            [int(size) for size in found.split(",")]
            for found in re.findall(r"= (?:f32|bf16)\[([\d,]+)\]\S* all-gather", hlo)
        ],
    }


if __name__ == "__main__":
    names = ("1x1x1", "2x4x1", "2x2x2")
    print(json.dumps({name: run(MESHES[name]) for name in names} | {"length": LENGTH}))
