"""Stock KerasHub as an arm of `benchmarks.generate`: Gemma3CausalLM, greedy, on the JAX backend.

What is called is the compiled function inside `generate`: given token ids in place of a
preprocessor, `generate` itself fails on text-only Gemma 3 (keras-hub 0.32), after it has computed
everything. All rows end at one length: shorter prompts get more tokens than were asked for, which
are cut off here, because KerasHub has no budget for a row.
"""

from __future__ import annotations

from benchmarks.generate_arm import Job, Loaded, Prompts, padded, run_job


def import_libraries() -> None:
    """Keras on JAX, and KerasHub."""
    from coderllm_jax.model.keras_bridge import import_keras_hub

    import_keras_hub()


def load(job: Job, prompts: Prompts) -> Loaded:
    """A Gemma3CausalLM that holds the same weights."""
    import keras_hub
    import numpy as np

    from coderllm_jax.config.training import ModelSection
    from coderllm_jax.model.keras_bridge import to_keras_hub
    from coderllm_jax.model.load import load_model

    model = load_model(job.model_name, dtype=job.format, cache_dir=ModelSection().cache_dir)
    backbone = to_keras_hub(model.architecture, model.weights, dtype=job.format)
    del model
    causal_lm = keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)
    causal_lm.compile(sampler="greedy")
    compiled = causal_lm.make_generate_function()

    def generate(prompts: Prompts, num_new: int) -> list[list[int]]:
        ids, mask = padded(prompts, length=max(map(len, prompts)) + num_new)
        found = np.asarray(compiled({"token_ids": ids, "padding_mask": mask})["token_ids"])
        return [
            row[len(prompt) : len(prompt) + num_new].tolist()
            for row, prompt in zip(found, prompts, strict=True)
        ]

    return Loaded(generate, lambda: {"dtype": job.format})


if __name__ == "__main__":
    run_job(import_libraries, load)
