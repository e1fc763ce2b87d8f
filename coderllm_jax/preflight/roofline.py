"""A bound on a step: the longest of what its arithmetic, its memory and its links must take.

    compute   FLOPs of one chip / its peak           memory   bytes / the memory's bandwidth
    links     bytes that must enter a chip / what its links can bring, axis by axis

    at best   the longest of the three, all else hidden behind it: no step is faster
    in turn   the sum of the three, nothing hidden: what a step takes that overlaps nothing

It is a bound and no forecast: rates are the sheet's, kernels reach less, and a step has waits that
no count shows. MFU is the model's own work (no recomputation, no adapters) over the peak.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from coderllm_jax.preflight.chips import Slice
from coderllm_jax.preflight.costs import Collective

_DAY_S = 86_400.0


class Bound(NamedTuple):
    """Seconds of a step on every chip of the slice."""

    compute_s: float
    memory_s: float
    links_s: float

    @property
    def at_best_s(self) -> float:
        return max(self)

    @property
    def in_turn_s(self) -> float:
        return sum(self)

    @property
    def binds(self) -> str:
        """Which of the three is the longest."""
        return max(zip(self, ("compute", "memory", "links"), strict=True))[1]


def bound_step(
    slice_: Slice, *, flops: float, num_bytes: float, collectives: Iterable[Collective]
) -> Bound:
    """From one chip's costs. Collectives do not run beside one another."""
    chip = slice_.chip
    return Bound(
        compute_s=flops / chip.peak_flops,
        memory_s=num_bytes / chip.memory_bytes_per_s,
        links_s=sum(each.bytes / slice_.group_bytes_per_s(each.group) for each in collectives),
    )


def mfu(slice_: Slice, *, model_flops: float, step_s: float) -> float:
    """Part of the peak that the model's own work is, if a step takes so long."""
    return model_flops / (slice_.num_chips * slice_.chip.peak_flops * step_s)


def tokens_per_day(positions: int, step_s: float) -> float:
    """Positions of full rows in a day."""
    return positions * _DAY_S / step_s
