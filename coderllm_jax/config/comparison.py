"""Every field of `compare`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.evaluation import JudgeSection
from coderllm_jax.config.generation import EndpointSection, GenerationSection, PromptSection
from coderllm_jax.config.retrieval import RetrievalSection
from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.config.training import ModelSection
from coderllm_jax.errors import ConfigError

ARMS = ("trained", "rag", "base", "trained_rag", "endpoint")
LOOKING_UP = frozenset({"rag", "trained_rag"})
_WITH_TRAINED = frozenset({"trained", "trained_rag"})


@dataclasses.dataclass(frozen=True)
class ValidationSection(Section):
    items: int = option(
        16,
        "Questions, none of them compared later, on which each arm's prompt is chosen; 0: every "
        "arm gets the first of its candidates.",
        low=0,
    )
    passages: tuple[int, ...] = option(
        (3, 2, 5), "Numbers of passages that are tried, the first one before the others."
    )
    shots: tuple[int, ...] = option(
        (2, 4, 0), "Numbers of examples that are tried, the first one before the others."
    )

    def check(self) -> None:
        if not self.passages or min(self.passages) < 1:
            raise ConfigError(
                f"validation.passages is {list(self.passages)}; expected numbers from 1 on"
            )
        if not self.shots or min(self.shots) < 0:
            raise ConfigError(f"validation.shots is {list(self.shots)}; expected numbers from 0 on")


@dataclasses.dataclass(frozen=True)
class SpeedSection(Section):
    alone_items: int = option(
        12,
        "Questions that are also asked one at a time, for the time that one person waits; 0: none.",
        low=0,
    )
    alone_tokens: int = option(16, "Longest answer of those, in tokens.", low=2)
    margin: float = option(
        0.1, "A smaller part of a time than this is no difference, however certain.", low=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class ConsistencySection(Section):
    items: int = option(16, "Questions that are asked again, in other words too; 0: none.", low=0)
    paraphrases: int = option(1, "Other wordings of each.", low=0, high=8)


@dataclasses.dataclass(frozen=True)
class VerdictsSection(Section):
    alpha: float = option(
        0.05,
        "Chance of calling any two arms different that are not, over everything that answers are "
        "scored for.",
        low=1e-6,
        high=0.5,
    )
    margin: float = option(
        0.05,
        "Arms whose scores differ by less than this, surely, are equivalent. Of scores from 0 to "
        "1; percentages are divided by 100.",
        low=0,
        high=1,
    )
    right_from: float = option(
        0.8, "Fact F1 from which on an answer counts as right.", low=0.01, high=1
    )


@dataclasses.dataclass(frozen=True)
class PricesSection(Section):
    currency: str = option("USD", "Of all prices.")
    cpu_hour: float = option(
        0.0,
        "Yours to set: an hour of a machine such as this one, all of its processors. 0: not set; "
        "costs are then told in seconds alone.",
        low=0,
    )
    gpu_hour: float = option(0.0, "Yours to set: an hour of one GPU. 0: not set.", low=0)
    tpu_chip_hour: float = option(0.0, "Yours to set: an hour of one TPU chip. 0: not set.", low=0)
    tokens_in_million: float = option(
        0.0, "Yours to set: a million tokens of prompts to the endpoint. 0: not set.", low=0
    )
    tokens_out_million: float = option(
        0.0, "Yours to set: a million tokens of the endpoint's answers. 0: not set.", low=0
    )
    source: str = option("", "Where the prices are from, and of when; the page says it.")
    volumes: tuple[int, ...] = option(
        (1_000, 100_000, 10_000_000), "Numbers of answers over which training is spread."
    )

    def check(self) -> None:
        if any(volume < 1 for volume in self.volumes):
            raise ConfigError(
                f"prices.volumes is {list(self.volumes)}; expected numbers of answers from 1 on"
            )
        if bool(self.tokens_in_million) != bool(self.tokens_out_million):
            raise ConfigError(
                f"prices.tokens_in_million is {self.tokens_in_million:g} and "
                f"prices.tokens_out_million {self.tokens_out_million:g}; set both or none"
            )


@dataclasses.dataclass(frozen=True)
class UseCasesSection(Section):
    first_token_s: float = option(
        1.0, "Interactive use: the longest that 19 of 20 people may wait for a first word.", low=0
    )
    cited_share: float = option(
        0.5, "Answers that must cite: the least share of them that has to.", low=0, high=1
    )
    memory_gb: float = option(
        2.0, "Tight memory: the most that model, cache, index and embedder may take.", low=0
    )
    volume: int = option(1_000_000, "High volume: answers that are given.", low=1)
    least_score: float = option(
        0.2, "Fact F1 below which an arm is recommended for nothing.", low=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(Config):
    """A comparison. `create_default()` to edit, `run_comparison(config)` to run."""

    title: ClassVar[str] = (
        "Compares a trained model, retrieval over the same knowledge, the base model and both "
        "together: how good, how fast, at what cost, and how sure."
    )

    test_queries: tuple[str, ...] = option(
        (), "Questions of your own, without references; empty: the prepared evaluation items."
    )
    arms: tuple[str, ...] = option(
        ("trained", "rag", "base", "trained_rag"), "Who is compared.", choices=ARMS
    )
    run: str = option("runs/lora", "The trained arm: whatever `evaluate` takes as model_path.")
    base_model: str = option("", "The base arm's model; empty: the one that was trained.")
    workdir: str = option("runs/comparison", "Where everything is written.")
    items_path: str = option("data/evaluation", "Evaluation items, as `prepare` writes them.")
    chunks_path: str = option(
        "data/chunks",
        "Chunks, as `prepare` writes them: trained.jsonl holds what was trained on, the other "
        "files what is newer.",
    )
    max_items: int = option(100, "Questions about symbols that were trained on.", low=1)
    unseen_items: int = option(
        24, "Questions about symbols that were not, which retrieval may look up; 0: none.", low=0
    )
    human_eval: int = option(0, "HumanEval's problems that are asked; 0: none.", low=0, high=164)
    max_new_tokens: int = option(64, "Longest answer, in tokens; the same for every arm.", low=1)
    seed: int = option(0, "Seeds order and resampling.", low=0, high=2**31 - 1)
    reuse: bool = option(
        True, "Whether answers of an earlier, equal comparison in this folder are taken over."
    )
    clu: bool = option(True, "Whether CLU (TensorBoard) summaries are written.")

    model: ModelSection = section(ModelSection)
    generation: GenerationSection = section(GenerationSection)
    prompt: PromptSection = section(PromptSection)
    validation: ValidationSection = section(ValidationSection)
    retrieval: RetrievalSection = section(RetrievalSection)
    endpoint: EndpointSection = section(EndpointSection)
    judge: JudgeSection = section(JudgeSection)
    speed: SpeedSection = section(SpeedSection)
    consistency: ConsistencySection = section(ConsistencySection)
    verdicts: VerdictsSection = section(VerdictsSection)
    prices: PricesSection = section(PricesSection)
    use_cases: UseCasesSection = section(UseCasesSection)

    @property
    def looks_up(self) -> bool:
        """Whether any arm retrieves."""
        return not LOOKING_UP.isdisjoint(self.arms)

    @property
    def needs_run(self) -> bool:
        """Whether any arm is the trained one."""
        return not _WITH_TRAINED.isdisjoint(self.arms)

    @property
    def needs_base(self) -> bool:
        """Whether any arm answers with the base's weights."""
        return not {"base", "rag"}.isdisjoint(self.arms)

    def check(self) -> None:
        if len(set(self.arms)) < max(2, len(self.arms)):
            raise ConfigError(
                f"arms is {list(self.arms)}; expected at least two, each once, of {', '.join(ARMS)}"
            )
        if "endpoint" in self.arms and not self.endpoint.url:
            raise ConfigError(
                "arms names endpoint and endpoint.url is empty; set endpoint.url, such as "
                "http://127.0.0.1:8000/v1, or leave endpoint out of arms"
            )
        if self.needs_run and not self.run:
            raise ConfigError("run is empty; name a run's folder, or leave trained out of arms")
        blank = [number for number, query in enumerate(self.test_queries, 1) if not query.strip()]
        if blank:
            raise ConfigError(f"test_queries holds an empty question (number {blank[0]}); drop it")
        if not self.workdir:
            raise ConfigError("workdir is empty; name a folder")


get_config = ComparisonConfig.create_default
