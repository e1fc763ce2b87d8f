"""Whether a device has room for what a step keeps: an estimate from shapes, made before compiling.

    weights + trained variables, their gradients and moments
    + per position and layer: the residual stream, every projection's output, attention's own
    + dense attention: the scores of one layer, thrice                   <=  3/4 of the limit

The last quarter is for what comes and goes: one layer's gradients, a block of logits, evaluation.
Gemma 3 with LoRA, fused, 8,192 positions: 27.1 GB (4B) and 10.5 (1B) by this, where an H200 held
28.0 to 28.4 and 11.1 (benchmarks/gpu.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import Attention
from coderllm_jax.model.lora import adapter_shapes, is_kernel
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.quantization import FLOAT_BASE, BaseFormat, quantized_bytes

_SHARE = 0.75
_WIDE = 4  # bytes of a float32
# A trained variable, its gradient and two moments, all float32.
_TRAINED = 4 * _WIDE
_SCORES_AT_ONCE = 3


class Work(NamedTuple):
    """What one device computes in one pass.

    adapted: the adapters' targets; None where every weight is trained. weight_parts: over how many
    devices the weights are split.
    """

    rows: int
    length: int
    precision: Precision
    attention: Attention
    adapted: tuple[str, ...] | None
    rank: int
    base: BaseFormat = FLOAT_BASE
    weight_parts: int = 1


def projections_fit(architecture: Architecture, work: Work, *, device: jax.Device) -> bool:
    """Whether the device can keep every projection; no where it does not tell its limit."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        return False
    return bytes_with_projections(architecture, work) <= _SHARE * limit


def bytes_with_projections(architecture: Architecture, work: Work) -> float:
    """The most that a step holds on one device with its projections kept, in bytes."""
    weights = sum(map(math.prod, _leaves(architecture.weight_shapes())))
    if work.adapted is None:
        held: float = weights * _TRAINED
    else:
        adapters = adapter_shapes(architecture, targets=work.adapted, rank=work.rank)
        trained = sum(map(math.prod, _leaves(adapters)))
        held = _frozen_bytes(architecture, work) + trained * _TRAINED
    return held / work.weight_parts + _bytes_kept(architecture, work)


def _frozen_bytes(architecture: Architecture, work: Work) -> float:
    shapes, itemsize = architecture.weight_shapes(), work.precision.weights.itemsize
    held = sum(map(math.prod, _leaves(shapes))) * itemsize
    if not work.base.is_float:
        for name, shape in shapes["blocks"].items():
            if is_kernel(name):
                held += quantized_bytes(shape, work.base.of(name)) - math.prod(shape) * itemsize
    return held


def _bytes_kept(architecture: Architecture, work: Work) -> float:
    heads, head_size = architecture.num_heads, architecture.head_size
    queries, keys = heads * head_size, architecture.num_kv_heads * head_size
    # The stream, and two projections back into it; queries, keys, values; gate and its partner.
    numbers = 3 * architecture.width + queries + 2 * keys + 2 * architecture.feed_forward
    if work.attention == "fused":
        numbers += queries
    positions = work.rows * work.length
    kept = positions * architecture.num_layers * numbers * work.precision.carried.itemsize
    if work.attention == "dense":
        kept += _SCORES_AT_ONCE * positions * work.length * heads * _WIDE
    return kept


def _leaves(shapes: dict) -> list[tuple[int, ...]]:
    return jax.tree.leaves(shapes, is_leaf=lambda node: isinstance(node, tuple))
