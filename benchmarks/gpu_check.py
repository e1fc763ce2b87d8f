"""Whether what is about to be timed is right: the first arm of `benchmarks.gpu`.

    devices      what there is, and how fast it multiplies 8,192-wide bfloat16 matrices
    training     `tiny`, five steps: losses finite and falling; float32 here and on the CPU alike
    attention    fused beside dense attention, outputs and gradients, both against float32;
                 and what each costs, forward and backward, with cuDNN's for comparison

Fused attention is timed in training only if it is right here.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_cells import (
    MODELS,
    Cell,
    Job,
    choose_jax_platform,
    packed_batch,
    run_arm,
    write_result,
)
from coderllm_jax.model.architecture import Architecture

# Of the reference's norm. bfloat16 operands land between 1e-3 and 1e-2.
_TOLERANCE = 2e-2
_SAME_LOSS = 1e-3
_REPEATS = 5
_QUEUED = 10

Pull = Callable[..., Any]


def import_libraries(job: Job) -> None:
    """Our core, no device touched."""
    choose_jax_platform(job)
    from coderllm_jax.training.step import build_program

    assert callable(build_program)


def measure(job: Job) -> dict[str, Any]:
    """All checks; one that fails, or comes too late, does not take the others with it."""
    found: dict[str, Any] = {"devices": describe_devices(job.options["matrix"]), "attention": {}}
    for each in job.options["attention"]:
        cell = Cell(*each)
        found["attention"][cell.name] = _tried(lambda cell=cell: compare_attention(cell))
        write_result(job, found)
    return found | {"training": _tried(train_tiny)}


def _tried(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - told in the table
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds a call of a compiled function, as the device works through a queue of them.

    Waiting for each would count the way there and back: half a millisecond on some machines, a
    quarter of the largest product here.
    """
    import jax

    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        results = [function(*arguments) for _ in range(_QUEUED)]
        jax.block_until_ready(results)
        seconds.append((time.perf_counter() - begin) / _QUEUED)
    return statistics.median(seconds)


def describe_devices(size: int) -> dict[str, Any]:
    """The device's name and the rate of a product of [size, size] matrices."""
    import jax

    device = jax.devices()[0]
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "matrix_flops_per_s": product_rate(size, size, size),
    }


def product_rate(rows: int, inner: int, columns: int) -> float:
    """FLOP/s of a product of [rows, inner] and [inner, columns] in bfloat16."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    shapes = (rows, inner), (inner, columns)
    x, y = (
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)
    )
    return 2 * rows * inner * columns / timed(jax.jit(jnp.matmul), x, y)


# --- training -----------------------------------------------------------------------------------


def train_tiny() -> dict[str, Any]:
    """Five steps of `tiny` on one batch: on this device as a run would, and in float32 twice."""
    import jax

    found = {
        "losses": _tiny_losses(jax.devices()[0], "auto"),
        "losses_float32": _tiny_losses(jax.devices()[0], "float32"),
        "losses_float32_cpu": _tiny_losses(jax.devices("cpu")[0], "float32"),
    }
    apart = np.abs(np.subtract(found["losses_float32"], found["losses_float32_cpu"])).max()
    fine = all(np.isfinite(losses).all() and losses[-1] < losses[0] for losses in found.values())
    return {**found, "apart": float(apart), "ok": bool(fine and apart < _SAME_LOSS)}


def _tiny_losses(device: Any, precision: str) -> list[float]:
    from coderllm_jax.config.training import StepSection, TrainingConfig
    from coderllm_jax.model.load import load_model
    from coderllm_jax.model.sharding import make_mesh, sharding_by_path
    from coderllm_jax.training.step import build_program

    step = dataclasses.replace(StepSection(), precision=precision)
    config = TrainingConfig(model_name="tiny", learning_rate=1e-2, step=step)
    mesh = make_mesh(config.mesh, devices=[device])
    model = load_model("tiny", dtype="float32", cache_dir="", sharding=sharding_by_path(mesh))
    program = build_program(config, model, num_steps=5, mesh=mesh)
    state, batch = program.init_state(), program.put_batch(packed_batch(Cell("small", 4, 128)))
    losses = []
    for _ in range(5):
        state, metrics = program.train_step(state, batch)
        losses.append(float(metrics.loss))
    return losses


# --- attention ----------------------------------------------------------------------------------


def compare_attention(cell: Cell) -> dict[str, Any]:
    """Errors and seconds of each way to attend, on the cell's local and global layers."""
    import jax
    import jax.numpy as jnp

    architecture, batch = MODELS[cell.model], packed_batch(cell)
    where = (jnp.asarray(batch.positions), jnp.asarray(batch.segments))
    pulls = {name: jax.jit(pull) for name, pull in _ways_to_attend(architecture).items()}
    exact = pulls.pop("exact")
    keys = jax.random.split(jax.random.key(1), 4)
    heads = (architecture.num_heads, *(architecture.num_kv_heads,) * 2, architecture.num_heads)
    q, k, v, ct = (
        jax.random.normal(key, (cell.rows, cell.length, number, architecture.head_size))
        for key, number in zip(keys, heads, strict=True)
    )
    # Rounded first, so that all are given the same numbers.
    q, k, v, ct = (x.astype(jnp.bfloat16) for x in (q, k, v, ct))
    found: dict[str, Any] = {}
    for kind, is_global in (("local", False), ("global", True)):
        arguments = (q, k, v, ct, *where, jnp.asarray(is_global))
        wanted = exact(*arguments)
        for name, pull in pulls.items():
            entry = found.setdefault(name, {})
            try:
                errors = [_error(x, y) for x, y in zip(pull(*arguments), wanted, strict=True)]
                entry[kind] = {"errors": errors, "seconds": timed(pull, *arguments)}
            except Exception as error:  # noqa: BLE001 - a kernel that does not compile is a result
                entry[kind] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    for entry in found.values():
        entry["ok"] = all(max(each.get("errors", [np.inf])) < _TOLERANCE for each in entry.values())
    return found


def _error(found: Any, exact: Any) -> float:
    x, y = (np.asarray(each, np.float32) for each in (found, exact))
    error = float(np.linalg.norm(x - y) / np.linalg.norm(y))
    return error if np.isfinite(error) else float("inf")


def _ways_to_attend(architecture: Architecture) -> dict[str, Pull]:
    """name → function(q, k, v, ct, positions, segments, is_global): the output and gradients.

    Which kind of layer it is, is found out while it runs, as in a step's loop over layers.
    """
    import jax
    import jax.numpy as jnp

    from coderllm_jax.model.attention import attend, packed_masks
    from coderllm_jax.model.fused_attention import attend_spans, packed_spans
    from coderllm_jax.model.precision import FLOAT32, PRECISIONS

    short = PRECISIONS["bfloat16"]
    scale, window = architecture.query_scale, architecture.window

    def seen(find: Callable[..., Any], positions: Any, segments: Any, is_global: Any) -> Any:
        both = find(positions, segments, window=window)
        return jax.tree.map(lambda near, far: jnp.where(is_global, far, near), *both)

    def dense(precision: Any) -> Callable[..., Any]:
        def forward(q: Any, k: Any, v: Any, *where: Any) -> Any:
            mask = seen(packed_masks, *where)
            return attend(q, k, v, mask, architecture=architecture, precision=precision)

        return forward

    def fused(q: Any, k: Any, v: Any, *where: Any) -> Any:
        spans = seen(packed_spans, *where)
        return attend_spans(q, k, v, spans, scale=scale, precision=short)

    def cudnn(q: Any, k: Any, v: Any, *where: Any) -> Any:
        mask = seen(packed_masks, *where)[:, None]
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=scale, is_causal=True, implementation="cudnn"
        )

    def pulled(forward: Callable[..., Any], dtype: Any = jnp.bfloat16) -> Pull:
        def both(q: Any, k: Any, v: Any, ct: Any, *where: Any) -> Any:
            q, k, v, ct = (x.astype(dtype) for x in (q, k, v, ct))
            out, pull = jax.vjp(lambda q, k, v: forward(q, k, v, *where), q, k, v)
            return out, *pull(ct.astype(out.dtype))

        return both

    return {
        "exact": pulled(dense(FLOAT32), jnp.float32),
        "fused": pulled(fused),
        "dense": pulled(dense(short)),
        "cudnn": pulled(cudnn),
    }


if __name__ == "__main__":
    run_arm(import_libraries, measure)
