"""Which plans are worth compiling, and what would help where none fits. Arithmetic only.

    every mesh x batch ──> estimate ──> those that fit, fastest bound per position first
                                   └──> none: the nearest, and changes of it that would fit

A larger batch always looks a little faster; the smallest one with nearly the best rate wins, since
a batch is a matter of learning, too.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.config.training import MeshSection
from coderllm_jax.errors import ConfigError, ModelError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.preflight.chips import Slice, larger_slices
from coderllm_jax.preflight.estimate import Estimate, estimate
from coderllm_jax.preflight.plan import Mesh, Plan, plans, replace_options
from coderllm_jax.training.step import lora_base

# What the formulas leave out, as a part of the chip's memory: what XLA laid out was up to a ninth
# more (benchmarks/topologies.md).
RESERVE = 0.12
_SHORTEST_ROW = 256
# Larger slices that are looked at, of one kind of chip.
_MOST_SLICES = 4


class Screened(NamedTuple):
    """A plan and what was reckoned of it."""

    plan: Plan
    estimate: Estimate

    @property
    def fits(self) -> bool:
        return self.spare_bytes >= 0

    @property
    def spare_bytes(self) -> float:
        """What is left of the memory a plan should use; negative: what is missing."""
        limit = self.plan.slice.chip.memory_bytes * (1 - RESERVE)
        return limit - self.estimate.memory_bytes

    @property
    def seconds_per_position(self) -> float:
        """Lower is better: half way between everything hidden and nothing."""
        bound = self.estimate.bound
        return (bound.at_best_s + bound.in_turn_s) / 2 / self.plan.step_positions


class Remedy(NamedTuple):
    """A change after which the screen says that a plan fits: options, with " and " between them."""

    words: str
    screened: Screened


def screen(config: PreflightConfig, slice_: Slice, architecture: Architecture) -> list[Screened]:
    """Every plan, the one to compile first at the front; those that do not fit at the end."""
    every = [
        Screened(plan, _estimate(plan, config, architecture))
        for plan in plans(config, slice_, architecture)
    ]
    fitting = [each for each in every if each.fits]
    missing = sorted((each for each in every if not each.fits), key=lambda each: -each.spare_bytes)
    return [*_ranked(fitting, least_share=config.screen.least_share), *missing]


def _ranked(fitting: Sequence[Screened], *, least_share: float) -> Iterator[Screened]:
    """A plan a mesh at first: its smallest good batch; then all others, fastest first."""
    best: dict[tuple[int, ...], Screened] = {}
    if fitting:
        fastest = min(each.seconds_per_position for each in fitting)
        for each in fitting:
            mesh = tuple(each.plan.mesh)
            if each.seconds_per_position * least_share <= fastest and (
                mesh not in best or each.plan.config.batch_size < best[mesh].plan.config.batch_size
            ):
                best[mesh] = each
    chosen = sorted(
        best.values(), key=lambda each: (each.plan.config.batch_size, each.seconds_per_position)
    )
    yield from chosen
    rest = [each for each in fitting if each not in chosen]
    yield from sorted(rest, key=lambda each: each.seconds_per_position)


def _estimate(plan: Plan, config: PreflightConfig, architecture: Architecture) -> Estimate:
    return estimate(architecture, plan, supervised_fraction=config.screen.supervised_fraction)


def find_remedies(
    config: PreflightConfig, nearest: Screened, architecture: Architecture, *, shortage: float = 0.0
) -> list[Remedy]:
    """Changes of a plan that does not fit, after each of which the screen says that it would.

    shortage: what must be left of a chip then, the compiler having found the screen too hopeful by
    so many bytes. A mesh that was set is given up on other slices, whose chips it may not divide.
    What training would refuse (a quantized base of a Gemma 4, or of unrolled blocks) is no remedy.
    """

    def helps(screened: Screened) -> bool:
        return screened.spare_bytes >= shortage

    singles = list(_allowed_changes(nearest.plan, architecture))
    found = []
    for changes in (singles, _pairs(singles, architecture)):
        for words, plan in changes:
            screened = Screened(plan, _estimate(plan, config, architecture))
            if helps(screened):
                found.append(Remedy(words, screened))
        if found:  # two changes only where one is not enough
            break
    tried: collections.Counter[str] = collections.Counter()
    for slice_ in larger_slices(nearest.plan.slice):
        chip = slice_.chip.name
        if tried[chip] == _MOST_SLICES:
            continue
        tried[chip] += 1
        best = screen(_without_mesh(config), slice_, architecture)[0]
        if helps(best):
            tried[chip] = _MOST_SLICES
            mesh = best.plan.mesh
            how = f" ({mesh.words})" if config.searches_mesh else f" and {_options(mesh)}"
            found.append(Remedy(f"--topology={slice_.name}{how}", best))
    return found


def _without_mesh(config: PreflightConfig) -> PreflightConfig:
    """The same, as if nobody had chosen a mesh."""
    free = MeshSection(platform=config.mesh.platform)
    origins = {f"mesh.{axis}": "default" for axis in Mesh._fields}
    return replace_options(config, {"mesh": free}).with_origins({**config.origins, **origins})


def _options(mesh: Mesh) -> str:
    """All of it, as a remedy has it: what was set otherwise must not stay."""
    return " and ".join(f"mesh.{axis}={size}" for axis, size in mesh._asdict().items())


def _pairs(
    singles: Sequence[tuple[str, Plan]], architecture: Architecture
) -> Iterator[tuple[str, Plan]]:
    """Two changes together, of different options, each pair once.

    The second is of the changed plan: once there is an adapter, its base can be rounded.
    """
    told: set[frozenset[str]] = set()
    for words, changed in singles:
        for more, both in _allowed_changes(changed, architecture):
            pair = frozenset((words, more))
            if words.partition("=")[0] != more.partition("=")[0] and pair not in told:
                told.add(pair)
                yield f"{words} and {more}", both


def _allowed_changes(plan: Plan, architecture: Architecture) -> Iterator[tuple[str, Plan]]:
    """The single changes that training would take, by its own rules."""
    for words, changed in _single_changes(plan, architecture):
        try:
            config = type(changed.config).from_config_dict(changed.config.to_dict())
            lora_base(config).check(architecture)
        except (ConfigError, ModelError):
            continue
        yield words, changed


def _single_changes(plan: Plan, architecture: Architecture) -> Iterator[tuple[str, Plan]]:
    config, mesh = plan.config, plan.mesh
    if plan.remat != "block":
        yield "step.remat=block", plan.changed(step__remat="block")
    if plan.rows > 1:
        accumulation = config.optimizer.accumulation_steps * plan.rows
        if config.batch_size % accumulation == 0:
            yield (
                f"optimizer.accumulation_steps={accumulation}",
                plan.changed(optimizer__accumulation_steps=accumulation),
            )
        batch = max(config.batch_size // plan.rows, 1)
        if batch % config.optimizer.accumulation_steps == 0:
            yield f"batch_size={batch}", plan.changed(batch_size=batch)
    if mesh.data > 1 and architecture.width % (mesh.fsdp * mesh.data) == 0:
        split = Mesh(1, mesh.fsdp * mesh.data, mesh.tensor)
        yield _options(split), plan.changed(mesh__data=split.data, mesh__fsdp=split.fsdp)
    length = plan.length
    while length // 2 >= _SHORTEST_ROW:
        length //= 2
        yield f"data.sequence_length={length}", plan.changed(data__sequence_length=length)
    if config.lora.enabled and config.lora.base == "float":
        for base in ("int8", "nf4"):
            yield f"lora.base={base}", plan.changed(lora__base=base)
    if not config.lora.enabled:
        yield "lora.enabled=True", plan.changed(lora__enabled=True)
