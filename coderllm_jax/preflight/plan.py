"""One way to run a configuration on a slice: a mesh, a batch, and what each chip gets of both.

    batch 32 x 2,048, mesh data 2 x fsdp 4 x tensor 1   ──>  4 rows a chip, a quarter of the weights

A plan's configuration says everything: a mesh without -1, a batch that the mesh divides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import Remat
from coderllm_jax.model.precision import Precision, resolve_precision
from coderllm_jax.preflight.chips import Slice


class Mesh(NamedTuple):
    """Sizes of the three axes."""

    data: int
    fsdp: int
    tensor: int

    @property
    def size(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def words(self) -> str:
        """data 2 x fsdp 4 x tensor 1."""
        return " x ".join(f"{name} {size}" for name, size in self._asdict().items())


class Plan(NamedTuple):
    """A configuration that is settled, and the slice it would run on."""

    config: TrainingConfig
    slice: Slice

    @property
    def mesh(self) -> Mesh:
        section = self.config.mesh
        return Mesh(section.data, section.fsdp, section.tensor)

    @property
    def rows(self) -> int:
        """Of one micro-batch on one chip."""
        parts = self.mesh.data * self.mesh.fsdp * self.config.optimizer.accumulation_steps
        return -(-self.config.batch_size // parts)

    @property
    def length(self) -> int:
        return self.config.data.sequence_length

    @property
    def positions(self) -> int:
        """Of one micro-batch on one chip."""
        return self.rows * self.length

    @property
    def micro_batches(self) -> int:
        return self.config.optimizer.accumulation_steps

    @property
    def step_positions(self) -> int:
        """Of a whole step on all chips; rows that only fill up are not counted."""
        return self.config.batch_size * self.length

    @property
    def precision(self) -> Precision:
        return resolve_precision(self.config.step.precision, "tpu")

    @property
    def remat(self) -> Remat:
        """As `training.step` chooses on a TPU."""
        asked = self.config.step.remat
        return "block" if asked == "auto" else asked  # type: ignore[return-value]

    @property
    def words(self) -> str:
        """What tells it from other plans."""
        return f"{self.slice.name}, {self.mesh.words}, batch {self.config.batch_size}"

    def changed(self, **changes: Any) -> Plan:
        """The plan with other options; those of sections as in `lora__base="nf4"`."""
        return self._replace(config=replace_options(self.config, changes))


def replace_options(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with other values; sections are written before two underscores."""
    mine: dict[str, Any] = {}
    for path, value in changes.items():
        name, _, rest = path.partition("__")
        section = mine.get(name, getattr(config, name))
        mine[name] = replace_options(section, {rest: value}) if rest else value
    return dataclasses.replace(config, **mine)


def meshes(num_chips: int) -> Iterator[Mesh]:
    """Every mesh of so many chips."""
    for tensor in _divisors(num_chips):
        for fsdp in _divisors(num_chips // tensor):
            yield Mesh(num_chips // tensor // fsdp, fsdp, tensor)


def plans(config: PreflightConfig, slice_: Slice, architecture: Architecture) -> list[Plan]:
    """Everything that the screen may choose from; ConfigError where what was set fits no mesh."""
    if config.searches_mesh:
        found = [mesh for mesh in meshes(slice_.num_chips) if _divides(mesh, architecture)]
    else:
        found = [_fixed_mesh(config, slice_)]
    result = []
    for mesh in found:
        for batch in _batches(config, mesh):
            changed = replace_options(
                config,
                {
                    "batch_size": batch,
                    "mesh__data": mesh.data,
                    "mesh__fsdp": mesh.fsdp,
                    "mesh__tensor": mesh.tensor,
                },
            )
            result.append(Plan(changed, slice_))
    return result


def _fixed_mesh(config: PreflightConfig, slice_: Slice) -> Mesh:
    section, chips = config.mesh, slice_.num_chips
    fixed = section.fsdp * section.tensor
    mesh = Mesh(
        chips // fixed if section.data == -1 else section.data, section.fsdp, section.tensor
    )
    if mesh.size != chips:
        raise ConfigError(
            f"mesh {'x'.join(map(str, mesh))} (data x fsdp x tensor) has {mesh.size} devices and "
            f"{slice_.name} has {chips} chips; make the product {chips}, or leave mesh out to have "
            "one chosen"
        )
    return mesh


def _batches(config: PreflightConfig, mesh: Mesh) -> Iterator[int]:
    """The batch that was set; else 1, 2, 4, … rows for every part of it."""
    if not config.searches_batch:
        yield config.batch_size
        return
    part = mesh.data * mesh.fsdp * config.optimizer.accumulation_steps
    batch = part
    while batch <= max(config.screen.max_batch_size, part):
        yield batch
        batch *= 2


def _divides(mesh: Mesh, architecture: Architecture) -> bool:
    """Whether heads, feed-forward and width are split evenly; key and value heads may be copies."""
    return (
        architecture.num_heads % mesh.tensor == 0
        and architecture.feed_forward % mesh.tensor == 0
        and architecture.width % mesh.fsdp == 0
    )


def _divisors(number: int) -> list[int]:
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})
