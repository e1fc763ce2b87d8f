"""Our engine as an arm of `benchmarks.generate`: as many slots as prompts, nothing else set."""

from __future__ import annotations

from typing import Any

from benchmarks.generate_arm import Job, Loaded, Prompts, run_job


def import_libraries() -> None:
    """What an answering process has imported before it loads anything."""
    import jax

    from coderllm_jax.generation.engine import Engine

    jax.devices()
    assert callable(Engine)


def load(job: Job, prompts: Prompts) -> Loaded:
    """An engine over the named model, whose answers no token ends."""
    from coderllm_jax.config.training import ModelSection
    from coderllm_jax.generation import program
    from coderllm_jax.generation.engine import Engine, Request
    from coderllm_jax.generation.weight_format import choose_precision
    from coderllm_jax.model.forward import ForwardOptions
    from coderllm_jax.model.load import load_model

    cache_dir = ModelSection().cache_dir
    precision = choose_precision(job.format, num_slots=len(prompts), cache_dir=cache_dir)
    model = load_model(
        job.model_name,
        dtype="bfloat16" if precision.weights == "bfloat16" else "float32",
        cache_dir=cache_dir,
    )
    model.tokenizer.end_of_turn_id = model.tokenizer.eos_id = -1
    compiled: list[Any] = []
    used: set[Any] = set()
    run_blocks, prefill = program.run_blocks, program.prefill

    def traced(weights: Any, ids_BL: Any, *arguments: Any, **options: Any) -> Any:
        compiled.append(ids_BL.shape)
        return run_blocks(weights, ids_BL, *arguments, **options)

    def called(weights: Any, before: Any, piece: Any, **options: Any) -> Any:
        # A prompt's first piece has nothing before it, which is another program.
        used.add((piece.ids.shape, before is None))
        return prefill(weights, before, piece, **options)

    program.run_blocks, program.prefill = traced, called
    engine = Engine(
        model.architecture,
        model.tokenizer,
        model.weights,
        options=ForwardOptions(precision=precision),
        num_slots=len(prompts),
        max_length=max(map(len, prompts)) + job.num_new,
        cache_dir=cache_dir,
    )
    del model

    def generate(prompts: Prompts, num_new: int) -> list[list[int]]:
        requests = [Request(str(i), prompt, num_new) for i, prompt in enumerate(prompts)]
        return [completion.ids for completion in engine.generate(requests)]

    def describe() -> dict[str, Any]:
        programs = {"num_compiled": len(compiled), "num_used": len(used) + 1}  # and decoding's
        return {**engine.setting, **programs}

    return Loaded(generate, describe)


if __name__ == "__main__":
    run_job(import_libraries, load)
