"""`python -m coderllm_jax.ask "question"`: one answer, streamed as it comes.

question ──► the default run, or whoever model_path names ──► text on stdout
                                                          ──► who, how long on stderr
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from coderllm_jax import entry
from coderllm_jax.config.ask import AskConfig
from coderllm_jax.config.command_line import Shorthand
from coderllm_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from coderllm_jax.generation.answering import LocalAnswerer
    from coderllm_jax.records import Answer, Answerer, Query

_DEFAULT_RUN, _BASE = "runs/lora", "gemma3_270m"
# One answer; CPUs multiply two rows faster than one.
_SLOTS = 2


def main(config: AskConfig) -> int:
    """Answers on stdout; says on stderr who answered and how fast."""
    if not config.question.strip():
        raise ConfigError(
            'there is no question; write one: python -m coderllm_jax.ask "What is optax.lion?"'
        )
    from coderllm_jax.training.devices import check_platform, prepare_process

    prepare_process(platform=config.generation.platform, cache_dir=config.model.cache_dir)
    check_platform(config.generation.platform)
    started_s = time.perf_counter()
    with contextlib.closing(_open(config)) as answerer:
        compile_for(answerer, config)
        ready_s = time.perf_counter() - started_s
        answer = stream_answer(answerer, config)
    if answer.error:
        raise DataError(answer.error)
    waited = answer.time_to_first_token_s or 0.0
    rate = 1 / answer.time_per_token_s if answer.time_per_token_s else 0.0
    cut = ", cut at max_new_tokens" if answer.finish == "length" else ""
    print(
        f"[{answerer.name}: ready after {ready_s:.1f} s, first token {waited:.2f} s later, "
        f"{answer.num_new_tokens} tokens, {rate:.0f} tokens/s{cut}]",
        file=sys.stderr,
    )
    return 0


def compile_for(answerer: Answerer, config: AskConfig) -> None:
    """Ends the start-up: the programs for a prompt of this length are there afterwards."""
    from coderllm_jax.generation.answering import answer_all

    answer_all(answerer, [_query(config, "compile", max_new_tokens=2)])


def stream_answer(answerer: Answerer, config: AskConfig) -> Answer:
    """Asks, writes every piece of text as soon as it is certain, and returns the whole."""
    answerer.submit(_query(config, "ask", max_new_tokens=config.max_new_tokens))
    while True:
        for delta in answerer.poll(0.1):
            sys.stdout.write(delta.text)
            sys.stdout.flush()
            if delta.answer is not None:
                sys.stdout.write("\n")
                return delta.answer


def _query(config: AskConfig, id: str, *, max_new_tokens: int) -> Query:
    from coderllm_jax.records import Query, Sampling

    return Query.from_question(
        id,
        config.question,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=config.temperature, seed=config.seed),
    )


def _open(config: AskConfig) -> LocalAnswerer:
    from coderllm_jax.generation.opening import open_local

    path = config.model_path
    if not path:
        trained = (Path(_DEFAULT_RUN) / "adapter").is_dir()
        path = _DEFAULT_RUN if trained else _BASE
        if not trained:
            print(f"{_DEFAULT_RUN} is not there: the base model answers", file=sys.stderr)
    return open_local(
        path,
        generation=dataclasses.replace(config.generation, num_slots=_SLOTS),
        prompt=config.prompt,
        cache_dir=config.model.cache_dir,
    )


if __name__ == "__main__":
    entry.run(main, AskConfig, "", computes=True, shorthand=Shorthand(words="question"))
