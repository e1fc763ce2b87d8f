"""The few answers that a run writes at every evaluation, always to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.generation.generator import Generator
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.load import LoadedModel
from coderllm_jax.model.precision import resolve_precision
from coderllm_jax.records import Sample, Turn
from coderllm_jax.training.step import Program, TrainState


def make_sampler(
    config: TrainingConfig, model: LoadedModel, program: Program, questions: Sequence[Sample]
) -> Callable[[TrainState], list[Sample]]:
    """A function of the state that answers `questions` greedily under the chat template."""
    platform = program.mesh.devices.flat[0].platform
    options = ForwardOptions(
        precision=resolve_precision(config.step.precision, platform),
        lora_scale=config.lora.alpha / config.lora.rank,
    )
    generator = Generator(model.architecture, model.tokenizer, options)
    prompts = [
        encode_prompt(model.tokenizer, [Turn("user", sample.question)]) for sample in questions
    ]
    # The mesh splits rows evenly: the last question is asked again until they divide.
    rows = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    prompts += prompts[-1:] * (-len(prompts) % rows)

    def sample(state: TrainState) -> list[Sample]:
        adapted: tuple[Any, Any] = (program.frozen, state.trainable)
        weights, adapters = adapted if config.lora.enabled else (state.trainable, {})
        with jax.set_mesh(program.mesh):
            answers = generator.generate(
                weights, adapters, prompts, max_new_tokens=config.evaluation.sample_tokens
            )
        return [
            question._replace(answer=answer)
            for question, answer in zip(questions, answers, strict=False)
        ]

    return sample
