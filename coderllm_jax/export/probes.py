"""What an export is asked, and what the model that was trained says to it.

    logits   prompts of tokens; at some of their positions, every logit of the next token
    texts    strings whose ids must be the same, one <bos> before each
    chats    conversations whose ids must be those that training made

    prompt   <bos> … … … … … … … … … … …          one is longer than the window, so that what local
    positions      ^       ^       ^   ^          layers forget is seen; few are looked at, because
                                                  one position's logits are a megabyte

Probes are the model's own kind of text: questions in chat turns, code, and letters beyond ASCII.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.generation.trained import TrainedModel
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.records import Turn

_QUESTIONS = (
    "What does optax.adamw do?",
    "Write a Python function that merges two sorted lists.",
)
_CODE = (
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\n"
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        self.items.append(item)\n"
)
TEXTS = (
    "def f(x):\n\treturn x  # two spaces",
    "    indented\n\n\n        deeper",
    "naïve café — 日本語 🙂",
    "x" * 40,
    "a  b   c" + " " * 33 + "d",
)
CHATS = (
    (("user", "What does optax.adamw do?"),),
    (("system", "Answer in one line."), ("user", "  What is 2 + 2? \n")),
    (("user", "Hi"), ("model", "    indented answer\n"), ("user", "Go on: naïve 🙂")),
)
_POSITIONS = 12
# Tokens that count as a window where the model has none: as long a probe as Gemma 3's.
_WITHOUT_WINDOW = 512


@dataclasses.dataclass(frozen=True)
class Probes:
    """Token prompts, int32 [L] each, and under each the positions whose logits are compared."""

    prompts: tuple[npt.NDArray[np.int32], ...]
    positions: tuple[npt.NDArray[np.int32], ...]


def make_probes(tokenizer: Tokenizer, architecture: Architecture) -> Probes:
    """The prompts for this model. Ids that its embedding lacks do not occur in them."""
    prompts = [encode_prompt(tokenizer, [Turn("user", question)]) for question in _QUESTIONS]
    code = tokenizer.encode(_CODE)
    window = architecture.window if architecture.global_every > 1 else _WITHOUT_WINDOW
    length = window + window // 4
    prompts.append(np.array([tokenizer.bos_id, *np.resize(code, length)], np.int32))
    positions = [
        np.unique(np.linspace(0, len(prompt) - 1, _POSITIONS).astype(np.int32))
        for prompt in prompts
    ]
    return Probes(tuple(prompts), tuple(positions))


def own_logits(
    model: TrainedModel, probes: Probes, *, options: ForwardOptions | None = None
) -> list[npt.NDArray[np.float32]]:
    """Our logits, float32 [positions, V] for each prompt. `options` default to the model's."""
    return forward_logits(
        model.architecture, model.weights, model.adapters, options or model.options, probes
    )


def forward_logits(
    architecture: Architecture,
    weights: Mapping[str, Any],
    adapters: Mapping[str, Any],
    options: ForwardOptions,
    probes: Probes,
) -> list[npt.NDArray[np.float32]]:
    """The same for bare weights; every prompt is padded to the longest, so one program serves."""
    longest = max(map(len, probes.prompts))
    found = []
    for prompt, at in zip(probes.prompts, probes.positions, strict=True):
        tokens = np.zeros(longest, np.int32)
        tokens[: len(prompt)] = prompt
        segments = (np.arange(longest) < len(prompt)).astype(np.int32)
        padded = np.resize(at, _POSITIONS)
        logits = _logits_at(
            weights,
            dict(adapters),
            tokens,
            segments,
            padded,
            architecture=architecture,
            options=options,
        )
        found.append(np.asarray(logits)[: len(at)])
    return found


@functools.partial(jax.jit, static_argnames=("architecture", "options"))
def _logits_at(
    weights: Any,
    adapters: Any,
    tokens_L: jax.Array,
    segments_L: jax.Array,
    at_P: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    """Logits [P, V] of one padded prompt at the positions `at_P`."""
    hidden_BLD = hidden_states(
        weights,
        adapters,
        tokens_L[None],
        jnp.arange(len(tokens_L), dtype=jnp.int32)[None],
        segments_L[None],
        architecture=architecture,
        options=options,
    )
    # HIGHEST: logits are held against other programs' to the fifth digit.
    logits_PV = jnp.einsum(
        "pd,vd->pv",
        hidden_BLD[0, at_P].astype(jnp.float32),
        weights["embedding"].astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    cap = architecture.final_soft_cap
    return cap * jnp.tanh(logits_PV / cap) if cap else logits_PV
