"""From options to somebody who answers: a path or an address in, an Answerer out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax

from coderllm_jax.config.generation import EndpointSection, GenerationSection, PromptSection
from coderllm_jax.config.training import DataSection
from coderllm_jax.data.sources import read_examples
from coderllm_jax.generation.answering import LocalAnswerer, make_local, style_for
from coderllm_jax.generation.endpoint import Endpoint
from coderllm_jax.generation.trained import load_trained
from coderllm_jax.model.precision import resolve_precision
from coderllm_jax.training.inputs import DEFAULT_TRAINING, choose_shots


def open_local(
    path: str, *, generation: GenerationSection, prompt: PromptSection, cache_dir: str
) -> LocalAnswerer:
    """Loads what `path` names and compiles nothing yet. Raises RunError and ModelError."""
    model = load_trained(
        path,
        precision=resolve_precision(generation.precision, jax.default_backend()),
        cache_dir=cache_dir,
    )
    return make_local(model, generation, style_for(model, prompt, default_shots(prompt.shots)))


def open_endpoint(section: EndpointSection) -> Endpoint:
    """A server's model; its key comes from the variable that the section names."""
    return Endpoint(
        section.url,
        model=section.model,
        api_key=os.environ.get(section.api_key_variable),
        max_in_flight=section.max_in_flight,
        timeout_s=section.timeout_s,
    )


def default_shots(count: int) -> Sequence[tuple[str, str]]:
    """Worked examples for models that do not know chat turns: from the default training rows."""
    if not count or not DEFAULT_TRAINING.is_dir():
        return ()
    examples, _ = read_examples(str(DEFAULT_TRAINING), DataSection())
    return choose_shots(examples, count)
