"""Options of whatever answers: shared by every command that asks a model something."""

from __future__ import annotations

import dataclasses

from coderllm_jax.config.schema import Section, option


@dataclasses.dataclass(frozen=True)
class EndpointSection(Section):
    url: str = option(
        "",
        "Base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; it is then "
        "what is evaluated, and model_path is not loaded.",
    )
    model: str = option("", "The model's name at that server; empty: the first that it lists.")
    api_key_variable: str = option(
        "OPENAI_API_KEY", "Name of the variable that holds its key, if it wants one."
    )
    max_in_flight: int = option(16, "Requests under way at once.", low=1, high=1024)
    timeout_s: float = option(300.0, "Seconds after which a request counts as failed.", low=0.1)


@dataclasses.dataclass(frozen=True)
class GenerationSection(Section):
    num_slots: int = option(16, "Answers generated side by side.", low=1, high=1024)
    max_length: int = option(
        1024, "Tokens of prompt and answer together; longer prompts are refused.", low=32
    )
    precision: str = option(
        "auto",
        "Number formats. auto: mixed on CPUs that multiply bfloat16, bfloat16 on accelerators.",
        choices=("auto", "float32", "mixed", "bfloat16"),
    )
    merge: bool = option(True, "Whether an adapter is added to the weights before generation.")
    platform: str = option("auto", "Device kind.", choices=("auto", "cpu", "gpu", "tpu"))


@dataclasses.dataclass(frozen=True)
class PromptSection(Section):
    style: str = option(
        "auto",
        "How a question becomes a prompt. auto: chat turns for a trained or instruction-tuned "
        "model, plain text with examples for a pretrained one.",
        choices=("auto", "chat", "few_shot"),
    )
    shots: int = option(2, "Examples in a few-shot prompt, from the training rows.", low=0, high=32)
