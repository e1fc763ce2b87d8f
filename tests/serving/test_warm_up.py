"""After the warm-up nothing is compiled, whatever is asked."""

from __future__ import annotations

from coderllm_jax.generation import program
from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Query, Sampling
from tests.serving.running import LENGTH, reference

COMPILED = (program.prefill, program.start, program.decode)


def test_a_warm_engine_compiles_nothing() -> None:
    answerer = reference()  # compiled by its making
    before = [each._cache_size() for each in COMPILED]
    queries = [
        Query(
            f"{length}/{number}/{wants}",
            continues="a" * length,
            max_new_tokens=3,
            sampling=Sampling(temperature=number, top_k=3),
            logprobs=wants,
        )
        for length in (1, 30, 31, 32, 33, 63, 64, 65, 100, LENGTH - 4)
        for number in (0, 1)
        for wants in (False, True)
    ]
    answers = answer_all(answerer, queries)
    assert all(answer.finish in ("stop", "length") for answer in answers)
    assert [each._cache_size() for each in COMPILED] == before
