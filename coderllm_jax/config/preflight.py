"""Every field of `preflight`: a training run's, and what is asked about it.

A training card is a card of this command: `--config=configs/lora.py`. Mesh and batch are searched
for where the card and the command line leave them at their defaults, and kept where they do not:
`--config.mesh.fsdp=1` is a choice, too, and keeps the whole mesh.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.comparison import PricesSection
from coderllm_jax.config.schema import Section, option, section
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ScreenSection(Section):
    max_batch_size: int = option(
        256, "The largest batch_size that the screen tries, where none was set.", low=1
    )
    supervised_fraction: float = option(
        0.5,
        "Part of all positions whose token is trained on; the loss's work hangs on it.",
        low=0,
        high=1,
    )
    least_share: float = option(
        0.9,
        "The smallest batch is preferred among those with at least this share of the best rate.",
        low=0,
        high=1,
    )


@dataclasses.dataclass(frozen=True)
class CompileSection(Section):
    winners: int = option(
        1, "Plans that are compiled, the best of the screen first; 0: screen only.", low=0, high=3
    )
    evaluation: bool = option(True, "Compiles the evaluation step of the first plan, too.")
    timeout_s: float = option(1800.0, "Longest that one compilation may take.", low=1)
    max_memory_gb: float = option(
        16.0, "Most memory of this machine that a compilation may hold, 10^9 bytes.", low=0.1
    )
    library: str = option(
        "",
        "libtpu.so. Empty: TPU_LIBRARY_PATH, the one beside the cached models "
        "(model.cache_dir/libtpu), or the installed package, the first that is there.",
    )


@dataclasses.dataclass(frozen=True)
class PreflightConfig(TrainingConfig):
    """A training run and the chips it is planned for."""

    title: ClassVar[str] = (
        "Says whether a training run fits a TPU slice, and what a step would take at best, without "
        "a chip: --topology=v5p:2x4x4 (or Cloud's v5p-64) and --json=FILE may be written so. Exit "
        "code 3 where nothing fits."
    )

    topology: str = option(
        "v5e:2x4", "The slice: a chip (v5e, v6e, v5p) and a shape, or Cloud's name for it."
    )
    json: str = option("", "A file that receives everything that was found, once it was printed.")

    screen: ScreenSection = section(ScreenSection)
    compile: CompileSection = section(CompileSection)
    prices: PricesSection = section(PricesSection)

    @property
    def searches_mesh(self) -> bool:
        """Whether nobody chose a mesh."""
        return all(self.origins[f"mesh.{axis}"] == "default" for axis in ("data", "fsdp", "tensor"))

    @property
    def searches_batch(self) -> bool:
        """Whether nobody chose a batch size."""
        return self.origins["batch_size"] == "default"

    def check(self) -> None:
        """A training run's own rules, and that there is a slice to plan for."""
        super().check()
        if not self.topology:
            raise ConfigError("topology is empty; name a slice such as v5e:2x4 or v5p:2x4x4")


get_config = PreflightConfig.create_default
