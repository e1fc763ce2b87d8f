"""What each way of rounding kernels costs LoRA's gradient, measured with one compiled step.

    W ── rounded here, kept as floats ──> W' ── gradient of A and B on the batch ──> cosine with W's

Kernels are rounded in numpy and handed to the float forward pass, so that nothing is compiled anew
for a lever; that a run on codes computes the same is held by tests/training/test_qlora.py. The
cosine is of all adapters as one vector, at the start, where B is zero and A owes nothing, and
later, after some steps of float training (`quantization_arm`), where both owe something.

    python -m benchmarks.quantization_levers FOLDER LEVER ...   →  FOLDER/found.json

FOLDER holds batch.npz, training.npz and adapters.npz. A lever is a name of LEVERS; `sensitivity`
stands for one of each kernel and of each layer.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.train_inputs import load_batches

Kernels = dict[str, np.ndarray]  # by block weight, layers stacked, float32

ATTENTION = ("query", "key", "value", "attention_output")
FEED_FORWARD = ("ffw_gating", "ffw_gating_2", "ffw_linear")
_BOUNDS = {"int8": 127.5, "int4": 7.5, "nf4": 1.0}
_CODE_BITS = {"int8": 8, "int4": 4, "nf4": 4}
_SCALE_BITS, _SECOND_SCALE_BITS, _SECOND_BLOCK = 16, 8, 256
# Scales that are tried, as parts of what the largest weight asks for.
_PARTS = np.linspace(0.7, 1.1, 17, dtype=np.float32)


class Rounding(NamedTuple):
    """How one kernel is rounded. block: inputs that share a scale; scales: what they minimize.

    `largest`: nothing, the largest weight is a level. `error`: the block's squared error.
    twice: scales are rounded a second time, to 8 bits (QLoRA, section 3).
    """

    base: str = "nf4"
    block: int = 64
    scales: str = "largest"
    twice: bool = False

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        scale = _SCALE_BITS
        if self.twice:
            scale = _SECOND_SCALE_BITS + 32 / _SECOND_BLOCK
        return _CODE_BITS[self.base] + scale / self.block


INT8, NF4 = Rounding("int8"), Rounding()


class Lever(NamedTuple):
    """A whole model's rounding: kernels by name, the others as `rest`.

    float_layers stay as they are.
    """

    rest: Rounding = NF4
    kernels: Mapping[str, Rounding] = {}
    float_layers: tuple[int, ...] = ()

    def of(self, name: str) -> Rounding:
        """The rounding of one kernel."""
        return self.kernels.get(name, self.rest)


def kept(*names: str, rest: Rounding = NF4) -> Lever:
    """These kernels in int8."""
    return Lever(rest, dict.fromkeys(names, INT8))


LEVERS: dict[str, Lever] = {
    "int8": Lever(INT8),
    "int4": Lever(Rounding("int4")),
    "nf4": Lever(),
    "nf4, blocks of 32": Lever(Rounding(block=32)),
    "nf4, blocks of 16": Lever(Rounding(block=16)),
    "nf4, scales of least error": Lever(Rounding(scales="error")),
    "nf4, scales rounded twice": Lever(Rounding(twice=True)),
    "attention int8": kept(*ATTENTION),
    "feed-forward int8": kept(*FEED_FORWARD),
}


def sensitivity(num_layers: int) -> dict[str, Lever]:
    """One kernel in int8 and one layer in floats, each in its turn."""
    return {f"{name} int8": kept(name) for name in (*ATTENTION, *FEED_FORWARD)} | {
        f"layer {layer} float": Lever(float_layers=(layer,)) for layer in range(num_layers)
    }


# --- rounding ------------------------------------------------------------------------------------


def round_kernel(kernel: np.ndarray, how: Rounding) -> np.ndarray:
    """[..., inputs, outputs] after rounding, as floats."""
    *outer, inputs, outputs = kernel.shape
    block = math.gcd(inputs, how.block)
    values = kernel.reshape(*outer, inputs // block, block, outputs)
    largest = np.abs(values).max(axis=-2, keepdims=True) / np.float32(_BOUNDS[how.base])
    scales = np.where(largest > 0, largest, 1)
    if how.scales != "largest":
        scales = _best_scales(values, scales, how.base)
    scales = _up_to_bfloat16(scales)
    if how.twice:
        scales = _rounded_twice(scales)
    return (_nearest(values / scales, how.base) * scales).reshape(kernel.shape)


def _best_scales(values: np.ndarray, scales: np.ndarray, base: str) -> np.ndarray:
    """The tried scale whose block's squared error is least."""
    best, least = scales, np.full(scales.shape, np.inf, np.float32)
    for part in _PARTS:
        tried = scales * part
        error = (_nearest(values / tried, base) * tried - values) ** 2
        total = error.sum(axis=-2, keepdims=True)
        best, least = np.where(total < least, tried, best), np.minimum(total, least)
    return best


def _rounded_twice(scales: np.ndarray) -> np.ndarray:
    """Scales less their mean in 8 bits, a float32 for every 256 of them."""
    flat, mean = scales.ravel(), scales.mean()
    groups = np.pad(flat - mean, (0, -flat.size % _SECOND_BLOCK)).reshape(-1, _SECOND_BLOCK)
    step = np.abs(groups).max(axis=1, keepdims=True) / 127
    rounded = np.round(groups / np.where(step > 0, step, 1)) * step + mean
    return np.maximum(rounded.ravel()[: flat.size].reshape(scales.shape), 1e-8).astype(np.float32)


def _nearest(ratio: np.ndarray, base: str) -> np.ndarray:
    from coderllm_jax.model.quantization import NF4_LEVELS

    if base == "nf4":
        return NF4_LEVELS[np.searchsorted((NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2, ratio)]
    low, high = (-128, 127) if base == "int8" else (-8, 7)
    return np.clip(np.round(ratio), low, high)


def _up_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """As the scales of `model.quantization` are kept."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


class Rounder:
    """Kernels by lever; what one lever has rounded serves the next."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._done = functools.lru_cache(maxsize=24)(self._round)

    def __call__(self, lever: Lever) -> Kernels:
        """The model's kernels after rounding."""
        found = {}
        for name, kernel in self._kernels.items():
            rounded = self._done(name, lever.of(name))
            if lever.float_layers:
                rounded = rounded.copy()
                for layer in lever.float_layers:
                    rounded[layer] = kernel[layer]
            found[name] = rounded
        return found

    def _round(self, name: str, how: Rounding) -> np.ndarray:
        return round_kernel(self._kernels[name], how)

    def error(self, rounded: Kernels) -> float:
        """The norm of what was rounded away, as a part of the kernels' norm."""
        lost = sum(float(((rounded[n] - self._kernels[n]) ** 2).sum()) for n in rounded)
        return math.sqrt(lost / sum(float((k**2).sum()) for k in self._kernels.values()))

    def bits(self, lever: Lever) -> float:
        """Bits a weight of what is rounded."""
        sizes = {name: kernel.size for name, kernel in self._kernels.items()}
        return sum(lever.of(name).bits * n for name, n in sizes.items()) / sum(sizes.values())


# --- measuring -----------------------------------------------------------------------------------


def measure(folder: Path, names: Sequence[str], *, precision: str = "auto") -> dict[str, Any]:
    """Losses, cosines, errors and bits of every lever named."""
    import jax

    from benchmarks.quantization_arm import load_adapters, load_float
    from coderllm_jax.model.lora import PRODUCTS

    model, options = load_float(precision)
    blocks = model.weights["blocks"]
    kernels = {name: np.asarray(blocks[name]).astype(np.float32) for name in PRODUCTS}
    gradient = _gradient(model, options)
    batch = load_batches(folder / "batch.npz")[0]
    places = {place: load_adapters(folder / f"{place}.npz") for place in ("start", "later")}

    def at(rounded: Kernels) -> Iterator[tuple[str, float, np.ndarray]]:
        weights = {**model.weights, "blocks": {**blocks}}
        for name, kernel in rounded.items():
            weights["blocks"][name] = jax.numpy.asarray(kernel, blocks[name].dtype)
        for place, adapters in places.items():
            loss, found = gradient(adapters, weights, batch)
            leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(found))]
            yield place, float(loss), np.concatenate(leaves).astype(np.float64)

    plain = {place: (loss, vector) for place, loss, vector in at({})}
    rounder = Rounder(kernels)
    chosen = {name: LEVERS[name] for name in names if name in LEVERS}
    if "sensitivity" in names:
        chosen |= sensitivity(model.architecture.num_layers)
    found: dict[str, Any] = {"float": {f"{p}_loss": loss for p, (loss, _) in plain.items()}}
    for name, lever in chosen.items():
        rounded = rounder(lever)
        row = {"bits": rounder.bits(lever), "error": rounder.error(rounded)}
        for place, loss, vector in at(rounded):
            other = plain[place][1]
            norms = np.linalg.norm(vector) * np.linalg.norm(other)
            row |= {f"{place}_loss": loss, f"cosine_{place}": float(vector @ other / norms)}
        found[name] = row
        print(name, json.dumps(row), flush=True)
    return found


def _gradient(model: Any, options: Any) -> Callable[..., Any]:
    """(adapters, weights, batch) → mean loss and the adapters' gradient, compiled once."""
    import jax

    from coderllm_jax.model.forward import hidden_states
    from coderllm_jax.model.loss import HeadOptions, cross_entropy

    head = HeadOptions(
        precision=options.precision,
        soft_cap=model.architecture.final_soft_cap,
        tokens_per_chunk=512,
        tokens_per_last_chunk=0,
        vocabulary_block=1024,
        train_embedding=False,
    )

    def loss(adapters: Any, weights: Any, batch: Any) -> jax.Array:
        hidden_BLD = hidden_states(
            weights,
            adapters,
            batch.inputs,
            batch.positions,
            batch.segments,
            architecture=model.architecture,
            options=options,
        )
        sums = cross_entropy(
            hidden_BLD, weights["embedding"], batch.targets, batch.weights, options=head
        )
        return sums.loss / sums.weight

    return jax.jit(jax.value_and_grad(loss))


def main(arguments: list[str]) -> None:
    """Measures the levers that are named, or all, and writes FOLDER/found.json."""
    folder, *names = arguments
    found = measure(Path(folder), names or [*LEVERS, "sensitivity"])
    (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
