"""Generation as an arm of `benchmarks.gpu`: how fast the engine reads prompts and writes answers.

Options: `slots`, a list; `prompt` and `answer`, tokens each. All slots are busy from end to end,
with prompts that share nothing. Weights are random: what is said is nonsense of the right length.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.gpu_cells import MODELS, Job, choose_jax_platform, run_arm
from benchmarks.gpu_ours import random_weights

_PREFILL_TOKENS = 512
_REPEATS = 10


def import_libraries(job: Job) -> None:
    """The engine, no device touched."""
    choose_jax_platform(job)
    from coderllm_jax.generation.engine import Engine

    assert callable(Engine)


def measure(job: Job) -> dict[str, Any]:
    """Tokens a second of decoding by slots, and of prefill."""
    import jax

    from coderllm_jax.config.training import MeshSection
    from coderllm_jax.model.forward import ForwardOptions
    from coderllm_jax.model.precision import PRECISIONS
    from coderllm_jax.model.sharding import make_mesh

    architecture = MODELS[job.cell.model]
    options = ForwardOptions(precision=PRECISIONS["bfloat16"])
    mesh = make_mesh(MeshSection(), devices=jax.devices()[:1])
    weights = random_weights(architecture, mesh=mesh)
    return {
        "prefill_tokens_per_s": _prefill_rate(architecture, weights, options),
        "decode": {
            str(slots): _decode_rate(architecture, weights, options, slots=slots, job=job)
            for slots in job.options["slots"]
        },
    }


def _prefill_rate(architecture: Any, weights: Any, options: Any) -> float:
    import jax

    from coderllm_jax.generation import program

    split = program.split_layers(weights, {}, architecture=architecture)
    state = program.new_slots(
        architecture,
        num_slots=1,
        max_length=2 * _PREFILL_TOKENS,
        dtype=options.precision.operands,
    )
    ids = np.arange(_PREFILL_TOKENS, dtype=np.int32)[None] % 256 + 16
    piece = program.Piece(ids, *(np.array([each], np.int32) for each in (0, 0, _PREFILL_TOKENS)))
    seconds = []
    for _ in range(1 + _REPEATS):
        begin = time.perf_counter()
        state = program.prefill(
            split, state, piece, architecture=architecture, options=options, is_first=True
        )
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin)
    return _PREFILL_TOKENS / statistics.median(seconds[1:])


def _decode_rate(
    architecture: Any, weights: Any, options: Any, *, slots: int, job: Job
) -> dict[str, float]:
    from coderllm_jax.data.tokenizer import ByteTokenizer
    from coderllm_jax.generation.engine import Engine, Request

    prompt, answer = job.options["prompt"], job.options["answer"]
    engine = Engine(
        architecture,
        ByteTokenizer(),
        weights,
        options=options,
        num_slots=slots,
        max_length=prompt + answer,
    )
    generator = np.random.default_rng(0)

    def requests(label: str) -> list[Request]:
        ids = generator.integers(16, architecture.vocabulary, (slots, prompt), np.int32)
        return [Request(f"{label}{i}", row, max_new_tokens=answer) for i, row in enumerate(ids)]

    engine.generate(requests("warm-up "))
    begin = time.perf_counter()
    done = engine.generate(requests("timed "))
    total_s = time.perf_counter() - begin
    writing_s = max(one.finished_s - one.first_token_s for one in done)
    return {
        "tokens_per_s": sum(one.num_generated - 1 for one in done) / writing_s,
        "tokens_per_s_with_prefill": sum(one.num_generated for one in done) / total_s,
    }


if __name__ == "__main__":
    run_arm(import_libraries, measure)
