"""Our training step as an arm of `benchmarks.gpu`: random weights, everything else as in a run.

Options are fields of the configuration's section `step`, and what `benchmarks.gpu_variants` tries:

    base      the format of the frozen kernels, as `lora.base`
    head      fields of `loss.HeadOptions`, in place of what the device would choose
    blocks    `fused_attention.Blocks`, a list of four numbers for each kernel
    profile   whether two more steps are traced, and their kernels' seconds noted
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
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
    write_result,
)
from benchmarks.gpu_kernels import kernel_seconds

_OURS = ("base", "head", "blocks", "profile")


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
    from coderllm_jax.config.training import DataSection, LoraSection, StepSection, TrainingConfig

    # On a CPU `auto` would not take the path that a GPU takes.
    options = {"precision": "bfloat16" if job.platform == "cpu" else "auto", **job.options}
    for name in _OURS:
        options.pop(name, None)
    return TrainingConfig(
        model_name="random",
        batch_size=job.cell.rows,
        data=dataclasses.replace(DataSection(), sequence_length=job.cell.length),
        lora=dataclasses.replace(
            LoraSection(),
            rank=job.rank,
            alpha=float(job.rank),
            base=job.options.get("base", "float"),
        ),
        step=dataclasses.replace(StepSection(), **options),
    )


def set_what_no_run_can(options: dict[str, Any]) -> None:
    """Puts the tried head and blocks in the place of the device's; before a program is built."""
    from coderllm_jax.model import fused_attention
    from coderllm_jax.training import step

    if "blocks" in options:
        cuts = (fused_attention.Cut(*cut) for cut in options["blocks"])
        fused_attention.BLOCKS = fused_attention.Blocks(*cuts)
    if "head" in options:
        original = step.HeadOptions
        step.HeadOptions = lambda **fields: original(**{**fields, **options["head"]})


def measure(job: Job) -> Timing:
    """Builds the program that a run would build, and times its steps."""
    started = time.perf_counter()
    from coderllm_jax.data.tokenizer import ByteTokenizer
    from coderllm_jax.model.load import LoadedModel
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training.step import build_program

    set_what_no_run_can(job.options)
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

    notes = program.description
    timing = time_steps(step, job, started=started, peak_bytes=peak_bytes, notes=notes)
    if job.options.get("profile"):
        write_result(job, timing._asdict())
        timing = timing._replace(notes={**notes, "profile": profiled(step)})
    return timing


def profiled(step: Any) -> dict[str, Any]:
    """Where two steps' time goes; why not, where the device does not tell."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        try:
            with jax.profiler.trace(folder):
                for _ in range(2):
                    step()
            return kernel_seconds(folder)
        except Exception as error:  # noqa: BLE001 - the figures do not hang on it
            return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


if __name__ == "__main__":
    run_arm(import_libraries, measure)
