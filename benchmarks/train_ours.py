"""Our step as an arm of `benchmarks.train_step`: the default configuration, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Job, OnStep, Train, run_job
from coderllm_jax.records import PackedBatch


def import_libraries() -> None:
    """What a training process has imported before it loads anything."""
    import jax

    from coderllm_jax.training.step import build_program

    jax.devices()
    assert callable(build_program)


def load(job: Job) -> Train:
    """The program that a run with default options builds."""
    from coderllm_jax.config.training import TrainingConfig
    from coderllm_jax.model.load import load_model
    from coderllm_jax.model.precision import resolve_precision
    from coderllm_jax.model.sharding import make_mesh, sharding_by_path
    from coderllm_jax.training.step import build_program

    config = TrainingConfig(model_name=job.model_name)
    mesh = make_mesh(config.mesh)
    precision = resolve_precision(config.step.precision, mesh.devices.flat[0].platform)
    model = load_model(
        config.model_name,
        dtype="bfloat16" if precision.weights == "bfloat16" else "float32",
        cache_dir=config.model.cache_dir,
        sharding=sharding_by_path(mesh),
    )
    program = build_program(config, model, num_steps=100, mesh=mesh)
    del model

    def train(batches: Sequence[PackedBatch], on_step: OnStep) -> None:
        state = program.init_state()
        for batch in batches:
            state, metrics = program.train_step(state, program.put_batch(batch))
            # A run fetches a step's loss one step later; waiting for it here costs a little.
            on_step(float(metrics.loss))

    return train


if __name__ == "__main__":
    run_job(import_libraries, load)
