"""The trained model as one set of kernels, given out a tensor at a time: W + A·B·scale.

Nothing is merged before it is asked for, and nothing merged is kept: beside the loaded weights
there is one tensor in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.generation.trained import TrainedModel
from coderllm_jax.model.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class MergedModel:
    """A model in the tree's layout, its adapters folded in as tensors are read.

    weights, adapters: the trees of `model.architecture` and `model.lora`. scale: alpha / rank.
    """

    architecture: Architecture
    tokenizer: Tokenizer
    weights: Mapping[str, Any]
    adapters: Mapping[str, Mapping[str, Any]]
    scale: float
    knows_turns: bool

    @classmethod
    def of(cls, model: TrainedModel) -> MergedModel:
        """The same arrays; no copy is made."""
        return cls(
            architecture=model.architecture,
            tokenizer=model.tokenizer,
            weights=model.weights,
            adapters=model.adapters,
            scale=model.options.lora_scale,
            knows_turns=model.knows_turns,
        )

    def base(self) -> MergedModel:
        """The model without its adapters: what a PEFT adapter is put onto."""
        return dataclasses.replace(self, adapters={})

    def whole(self, path: str) -> np.ndarray:
        """`embedding` or `final_norm`, in the dtype it has in memory."""
        return np.asarray(self.weights[path])

    def block(self, name: str, layer: int) -> np.ndarray:
        """Block weight `name` of one layer without the layer axis, merged in float32.

        A weight without an adapter keeps the dtype it has in memory.
        """
        kernel = np.asarray(self.weights["blocks"][name])[self.place_of(name, layer)]
        if name not in self.adapters:
            return kernel
        return kernel.astype(np.float32) + np.float32(self.scale) * self.delta(name, layer)

    def delta(self, name: str, layer: int) -> np.ndarray:
        """A · B of one layer in float32, in the kernel's shape and without the scale."""
        place = self.place_of(name, layer)
        a, b = (np.asarray(self.adapters[name][part])[place] for part in ("a", "b"))
        return np.tensordot(a.astype(np.float32), b.astype(np.float32), axes=1)

    def place_of(self, name: str, layer: int) -> int:
        """Where a layer lies in the stack of block weight `name`, which may have fewer layers."""
        return self.architecture.layers_of(name).index(layer)

    def tensors(self) -> Iterator[tuple[str, int | None]]:
        """Every tensor's (path, layer) in the order in which it is written, layer by layer."""
        yield "embedding", None
        for layer in range(self.architecture.num_layers):
            for name, _ in self.architecture.places_of(layer).values():
                yield f"blocks/{name}", layer
        yield "final_norm", None

    def read(self, path: str, layer: int | None) -> np.ndarray:
        """The tensor of `tensors`' entry."""
        if layer is None:
            return self.whole(path)
        return self.block(path.removeprefix("blocks/"), layer)
