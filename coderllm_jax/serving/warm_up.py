"""Everything compiled before the first client: no answer waits for a compiler.

Which programs there are follows from the engine: a prompt is prefilled in pieces of 32, 64, ... 512
tokens, each with or without a piece before it, and a token is decoded in four ways (greedy or not,
with log-probabilities or not). A test counts what a warm engine compiles afterwards: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coderllm_jax.generation.engine import Engine, Request
from coderllm_jax.records import GREEDY, Sampling

_PIECES = tuple(1 << power for power in range(5, 10))
# Two tokens: the second is decoded from what the first step left.
_TOKENS = 2


def compile_engine(engine: Engine) -> int:
    """Answers one small request for every program there is; returns how many requests."""
    requests = list(_requests(engine))
    for request in requests:
        engine.submit(request)
        while not engine.is_idle:
            engine.step()
    return len(requests)


def _requests(engine: Engine) -> Iterator[Request]:
    longest = engine.max_length - _TOKENS
    # A prompt's last token is decoded and not prefilled.
    lengths = [1, *(piece + 1 for piece in _PIECES), *(_PIECES[-1] + p + 1 for p in _PIECES)]
    fitting = [length for length in lengths if length <= longest]
    for length in [*fitting, longest]:
        yield _request(engine, f"prefill-{length}", length)
    for samples in (False, True):
        for logprobs in (False, True):
            yield _request(
                engine, f"decode-{samples}-{logprobs}", 2, samples=samples, logprobs=logprobs
            )


def _request(
    engine: Engine, id: str, length: int, *, samples: bool = False, logprobs: bool = False
) -> Request:
    prompt = np.full(length, engine.tokenizer.bos_id, np.int32)
    sampling = Sampling(temperature=1.0, top_p=0.9) if samples else GREEDY
    return Request(f"warm-up/{id}", prompt, _TOKENS, sampling=sampling, logprobs=logprobs)
