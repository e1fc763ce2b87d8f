"""Our training step as an arm of `benchmarks.gpu`: random weights, everything else as in a run.

Options are fields of the configuration's section `step`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from benchmarks.gpu_cells import (
    MODELS,
    Job,
    Timing,
    choose_jax_platform,
    packed_batch,
    run_arm,
    time_steps,
)


def import_libraries(job: Job) -> None:
    """What a training process has imported, no device touched."""
    choose_jax_platform(job)
    from coderllm_jax.training.step import build_program

    assert callable(build_program)


def random_weights(architecture: Any, *, mesh: Any, dtype: Any = "bfloat16") -> dict[str, Any]:
    """The tree of `model.architecture`, drawn on the device, at no more memory than it takes."""
    import jax
    import jax.numpy as jnp

    from coderllm_jax.model.sharding import tree_shardings
    from coderllm_jax.model.weights import leaf_dtype, leaf_shapes, to_tree

    shapes = leaf_shapes(architecture)

    def draw(path: str, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
        format_ = leaf_dtype(path, dtype)
        if path.endswith("norm"):
            return jnp.zeros(shape, format_)
        parts = math.gcd(shape[0], 64) if path == "embedding" else shape[0]
        part = (shape[0] // parts, *shape[1:])
        # A layer's fan-in is near enough its width; what matters is that nothing overflows.
        scale = 1 / math.sqrt(max(architecture.width, architecture.num_heads))

        def one(key: jax.Array) -> jax.Array:
            return (jax.random.normal(key, part, jnp.float32) * scale).astype(format_)

        return jax.lax.map(one, jax.random.split(key, parts)).reshape(shape)

    def tree() -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(0, impl="rbg"), len(shapes))
        return to_tree(
            {
                path: draw(path, shape, key)
                for (path, shape), key in zip(shapes.items(), keys, strict=True)
            }
        )

    return jax.jit(tree, out_shardings=tree_shardings(jax.eval_shape(tree), mesh))()


def peak_bytes() -> int | None:
    """The most that the device has held for this process."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


def training_config(job: Job) -> Any:
    """The default configuration with the cell's shape, the job's rank and the arm's options."""
    from coderllm_jax.config.training import LoraSection, StepSection, TrainingConfig

    # On a CPU `auto` would not take the path that a GPU takes.
    options = {"precision": "bfloat16" if job.platform == "cpu" else "auto", **job.options}
    return TrainingConfig(
        model_name="random",
        batch_size=job.cell.rows,
        lora=dataclasses.replace(LoraSection(), rank=job.rank, alpha=float(job.rank)),
        step=dataclasses.replace(StepSection(), **options),
    )


def measure(job: Job) -> Timing:
    """Builds the program that a run would build, and times its steps."""
    started = time.perf_counter()
    from coderllm_jax.data.tokenizer import ByteTokenizer
    from coderllm_jax.model.load import LoadedModel
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training.step import build_program

    config, architecture = training_config(job), MODELS[job.cell.model]
    mesh = make_mesh(config.mesh)
    model = LoadedModel(
        name="random",
        architecture=architecture,
        weights=random_weights(architecture, mesh=mesh),
        tokenizer=ByteTokenizer(),
        source="random",
        sha256="",
    )
    program = build_program(config, model, num_steps=100, mesh=mesh)
    del model
    state = program.init_state()
    batch = program.put_batch(packed_batch(job.cell))

    def step() -> float:
        nonlocal state
        state, metrics = program.train_step(state, batch)
        return float(metrics.loss)

    return time_steps(step, job, started=started, peak_bytes=peak_bytes, notes=program.description)


if __name__ == "__main__":
    run_arm(import_libraries, measure)
