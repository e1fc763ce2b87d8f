"""What `benchmarks.quantization` measures, each in a process of its own.

    rows FOLDER          batch.npz: four packed rows of the quick-start domain, as a run makes them;
                         training.npz: as many of the same in other batches
    adapters FOLDER      start.npz, later.npz: adapters before and after training on training.npz
    base NAME FOLDER     loads the model on that base: memory, then gradients and steps
    activations FOLDER   the largest number at every place of the float forward pass
    float16 FOLDER       a float16 run's first steps, and the same with float16 sums

Memory is the kernel's high-water mark of the resident set, which is reset before a part begins.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.train_inputs import load_batches, packed_batches, save_batches

if TYPE_CHECKING:
    from coderllm_jax.model.forward import ForwardOptions
    from coderllm_jax.model.load import LoadedModel
    from coderllm_jax.model.rounded_file import RoundedKernels
    from coderllm_jax.model.weights import Dtype

MODEL = "gemma3_270m"
# Each arm's lora section.
ARMS: dict[str, dict[str, Any]] = {
    "float": {"base": "float"},
    "int8": {"base": "int8"},
    "int4": {"base": "int4"},
    "nf4": {"base": "nf4"},
    "nf4-calibrated": {"base": "nf4", "base_rounding": "calibrated"},
    "card": {"base": "nf4", "base_rounding": "calibrated", "base_int8": ("key", "value")},
}
_ROWS = "data/training"
_STATUS = Path("/proc/self/status")
NUM_TRAINING = 16


def write_rows(folder: Path) -> dict[str, Any]:
    """The batch in the middle of an epoch, ordered by supervised tokens, and some beside it."""
    from coderllm_jax.config.training import ModelSection, TrainingConfig
    from coderllm_jax.data.sources import read_examples
    from coderllm_jax.data.tokenized import tokenize_examples
    from coderllm_jax.model.load import load_model

    config = TrainingConfig()
    model = load_model(MODEL, dtype="bfloat16", cache_dir=ModelSection().cache_dir)
    found, report = read_examples(_ROWS)
    length = config.data.sequence_length
    examples = tokenize_examples(
        model.tokenizer, found, sequence_length=length, on_long_example="drop"
    ).examples
    size = {"batch_size": config.batch_size, "sequence_length": length}
    batches = packed_batches(examples, num_batches=NUM_TRAINING + 1, **size)
    save_batches(folder / "batch.npz", [batches.pop(NUM_TRAINING // 2)])
    save_batches(folder / "training.npz", batches)
    return {"rows": len(examples), "data_sha256": report.sha256, "model": model.source}


class Memory:
    """Resident bytes when it begins, the most until it ends, and what is left then."""

    def __enter__(self) -> Memory:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        self.peak_bytes = _resident("VmHWM") - self._before
        self.kept_bytes = _resident("VmRSS") - self._before


def _resident(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _config(arm: str, **step: str) -> Any:
    """The default run's on an arm's base, with plain descent at a rate of 1.

    A step is then the gradient.
    """
    from coderllm_jax.config.training import (
        LoraSection,
        OptimizerSection,
        StepSection,
        TrainingConfig,
    )

    return TrainingConfig(
        model_name=MODEL,
        learning_rate=1.0,
        lora=dataclasses.replace(LoraSection(), **ARMS[arm]),
        optimizer=dataclasses.replace(
            OptimizerSection(),
            name="sgd",
            b1=0.0,
            clip_norm=0.0,
            schedule="constant",
            warmup_fraction=0.0,
        ),
        step=dataclasses.replace(StepSection(), **step),
    )


def _load(config: Any, mesh: Any, kernels: RoundedKernels | None = None) -> Any:
    from coderllm_jax.model.load import load_model
    from coderllm_jax.model.precision import resolve_precision
    from coderllm_jax.model.sharding import sharding_by_path
    from coderllm_jax.training.step import lora_base

    precision = resolve_precision(config.step.precision, mesh.devices.flat[0].platform)
    return load_model(
        config.model_name,
        dtype="bfloat16" if precision.weights == "bfloat16" else "float32",
        cache_dir=config.model.cache_dir,
        sharding=sharding_by_path(mesh),
        base=lora_base(config),
        kernels=kernels,
    )


def _round(config: Any, folder: Path) -> RoundedKernels:
    """The arm's kernels, rounded on the batches that no gradient is compared on."""
    import jax

    from coderllm_jax.model.calibration import round_layers
    from coderllm_jax.model.load import open_model
    from coderllm_jax.model.precision import resolve_precision
    from coderllm_jax.model.rounded_file import open_kernels, write_kernels
    from coderllm_jax.training.step import lora_base

    opened = open_model(MODEL, dtype="bfloat16", cache_dir=config.model.cache_dir)
    base = lora_base(config)
    layers = round_layers(
        opened,
        load_batches(folder / "training.npz"),
        base=base,
        precision=resolve_precision(config.step.precision, jax.default_backend()),
    )
    file = folder / "kernels.safetensors"
    origin = {"base": base.base, "base_int8": list(base.int8), "model_sha256": opened.sha256}
    write_kernels(file, layers, opened.architecture, base=base, origin=origin)
    return open_kernels(file)


def load_float(precision: str, *, dtype: Dtype | None = None) -> tuple[LoadedModel, ForwardOptions]:
    """The float model on one device, and how the default run goes through it."""
    import jax

    from coderllm_jax.config.training import ModelSection
    from coderllm_jax.model.forward import ForwardOptions
    from coderllm_jax.model.load import load_model
    from coderllm_jax.model.precision import resolve_precision

    chosen = resolve_precision(precision, jax.default_backend())
    kept: Dtype = "bfloat16" if chosen.weights == "bfloat16" else "float32"
    model = load_model(MODEL, dtype=dtype or kept, cache_dir=ModelSection().cache_dir)
    return model, ForwardOptions(precision=chosen, remat="projections")


def measure_base(arm: str, folder: Path, *, num_steps: int) -> dict[str, Any]:
    """Loads, takes a gradient at the start and one further on (to FOLDER), and times steps."""
    import jax

    from coderllm_jax.model.lora import PRODUCTS
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training.calibrated import is_calibrated
    from coderllm_jax.training.step import build_program

    config = _config(arm)
    mesh = make_mesh(config.mesh)
    jax.block_until_ready(jax.numpy.zeros(8) + 1)  # what jax allocates for good on first use
    kernels, rounded = None, {}
    if is_calibrated(config):
        started = time.process_time()
        with Memory() as rounding:
            kernels = _round(config, folder)
        rounded = {
            "round_processor_s": time.process_time() - started,
            "round_peak_bytes": rounding.peak_bytes,
        }
    started = time.process_time()
    with Memory() as loading:
        model = _load(config, mesh, kernels)
    load_s = time.process_time() - started
    leaves = jax.tree.leaves(model.weights)
    stacks = [model.weights["blocks"][name] for name in PRODUCTS]
    shapes = model.architecture.weight_shapes()["blocks"]
    num_weights = sum(math.prod(shapes[name]) for name in PRODUCTS)
    sizes = {
        "weights_bytes": sum(leaf.nbytes for leaf in leaves),
        "kernels_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(stacks)),
        "kernels_bits": 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(stacks)) / num_weights,
        # The largest thing that is read at once: the embedding, which is a single tensor.
        "tensor_bytes": model.weights["embedding"].nbytes,
    }
    program = build_program(config, model, num_steps=100, mesh=mesh)
    del model, leaves, stacks
    batch = program.put_batch(load_batches(folder / "batch.npz")[0])
    with Memory() as stepping:
        figures, times = {}, []
        for place in ("start", "later"):
            state = program.init_state()
            adapters = load_adapters(folder / f"{place}.npz")
            state = state._replace(
                trainable=jax.tree.map(
                    lambda new, old: jax.device_put(new, old.sharding), adapters, state.trainable
                )
            )
            before = jax.device_get(state.trainable)
            state, metrics = program.train_step(state, batch)
            after = jax.device_get(state.trainable)
            np.savez(
                folder / f"{arm}-{place}.npz",
                **{
                    f"{name}.{part}": before[name][part] - after[name][part]
                    for name in before
                    for part in before[name]
                },
            )
            figures[f"{place}_loss"] = float(metrics.loss)
        for _ in range(num_steps):
            begin, begin_wall = time.process_time(), time.perf_counter()
            state, metrics = program.train_step(state, batch)
            jax.block_until_ready(metrics)
            times.append((time.process_time() - begin, time.perf_counter() - begin_wall))
    processor_s, wall_s = (sorted(each)[len(times) // 2] for each in zip(*times, strict=True))
    return {
        **sizes,
        **rounded,
        **figures,
        "precision": program.description["precision"],
        "remat": program.description["remat"],
        "load_processor_s": load_s,
        "load_peak_bytes": loading.peak_bytes,
        "load_kept_bytes": loading.kept_bytes,
        "step_peak_bytes": stepping.peak_bytes,
        "step_processor_s": processor_s,
        "step_wall_s": wall_s,
    }


def train_adapters(folder: Path) -> dict[str, Any]:
    """start.npz and later.npz: adapters of the float base before and after some real steps.

    The default run's optimizer, on batches that no gradient is compared on.
    """
    import jax

    from coderllm_jax.config.training import TrainingConfig
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training.step import build_program

    config = TrainingConfig(model_name=MODEL)
    mesh = make_mesh(config.mesh)
    batches = load_batches(folder / "training.npz")
    program = build_program(config, _load(config, mesh), num_steps=len(batches), mesh=mesh)
    state = program.init_state()
    _save_adapters(folder / "start.npz", jax.device_get(state.trainable))
    losses = []
    for batch in batches:
        state, metrics = program.train_step(state, program.put_batch(batch))
        losses.append(float(metrics.loss))
    _save_adapters(folder / "later.npz", jax.device_get(state.trainable))
    return {"losses": losses}


def _save_adapters(path: Path, adapters: dict[str, Any]) -> None:
    leaves = {
        f"{name}.{part}": values
        for name, adapter in adapters.items()
        for part, values in adapter.items()
    }
    np.savez(path, **leaves)


def load_adapters(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Adapters as `train_adapters` writes them."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as leaves:
        for leaf in leaves:
            name, _, part = leaf.partition(".")
            found.setdefault(name, {})[part] = leaves[leaf]
    return found


# --- float16 -------------------------------------------------------------------------------------


def measure_activations(folder: Path) -> dict[str, Any]:
    """The largest number, in float32, that each place of each layer holds on the batch.

    "name in" and "name out" are a product's operand and result, "stream" is the residual stream.
    """
    import jax.numpy as jnp

    def largest(name: str, x: Any) -> Any:
        return jnp.abs(x).max()

    model, _ = load_float("float32", dtype="bfloat16")
    batch = load_batches(folder / "batch.npz")[0]
    return {
        "layers": [
            {name: float(value) for name, value in found.items()}
            for found in walk_blocks(model, batch, largest)
        ]
    }


def walk_blocks(
    model: Any,
    batch: Any,
    look: Callable[[str, Any], Any],
) -> Iterator[dict[str, Any]]:
    """A layer after another in float32: what `look` says of "name in", "name out" and "stream"."""
    import jax
    import jax.numpy as jnp

    from coderllm_jax.model.attention import attend, packed_masks, rotary_angles
    from coderllm_jax.model.forward import ForwardOptions, apply_block, embed
    from coderllm_jax.model.lora import PRODUCTS
    from coderllm_jax.model.precision import FLOAT32, contract

    architecture, options = model.architecture, ForwardOptions()
    near, far = packed_masks(batch.positions, batch.segments, window=architecture.window)

    @functools.partial(jax.jit, static_argnames="is_global")
    def block(x: jax.Array, layer: dict[str, jax.Array], *, is_global: bool) -> Any:
        seen: dict[str, Any] = {}

        def project(name: str, x: jax.Array) -> jax.Array:
            y = contract(PRODUCTS[name], x, layer[name], FLOAT32)
            seen[f"{name} in"], seen[f"{name} out"] = look(name, x), look(name, y)
            return y

        def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            mask = far if is_global else near
            return attend(q, k, v, mask, architecture=architecture, precision=FLOAT32)

        kind = "global" if is_global else "local"
        x = apply_block(
            x,
            layer,
            {},
            angles=rotary_angles(
                jnp.asarray(batch.positions),
                head_size=architecture.head_size,
                wavelength=getattr(architecture, f"rope_{kind}"),
                scaling=getattr(architecture, f"rope_{kind}_scaling"),
            ),
            attention=attention,
            architecture=architecture,
            options=options,
            project=project,
        )
        return x, {**seen, "stream": look("stream", x)}

    x = embed(model.weights, jnp.asarray(batch.inputs), options=options)
    for i in range(architecture.num_layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], model.weights["blocks"])
        x, seen = block(x, layer, is_global=architecture.is_global(i))
        yield jax.device_get(seen)


def measure_float16(folder: Path, *, num_steps: int) -> dict[str, Any]:
    """Losses, skipped steps and scales of a float16 run's first steps; and with float16 sums."""
    import jax.numpy as jnp

    from coderllm_jax.model import precision
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training.guard import REASONS
    from coderllm_jax.training.step import build_program

    config = _config("float", precision="float16")
    # As a run would go: plain descent at a rate of 1 is for gradients only.
    config = dataclasses.replace(config, learning_rate=0.1)
    mesh = make_mesh(config.mesh)
    batch = load_batches(folder / "batch.npz")[0]
    usual = precision.PRECISIONS["float16"]
    found: dict[str, Any] = {}
    for title, carried in (("float32 sums", "float32"), ("float16 sums", "float16")):
        precision.PRECISIONS["float16"] = usual._replace(carried=jnp.dtype(carried))
        program = build_program(config, _load(config, mesh), num_steps=100, mesh=mesh)
        state, rows = program.init_state(), []
        for _ in range(num_steps):
            state, metrics = program.train_step(state, program.put_batch(batch))
            rows.append(
                {
                    "loss": float(metrics.loss),
                    "grad_norm": float(metrics.grad_norm),
                    "loss_scale": float(metrics.loss_scale),
                    "verdict": REASONS[int(metrics.verdict)],
                }
            )
        found[title] = rows
        del program, state
    return found


def main(arguments: list[str]) -> None:
    """Runs one part and writes its figures to FOLDER/found.json."""
    part, *names, folder, num_steps = arguments
    place = Path(folder)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "rows": lambda: write_rows(place),
        "adapters": lambda: train_adapters(place),
        "base": lambda: measure_base(names[0], place, num_steps=int(num_steps)),
        "activations": lambda: measure_activations(place),
        "float16": lambda: measure_float16(place, num_steps=int(num_steps)),
    }
    (place / "found.json").write_text(json.dumps(parts[part]()))


if __name__ == "__main__":
    main(sys.argv[1:])
