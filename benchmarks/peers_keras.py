"""Stock KerasHub as an arm of `benchmarks.train_step`: enable_lora, compile, fit.

Gemma3CausalLM in float32 on the JAX backend, `enable_lora(8)` (query and value), Adam,
SparseCategoricalCrossentropy(from_logits=True) with sample weights on the supervised tokens, as
KerasHub's guides train it, but without their accuracy metric, which would only cost time.

Keras compiles for every shape; that falls into warm-up and counts for nobody. KerasHub's Gemma
takes neither positions nor segments: in a packed row examples see one another, so that arm is a
measure of speed alone and its loss is not the others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Job, OnStep, Train, run_job
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.records import PackedBatch


def import_libraries() -> None:
    """Keras on JAX, and KerasHub."""
    from coderllm_jax.model.keras_bridge import import_keras_hub

    import_keras_hub()


def load(job: Job) -> Train:
    """A compiled Gemma3CausalLM that holds the same weights."""
    import grain
    import keras
    import keras_hub

    from coderllm_jax.model.keras_bridge import to_keras_hub
    from coderllm_jax.model.load import load_model

    config = TrainingConfig(model_name=job.model_name)
    model = load_model(config.model_name, dtype="float32", cache_dir=config.model.cache_dir)
    backbone = to_keras_hub(model.architecture, model.weights)
    del model
    backbone.enable_lora(config.lora.rank)
    causal_lm = keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)
    causal_lm.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )

    def train(batches: Sequence[PackedBatch], on_step: OnStep) -> None:
        source = grain.MapDataset.source(batches).map(_features)
        # Keras divides the loss by all positions.
        scales = [batch.weights.size / float(batch.weights.sum()) for batch in batches]

        class Report(keras.callbacks.Callback):
            def on_train_batch_end(self, step: int, logs: dict[str, Any] | None = None) -> None:
                # The progress bar that stock users see waits for the loss just so.
                assert logs is not None
                on_step(float(logs["loss"]) * scales[step])

        causal_lm.fit(source, verbose=0, callbacks=[Report()])

    return train


def _features(batch: PackedBatch) -> tuple[dict[str, Any], Any, Any]:
    inputs = {"token_ids": batch.inputs, "padding_mask": batch.segments > 0}
    return inputs, batch.targets, batch.weights


if __name__ == "__main__":
    run_job(import_libraries, load)
