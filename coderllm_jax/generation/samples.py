"""The few answers that a run writes at every evaluation, always to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.generation.engine import Engine, Request
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.load import LoadedModel
from coderllm_jax.model.precision import resolve_precision
from coderllm_jax.model.sharding import row_multiple
from coderllm_jax.records import Sample, Turn
from coderllm_jax.training.step import Program, TrainState


def make_sampler(
    config: TrainingConfig, model: LoadedModel, program: Program, questions: Sequence[Sample]
) -> Callable[[TrainState], list[Sample]]:
    """A function of the state that answers `questions` greedily under the chat template."""
    if not questions:
        return lambda state: []
    platform = program.mesh.devices.flat[0].platform
    options = ForwardOptions(
        precision=resolve_precision(config.step.precision, platform),
        lora_scale=config.lora.alpha / config.lora.rank,
    )
    requests = [
        Request(
            id=str(index),
            prompt=encode_prompt(model.tokenizer, [Turn("user", sample.question)]),
            max_new_tokens=config.evaluation.sample_tokens,
        )
        for index, sample in enumerate(questions)
    ]
    longest = max(len(request.prompt) for request in requests)
    # The mesh splits slots evenly, and CPUs multiply two rows faster than one.
    rows = row_multiple(program.mesh)
    num_slots = -(-max(len(requests), 2) // rows) * rows

    def sample(state: TrainState) -> list[Sample]:
        adapted: tuple[Any, Any] = (program.frozen, state.trainable)
        weights, adapters = adapted if config.lora.enabled else (state.trainable, {})
        with jax.set_mesh(program.mesh):
            # Made anew each time: kept, its slots and split weights would lie beside training.
            engine = Engine(
                model.architecture,
                model.tokenizer,
                weights,
                adapters,
                options=options,
                num_slots=num_slots,
                max_length=longest + config.evaluation.sample_tokens,
                merge=False,
            )
            answers = engine.generate(requests)
        return [
            question._replace(answer=answer.text)
            for question, answer in zip(questions, answers, strict=True)
        ]

    return sample
