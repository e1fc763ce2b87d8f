"""Every field of `prepare`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.schema import Config, option
from coderllm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """What `prepare` reads, how much of it becomes rows, and where it is written."""

    title: ClassVar[str] = "Turns packages, source trees and documents into rows and chunks."

    packages: tuple[str, ...] = option(
        ("optax",), "Installed distributions to harvest, by the name pip knows them by."
    )
    output_dir: str = option("data", "Where training/, chunks/, evaluation/ are written.")

    def check(self) -> None:
        if not self.output_dir:
            raise ConfigError("output_dir is empty; name a folder")


get_config = DataConfig.create_default
