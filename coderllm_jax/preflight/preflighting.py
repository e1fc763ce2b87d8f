"""The order of a preflight: numbers, screen, compilation, answer.

    config ─> architecture, slice ─> screened plans ─> compiled winners ─> Preflight
                                                  └─ none fits ─> remedies

It is no only where the compiler has refused the plan with the most to spare, whatever the screen
had put before it. The answer holds everything that the table and the JSON file tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.preflight.catalogue import find_architecture
from coderllm_jax.preflight.chips import Slice, parse_topology
from coderllm_jax.preflight.compiling import Compiled, compile_step, find_library
from coderllm_jax.preflight.roofline import Bound, bound_step
from coderllm_jax.preflight.screen import Remedy, Screened, find_remedies, screen
from coderllm_jax.training.step import lora_base

# Compilations that may fail before the plan with the most to spare has the last word.
_MOST_REFUSED = 2


class Winner(NamedTuple):
    """A plan that was compiled. evaluation: of the first only; None where it was not asked for."""

    screened: Screened
    train: Compiled
    evaluation: Compiled | None

    @property
    def bound(self) -> Bound | None:
        """Of the compiled training step; None where it did not fit."""
        if self.train.costs is None:
            return None
        costs = self.train.costs
        return bound_step(
            self.screened.plan.slice,
            flops=costs.flops + self.kernel_flops,
            num_bytes=costs.bytes,
            collectives=costs.collectives,
        )

    @property
    def largest(self) -> Compiled:
        """The step that needs the most memory."""
        steps = [step for step in (self.train, self.evaluation) if step is not None]
        return max(steps, key=lambda step: step.needed_bytes)

    @property
    def shortage(self) -> float:
        """What the compiler needed more than the screen had said, in bytes of a chip."""
        return self.largest.needed_bytes - self.screened.estimate.memory_bytes

    @property
    def kernel_flops(self) -> float:
        """Of attention's kernels, whose products no count of a module sees: by formula."""
        if self.train.description["attention"] == "dense":
            return 0.0
        return self.screened.estimate.attention_flops

    @property
    def fits(self) -> bool:
        return self.train.fits and (self.evaluation is None or self.evaluation.fits)


class Preflight(NamedTuple):
    """Everything that was found. screened: the best first. remedies: where nothing fits."""

    config: PreflightConfig
    architecture: Architecture
    slice: Slice
    screened: list[Screened]
    winners: list[Winner]
    remedies: list[Remedy]

    @property
    def fits(self) -> bool:
        """By the compiler where it was asked, else by the screen."""
        if self.winners:
            return any(winner.fits for winner in self.winners)
        return self.screened[0].fits

    @property
    def nearest(self) -> Winner:
        """What was compiled and needs the least memory."""
        return min(self.winners, key=lambda winner: winner.largest.needed_bytes)


def run_preflight(config: PreflightConfig, *, note: Callable[[str], None]) -> Preflight:
    """Does all of it; UserError for a mistake, and where libtpu is missing or gives no answer."""
    slice_ = parse_topology(config.topology)
    architecture = find_architecture(config.model_name)
    lora_base(config).check(architecture)
    library = find_library(config) if config.compile.winners else None
    screened = screen(config, slice_, architecture)
    winners: list[Winner] = []
    if library is not None:
        winners = list(_compile_winners(screened, config=config, library=library, note=note))
    found = Preflight(config, architecture, slice_, screened, winners, [])
    if found.fits:
        return found
    nearest = found.nearest.screened if winners else screened[0]
    remedies = find_remedies(config, nearest, architecture, shortage=_shortage(winners))
    return found._replace(remedies=remedies)


def _compile_winners(
    screened: list[Screened],
    *,
    config: PreflightConfig,
    library: Path,
    note: Callable[[str], None],
) -> Iterator[Winner]:
    """The first plans, until enough of them fit, or the compiler has refused a few.

    One that it refuses says how wrong the screen is; plans with less to spare are then passed over.
    Where the screen says that none fits, the nearest is compiled, for the compiler's own word; and
    where it refused all that it was shown, the one with the most to spare is shown to it, too.
    """

    def compiled(screened: Screened, *, evaluates: bool) -> Winner:
        note(f"compiling the training step for {screened.plan.words}")
        train = compile_step(screened.plan, "train", config=config, library=library)
        evaluation = None
        if evaluates and train.fits:
            note("compiling the evaluation step")
            evaluation = compile_step(screened.plan, "evaluation", config=config, library=library)
        return Winner(screened, train, evaluation)

    candidates = [each for each in screened if each.fits] or screened[:1]
    tried: list[Winner] = []
    for each in candidates:
        num_fitting = sum(winner.fits for winner in tried)
        if num_fitting == config.compile.winners or len(tried) - num_fitting == _MOST_REFUSED:
            break
        if tried and each.spare_bytes < _shortage(tried):
            continue
        tried.append(compiled(each, evaluates=config.compile.evaluation and not num_fitting))
        yield tried[-1]
    roomiest = max(candidates, key=lambda each: each.spare_bytes)
    if not any(winner.fits or winner.screened is roomiest for winner in tried):
        yield compiled(roomiest, evaluates=config.compile.evaluation)


def _shortage(winners: Sequence[Winner]) -> float:
    """By how many bytes of a chip the screen was too hopeful of what the compiler refused."""
    refused = [winner for winner in winners if not winner.fits]
    return max((winner.shortage for winner in refused), default=0.0)
