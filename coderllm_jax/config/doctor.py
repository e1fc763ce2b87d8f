"""Every field of `doctor`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.schema import Config, option, section
from coderllm_jax.config.training import ModelSection


@dataclasses.dataclass(frozen=True)
class DoctorConfig(Config):
    """What a run would use, so that the doctor looks at the same places."""

    title: ClassVar[str] = (
        "Says what this machine has, and what is missing, without printing a secret. "
        "Exit code 1 where training cannot work."
    )

    model_name: str = option(
        "gemma3_270m", "The model to be trained; gemma3_270m needs its package."
    )
    workdir: str = option("runs/lora", "The run's folder.")
    json: str = option("", "Also writes the checks to this file, as JSON; -: to stdout, instead.")

    model: ModelSection = section(ModelSection)


get_config = DoctorConfig.create_default
