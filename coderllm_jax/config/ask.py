"""Every field of `ask`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.generation import GenerationSection, PromptSection
from coderllm_jax.config.schema import Config, option, section
from coderllm_jax.config.training import ModelSection


@dataclasses.dataclass(frozen=True)
class AskConfig(Config):
    """One question."""

    title: ClassVar[str] = "Answers one question, as it is written."

    question: str = option("", "The question; also the words of the command line.")
    model_path: str = option(
        "",
        "Who answers: a run, a checkpoint, an adapter, an exported folder, or a model by name. "
        "Empty: runs/lora where there is one, else the base model.",
    )
    max_new_tokens: int = option(256, "Longest answer, in tokens.", low=1)
    temperature: float = option(0.0, "0: the likeliest words.", low=0, high=100)
    seed: int = option(0, "Seeds sampling.", low=0, high=2**31 - 1)

    model: ModelSection = section(ModelSection)
    generation: GenerationSection = section(GenerationSection)
    prompt: PromptSection = section(PromptSection)


get_config = AskConfig.create_default
