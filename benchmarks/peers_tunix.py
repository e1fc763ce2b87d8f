"""Tunix as an arm of `benchmarks.peers`: qwix's LoRA, PeftTrainer with its own loss, AdamW.

The query and, because Tunix keeps them in one kernel, key and value together: adapters on value
alone cannot be asked for. No accelerator, no mesh, no recomputation, no checkpoints.

PeftTrainer's loss compares logits with the next token of its row, which in a packed row may be
another example's. So the same function gets the model's logits for the inputs, and the targets as
the tokens, moved by one; that is one position more than the others compute:

    to the model   a b c d .              tokens of the loss   . b c d e
    targets          b c d e       ──►    its mask             0 0 1 1 0
    weights          0 1 1 0

Packed rows are refused by Tunix's configuration (`max_seq_token_per_tpu`: "not supported in SFT
PeftTrainer yet"), but its model takes positions and a mask: with those of the packed rows, examples
are kept apart. A step reports once the next one is under way, as in any Tunix run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Job, OnStep, Train, run_job
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.records import PackedBatch


def import_libraries() -> None:
    """Tunix on JAX, and qwix."""
    import jax
    import qwix
    from tunix.models.gemma3 import model
    from tunix.sft import peft_trainer

    jax.devices()
    assert all((qwix, model, peft_trainer))


def load(job: Job) -> Train:
    """A PeftTrainer over the folder's weights."""
    import optax
    import qwix
    from flax import nnx
    from tunix.sft import peft_trainer

    from benchmarks.tunix_model import load_gemma3

    config = TrainingConfig(model_name=job.model_name)
    base = load_gemma3(Path(job.huggingface), dtype=job.dtype)
    provider = qwix.LoraProvider(
        module_path=".*q_einsum|.*kv_einsum", rank=config.lora.rank, alpha=config.lora.alpha
    )
    model = qwix.apply_lora_to_model(base, provider, rngs=nnx.Rngs(0), **base.get_model_input())
    del base
    trainer = peft_trainer.PeftTrainer(
        model,
        optax.adamw(config.learning_rate, weight_decay=0.0),
        peft_trainer.TrainingConfig(eval_every_n_steps=1_000_000),
    )
    stock_loss = trainer.loss_fn

    # One argument: Flax resolves names to places, and what hides behind ** has none.
    def loss(model: Any, batch: dict[str, Any]) -> Any:
        arguments = dict(batch)
        inputs = arguments.pop("inputs")
        return stock_loss(lambda _, *others: model(inputs, *others), **arguments)

    def train(batches: Sequence[PackedBatch], on_step: OnStep) -> None:
        trainer.with_loss_fn(loss).with_training_hooks(_hooks(on_step))
        trainer.train([{"batch": arguments_of(batch)} for batch in batches])

    return train


def arguments_of(batch: PackedBatch) -> dict[str, Any]:
    """The drawing's arguments for a batch of rows [B, L]: tokens [B, L+1], mask [B, L+1, L+1].

    An example sees itself alone, backwards; so does padding, which the added position is.
    """
    before, after = ((0, 0), (1, 0)), ((0, 0), (0, 1))
    segments_BL = np.pad(batch.segments, after)
    same_BLM = segments_BL[:, :, None] == segments_BL[:, None, :]
    return {
        "inputs": np.pad(batch.inputs, after),
        "input_tokens": np.pad(batch.targets, before),
        "input_mask": np.pad(batch.weights > 0, before),
        "positions": np.pad(batch.positions, after),
        "attention_mask": same_BLM & np.tri(segments_BL.shape[1], dtype=np.bool_),
    }


def _hooks(on_step: OnStep) -> Any:
    from tunix.sft.hooks import TrainingHooks

    class Report(TrainingHooks):
        def on_train_start(self, train_ctx: Any) -> None: ...

        def on_train_end(self, train_ctx: Any) -> None: ...

        def on_train_step_start(self, train_ctx: Any) -> None: ...

        def on_train_step_end(self, train_ctx: Any, train_step: int, train_loss: float) -> None:
            on_step(float(train_loss))

        def on_eval_step_start(self, train_ctx: Any) -> None: ...

        def on_eval_step_end(self, train_ctx: Any, eval_loss: float) -> None: ...

    return Report()


if __name__ == "__main__":
    run_job(import_libraries, load)
