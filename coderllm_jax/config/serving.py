"""Every field of `serve`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.access import check_access
from coderllm_jax.config.generation import GenerationSection, PromptSection
from coderllm_jax.config.retrieval import RetrievalSection
from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.config.training import ModelSection
from coderllm_jax.errors import ConfigError

ARMS = ("base", "trained", "rag", "trained-rag")


@dataclasses.dataclass(frozen=True)
class RequestLogSection(Section):
    path: str = option(
        "runs/serving/requests.jsonl",
        "One JSON line a request, in a file for each server; empty: none is written.",
    )
    max_bytes: int = option(
        64 * 1024 * 1024, "Size at which a new file is begun.", low=4096, high=2**40
    )
    kept: int = option(4, "Earlier files that stay beside it.", low=0, high=1000)
    text: bool = option(
        False,
        "Whether questions and answers are written too; credentials and what looks like one are "
        "blotted out.",
    )
    mean_logprob: bool = option(
        False,
        "Whether log-probabilities are computed for every answer, as the monitor's watch over "
        "confidence needs; answers take longer.",
    )


@dataclasses.dataclass(frozen=True)
class LimitsSection(Section):
    max_waiting: int = option(
        64, "Answers that may wait for a slot, for each engine; more are turned away (429).", low=0
    )
    deadline_s: float = option(
        300.0, "Seconds after which a request ends unanswered (504).", low=0.1, high=86_400
    )
    drain_s: float = option(
        60.0, "Seconds that answers have to end after SIGTERM.", low=0.1, high=86_400
    )
    stall_s: float = option(
        120.0, "Seconds without a token, while some are due, after which health fails.", low=1
    )
    max_choices: int = option(8, "Most answers of one request (n).", low=1, high=128)
    default_tokens: int = option(256, "Longest answer where a request does not say.", low=1)
    default_temperature: float = option(
        0.0, "Temperature where a request does not say; OpenAI's own is 1.", low=0, high=2
    )
    max_body_bytes: int = option(1 << 20, "Largest request.", low=1024, high=1 << 30)
    body_timeout_s: float = option(10.0, "Seconds that a request may take to arrive.", low=0.1)


@dataclasses.dataclass(frozen=True)
class ServingConfig(Config):
    """A server. `create_default()` to edit."""

    title: ClassVar[str] = (
        "Serves base, trained and retrieval-backed models behind OpenAI's interface."
    )

    run: str = option(
        "runs/lora", "What was trained: a run, one of its checkpoints, or an adapter's folder."
    )
    base_model: str = option(
        "", "The model that was not trained; empty: the one that the run was trained on."
    )
    chunks_path: str = option("data/chunks", "What is looked up, as `prepare` writes it.")
    arms: tuple[str, ...] = option(
        (), "Models that are served; empty: all whose parts are there.", choices=ARMS
    )
    host: str = option(
        "127.0.0.1", "Address to listen at; any but this machine's own needs a token."
    )
    port: int = option(8000, "Port; 0: any that is free.", low=0, high=65_535)
    hosts: tuple[str, ...] = option(
        (), "Names, beside localhost and host, that clients may call this server by."
    )
    token_variable: str = option(
        "SERVE_TOKEN",
        "Name of the variable that holds the token which clients must send; where it is not set, "
        "whoever reaches a loopback address may ask.",
    )

    limits: LimitsSection = section(LimitsSection)
    log: RequestLogSection = section(RequestLogSection)
    model: ModelSection = section(ModelSection)
    generation: GenerationSection = section(GenerationSection)
    prompt: PromptSection = section(PromptSection)
    retrieval: RetrievalSection = section(RetrievalSection)

    def check(self) -> None:
        check_access(hosts=self.hosts, token_variable=self.token_variable, example="SERVE_TOKEN")
        if len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms is {list(self.arms)}; expected each of them once")
        if self.limits.default_tokens >= self.generation.max_length:
            raise ConfigError(
                f"limits.default_tokens is {self.limits.default_tokens} and generation.max_length "
                f"{self.generation.max_length}; expected room for a prompt; lower default_tokens"
            )
        most = self.generation.num_slots + self.limits.max_waiting
        if self.limits.max_choices > most:
            raise ConfigError(
                f"limits.max_choices is {self.limits.max_choices} and there is room for {most} "
                "answers; raise limits.max_waiting or lower max_choices"
            )


get_config = ServingConfig.create_default
