"""What one chip holds of a run's arrays: the real trees, cut by the real sharding rules.

    blocks/query [N, H, D, K] bfloat16, mesh fsdp 4 x tensor 2  ──>  an eighth of its bytes
    blocks/key   [N, G, D, K], G = 1                            ──>  a quarter: heads do not divide

Shapes only. Quantized kernels have the bytes of their codes and scales.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from coderllm_jax.config.training import OptimizerSection
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.lora import adapter_shapes, is_kernel
from coderllm_jax.model.quantization import quantized_shapes
from coderllm_jax.model.sharding import MESH_AXES, tree_path, weight_spec
from coderllm_jax.model.weights import leaf_shapes
from coderllm_jax.preflight.plan import Mesh, Plan
from coderllm_jax.training.optimizer import make_optimizer
from coderllm_jax.training.step import lora_base

_WIDE = 4  # bytes of a float32
_BATCH_FIELDS = 5  # of `records.PackedBatch`, 4 bytes each


class Held(NamedTuple):
    """Bytes of one chip. `frozen` is 0 in full fine-tuning, where all weights are trained."""

    frozen: float
    trained: float
    optimizer: float
    batch: float

    @property
    def total(self) -> float:
        return sum(self)


def held_bytes(architecture: Architecture, plan: Plan) -> Held:
    """What is there before the step begins."""
    config, mesh = plan.config, _abstract(plan.mesh)
    trained = dict(_trained(architecture, plan))
    moments = 0.0
    for path, shape, size in _optimizer_leaves(config.optimizer, tuple(trained.items())):
        # Only what has a variable's shape lies as the variable does.
        moments += size / (_parts(path, shape, mesh) if trained.get(path) == shape else 1)
    frozen = sum(
        _share_bytes(path, shape, plan, mesh)
        for path, shape in leaf_shapes(architecture).items()
        if config.lora.enabled
    )
    return Held(
        frozen=frozen,
        trained=sum(
            _WIDE * math.prod(shape) / _parts(path, shape, mesh) for path, shape in trained.items()
        ),
        optimizer=moments,
        batch=_BATCH_FIELDS * _WIDE * plan.positions * plan.micro_batches,
    )


@functools.lru_cache(maxsize=64)
def _optimizer_leaves(
    section: OptimizerSection, trained: tuple[tuple[str, tuple[int, ...]], ...]
) -> list[tuple[str, tuple[int, ...], int]]:
    """(variable it belongs to, shape, bytes) of the optimizer's state; the same on any mesh."""
    abstract = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in trained}
    state = jax.eval_shape(make_optimizer(section).init, abstract)
    return [
        (getattr(path[-1], "key", ""), leaf.shape, math.prod(leaf.shape) * leaf.dtype.itemsize)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def block_bytes(architecture: Architecture, plan: Plan) -> float:
    """One layer's kernels as they are multiplied: whole over fsdp, still split over tensor."""
    mesh = _abstract(Mesh(1, 1, plan.mesh.tensor))
    itemsize = plan.precision.operands.itemsize
    return sum(
        itemsize * math.prod(shape) / _parts(path, shape, mesh) / shape[0]
        for path, shape in leaf_shapes(architecture).items()
        if is_kernel(path)
    )


def sent_block_bytes(architecture: Architecture, plan: Plan) -> float:
    """One layer's kernels as they travel over fsdp: as they are kept."""
    mesh = _abstract(Mesh(1, 1, plan.mesh.tensor))
    return sum(
        _share_bytes(path, shape, plan, mesh) / shape[0]
        for path, shape in leaf_shapes(architecture).items()
        if is_kernel(path)
    )


def embedding_bytes(architecture: Architecture, plan: Plan) -> float:
    """The embedding on one chip, whole over fsdp."""
    mesh = _abstract(Mesh(1, 1, plan.mesh.tensor))
    shape = (architecture.vocabulary, architecture.width)
    return _share_bytes("embedding", shape, plan, mesh)


def summed_bytes(architecture: Architecture, plan: Plan) -> float:
    """One chip's gradients as they are summed over data and fsdp: whole over fsdp.

    XLA sums them as they leave their product, in the carried format; the embedding's in float32
    (`model.loss`).
    """
    mesh = _abstract(Mesh(1, 1, plan.mesh.tensor))
    carried = plan.precision.carried.itemsize
    return sum(
        (_WIDE if path == "embedding" else carried) * math.prod(shape) / _parts(path, shape, mesh)
        for path, shape in _trained(architecture, plan)
    )


def _abstract(mesh: Mesh) -> Any:
    return jax.sharding.AbstractMesh(tuple(mesh), MESH_AXES)


def _trained(architecture: Architecture, plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    lora = plan.config.lora
    if not lora.enabled:
        yield from leaf_shapes(architecture).items()
        return
    adapters = adapter_shapes(architecture, targets=lora.targets, rank=lora.rank)
    for path, shape in jax.tree_util.tree_leaves_with_path(
        adapters, is_leaf=lambda node: isinstance(node, tuple)
    ):
        yield tree_path(path), shape


def _share_bytes(path: str, shape: tuple[int, ...], plan: Plan, mesh: Any) -> float:
    """One chip's bytes of a weight, as `training.step` keeps it."""
    base = lora_base(plan.config)
    if not base.is_float and is_kernel(path):
        # By the same rule, though few scales may not divide where codes do.
        codes, scales = quantized_shapes(shape, base.of(path))
        return math.prod(codes) / _parts(path, codes, mesh) + jnp.bfloat16.dtype.itemsize * (
            math.prod(scales) / _parts(path, scales, mesh)
        )
    is_wide = "norm" in path or not plan.config.lora.enabled
    itemsize = _WIDE if is_wide else plan.precision.weights.itemsize
    return itemsize * math.prod(shape) / _parts(path, shape, mesh)


def _parts(path: str, shape: tuple[int, ...], mesh: Any) -> int:
    """Over how many chips a variable is split."""
    spec = weight_spec(path, shape, mesh)
    return math.prod(mesh.shape[axis] for axis in spec if axis is not None)
