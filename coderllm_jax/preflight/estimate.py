"""Memory and time of a plan by arithmetic: enough to choose among hundreds, in milliseconds each.

    held       weights, adapters, moments, batch: exact (see `sharing`)
    kept       what backward needs of each layer: the residual stream, and more without remat
    working    the largest of: one layer's attention, its feed-forward, one chunk of the loss
    gathered   two layers' kernels whole over fsdp, and the embedding
    gradients  of what is trained, as it lies; a trained embedding's whole over fsdp, four times

    FLOPs      two a weight and position, as often as it is multiplied; attention's own; the head's
    bytes      kernels as often as they are read, activations and scores as they come and go
    links      kernels over fsdp, twice (forward; backward, which recomputes); sums of hidden states
               over tensor, four times and twice more where forward is recomputed; gradients of
               each micro-batch, whole over fsdp: they are all-reduced, then cut

What XLA does beside that is not known here: benchmarks/topologies.md has the errors. Full
fine-tuning of Gemma 3 270M as libtpu 0.0.42.1 compiled it for v5e:2x4, rows of 512: this said 9% to
1% too little memory on data 8, on fsdp 8 (one micro-batch, and two) and on 2 x 4 x 1 (two) and
5% too much on 2 x 2 x 2; what is summed over data and fsdp was within 0.1%.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.lora import adapter_shapes, is_kernel
from coderllm_jax.model.splash_attention import BLOCK as SPLASH_BLOCK
from coderllm_jax.model.splash_attention import can_splash
from coderllm_jax.preflight.costs import Collective
from coderllm_jax.preflight.plan import Plan
from coderllm_jax.preflight.roofline import Bound, bound_step
from coderllm_jax.preflight.sharing import (
    Held,
    block_bytes,
    embedding_bytes,
    held_bytes,
    sent_block_bytes,
    summed_bytes,
)

_WIDE = 4
# Of `training.step` on accelerators.
_CHUNK, _VOCABULARY_BLOCK = 2048, 16_384
# Dense scores at one time in backward, each float32: logits, probabilities, and their cotangents.
_SCORES_AT_ONCE = 4
# float32 gradients of a trained embedding at one time: the head's, as it grows and summed, the
# lookup's, and both together. 3.4 to 5.0 were compiled, all else being as it is here.
_EMBEDDINGS_AT_ONCE = 4
# As often as scores cross the memory's door in a layer, in float32: forward, again, and back.
_SCORES_MOVED = 12
# As often as a product's left side and result do, likewise.
_ACTIVATIONS_MOVED = 4


class Estimate(NamedTuple):
    """Of one chip, bytes and FLOPs of one step; `model_flops` are the whole slice's."""

    held: Held
    kept: float
    working: float
    gathered: float
    gradients: float
    flops: float
    attention_flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    model_flops: float
    bound: Bound

    @property
    def memory_bytes(self) -> float:
        return self.held.total + self.kept + self.working + self.gathered + self.gradients


def estimate(architecture: Architecture, plan: Plan, *, supervised_fraction: float) -> Estimate:
    """What a plan would need and take."""
    work = _Work(architecture, plan, supervised_fraction)
    flops, num_bytes, collectives = work.flops(), work.moved(), work.collectives()
    return Estimate(
        held=work.held,
        kept=work.kept(),
        working=work.working(),
        gathered=work.gathered(),
        gradients=work.gradients(),
        flops=flops,
        attention_flops=work.attention_flops() * plan.micro_batches,
        bytes=num_bytes,
        collectives=collectives,
        model_flops=model_flops(architecture, plan, supervised_fraction=supervised_fraction),
        bound=bound_step(plan.slice, flops=flops, num_bytes=num_bytes, collectives=collectives),
    )


def model_flops(architecture: Architecture, plan: Plan, *, supervised_fraction: float) -> float:
    """What the model owes for a step on all chips, as `training.step` counts for MFU."""
    per_weight = 4.0 if plan.config.lora.enabled else 6.0
    head = architecture.vocabulary * architecture.width * supervised_fraction
    return per_weight * plan.step_positions * (_kernel_weights(architecture) + head)


def _kernel_weights(architecture: Architecture) -> int:
    blocks = architecture.weight_shapes()["blocks"]
    return sum(math.prod(shape) for name, shape in blocks.items() if is_kernel(name))


def visited_pairs(length: int, window: int | None) -> int:
    """(query, key) pairs in the blocks that splash attention visits in one row of one head."""
    block = math.gcd(length, SPLASH_BLOCK)
    blocks = 0
    for i in range(length // block):
        first = 0 if window is None else max(i * block - (window - 1), 0) // block
        blocks += i + 1 - first
    return blocks * block * block


class _Work:
    """A plan's quantities, each a formula of the drawing."""

    def __init__(self, architecture: Architecture, plan: Plan, supervised_fraction: float) -> None:
        self.a, self.plan = architecture, plan
        self.mesh, self.layers = plan.mesh, architecture.num_layers
        self.supervised = plan.positions * supervised_fraction
        self.held = held_bytes(architecture, plan)
        self.is_full = not plan.config.lora.enabled
        self.carried = plan.precision.carried.itemsize
        # Forward, its recomputation, and the inputs' gradient; the weights' own where they owe one.
        self.recomputed = plan.remat == "block"
        self.passes = 2 + self.recomputed + self.is_full
        self.heads = architecture.num_heads / plan.mesh.tensor
        kv = architecture.num_kv_heads
        self.kv_heads = kv / plan.mesh.tensor if kv % plan.mesh.tensor == 0 else kv
        self.ffw = architecture.feed_forward / plan.mesh.tensor
        self.splash = plan.config.step.attention != "dense" and can_splash(
            architecture, plan.precision, length=plan.length, mesh=plan.mesh._asdict()
        )

    @property
    def numbers(self) -> float:
        """Of one position and layer: every projection's result."""
        size = self.a.head_size
        return 2 * self.a.width + (self.heads + 2 * self.kv_heads) * size + 2 * self.ffw

    @property
    def scores(self) -> float:
        """Of one layer, as dense attention makes them: heads x positions x row; else none."""
        return 0.0 if self.splash else self.plan.positions * self.plan.length * self.heads

    # --- memory

    def kept(self) -> float:
        numbers = self.a.width + (0 if self.recomputed else self.numbers)
        kept = self.plan.positions * self.layers * numbers * self.carried
        if self.plan.remat == "none":
            kept += self.layers * self.scores * _WIDE
        return kept

    def working(self) -> float:
        positions = self.plan.positions
        attention = _SCORES_AT_ONCE * self.scores * _WIDE
        feed_forward = positions * (3 * self.ffw + 2 * self.a.width) * _WIDE
        chunk = min(_CHUNK, positions)
        logits = 3 * chunk * min(_VOCABULARY_BLOCK, self.a.vocabulary) * _WIDE
        hidden = 2 * positions * self.a.width * self.carried + 2 * chunk * self.a.width * _WIDE
        return max(attention, feed_forward, logits + hidden)

    def gathered(self) -> float:
        is_sent = self.mesh.fsdp > 1
        is_made = is_sent or self.plan.config.lora.base != "float"
        embedding = embedding_bytes(self.a, self.plan) if is_sent else 0.0
        return 2 * block_bytes(self.a, self.plan) * is_made + embedding

    def gradients(self) -> float:
        """Of what is trained, cut as it is, and its sum over micro-batches; the embedding's whole.

        A block's is summed over data and fsdp and cut before the next block's is there.
        """
        cut = self.held.trained * (2 if self.plan.micro_batches > 1 else 1)
        return cut + self.is_full * _EMBEDDINGS_AT_ONCE * embedding_bytes(self.a, self.plan)

    # --- time

    def flops(self) -> float:
        a, plan, tensor = self.a, self.plan, self.mesh.tensor
        positions = plan.positions
        kernels = 2 * positions * _kernel_weights(a) / tensor * self.passes
        head = (8 if self.is_full else 4) * self.supervised * a.vocabulary * a.width / tensor
        adapters = 0.0
        if not self.is_full:
            lora = plan.config.lora
            shapes = adapter_shapes(a, targets=lora.targets, rank=lora.rank)
            weights = sum(math.prod(part) for each in shapes.values() for part in each.values())
            adapters = 2 * positions * weights / tensor * (3 + self.recomputed)
        return (kernels + self.attention_flops() + head + adapters) * plan.micro_batches

    def attention_flops(self) -> float:
        """Scores and mixing of all layers: forward, as often as it runs, and backward.

        Dense: two products and four. Splash: two and seven, which makes scores anew for each of
        its two kernels, over the blocks that masks leave.
        """
        size, forward = self.a.head_size, 2 * (1 + self.recomputed)
        if not self.splash:
            return 2 * self.scores * size * (forward + 4) * self.layers
        rows, length = self.plan.rows, self.plan.length
        pairs = sum(
            visited_pairs(length, None if self.a.is_global(i) else self.a.window)
            for i in range(self.layers)
        )
        return 2 * rows * self.heads * pairs * size * (forward + 7)

    def moved(self) -> float:
        a, plan, positions = self.a, self.plan, self.plan.positions
        block = block_bytes(a, plan)
        is_sent = self.mesh.fsdp > 1 or plan.config.lora.base != "float"
        kernels = self.layers * block * (self.passes + 2 * (1 + self.recomputed) * is_sent)
        inputs = 3 * a.width + (self.heads + self.kv_heads) * a.head_size + self.ffw
        activations = (
            self.layers * positions * (self.numbers + inputs) * self.carried * _ACTIVATIONS_MOVED
        )
        scores = self.layers * self.scores * _WIDE * _SCORES_MOVED
        chunks = math.ceil(self.supervised / _CHUNK)
        head = 2 * chunks * embedding_bytes(a, plan)
        logits = 4 * self.supervised * a.vocabulary / self.mesh.tensor * _WIDE
        state = 2 * (self.held.trained + self.held.optimizer)
        return (kernels + activations + scores + head + logits) * plan.micro_batches + state

    def collectives(self) -> tuple[Collective, ...]:
        data, fsdp, tensor = self.mesh
        times = 1 + self.recomputed
        found = []
        if fsdp > 1:
            sent = self.layers * sent_block_bytes(self.a, self.plan) * times
            sent += 2 * embedding_bytes(self.a, self.plan)
            found.append(self._collective("all-gather", ("fsdp",), fsdp, sent * (fsdp - 1) / fsdp))
        if tensor > 1:
            hidden = self.plan.positions * self.a.width * self.carried
            sums = (4 + 2 * self.recomputed) * self.layers * hidden
            moved = 2 * sums * (tensor - 1) / tensor
            found.append(self._collective("all-reduce", ("tensor",), tensor, moved))
        if data * fsdp > 1:
            others = (data * fsdp - 1) / (data * fsdp)
            moved = 2 * summed_bytes(self.a, self.plan) * others
            axes = ("data", "fsdp")
            found.append(self._collective("all-reduce", axes, data * fsdp, moved))
        return tuple(found)

    def _collective(self, kind: str, axes: tuple[str, ...], group: int, moved: float) -> Collective:
        times = self.plan.micro_batches
        return Collective(kind, axes, group, float(times), moved * times)
