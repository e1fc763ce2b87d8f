"""PEFT with torch as an arm of `benchmarks.train_step`: LoraConfig, bfloat16, AdamW.

Gemma3ForCausalLM loaded by transformers in bfloat16 unless the job names another format, LoRA on
q_proj and v_proj, all the cores that this process may use. Labels are -100 where nothing is
supervised. Packed rows are told apart by their position_ids, from which transformers makes a
block-diagonal mask where it is given no other (and keeps no cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Job, OnStep, Train, run_job
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.records import PackedBatch

_IGNORED = -100


def import_libraries() -> None:
    """torch, transformers and PEFT, with a thread for each core."""
    import torch
    from peft import get_peft_model
    from transformers import Gemma3ForCausalLM

    from coderllm_jax.training.devices import usable_cores

    torch.set_num_threads(usable_cores())
    # transformers imports a model when it is first named.
    assert {get_peft_model, Gemma3ForCausalLM}


def load(job: Job) -> Train:
    """A PEFT model over the folder's weights, and its optimizer."""
    import peft
    import torch
    import transformers

    config = TrainingConfig(model_name=job.model_name)
    base = transformers.Gemma3ForCausalLM.from_pretrained(
        job.huggingface,
        dtype=getattr(torch, job.dtype or "bfloat16"),
        attn_implementation=job.attention,
    )
    base.config.use_cache = False
    lora = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=round(config.lora.alpha),
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, lora).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)

    def train(batches: Sequence[PackedBatch], on_step: OnStep) -> None:
        for batch in batches:
            loss = model(**_arguments(batch)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            on_step(loss.item())

    return train


def _arguments(batch: PackedBatch) -> dict[str, Any]:
    import torch

    targets = torch.from_numpy(batch.targets).long()
    labels = targets.masked_fill(torch.from_numpy(batch.weights) == 0, _IGNORED)
    # Targets are shifted already: transformers takes them as they are under this name.
    arguments = {
        "input_ids": torch.from_numpy(batch.inputs).long(),
        "labels": labels,
        "shift_labels": labels,
    }
    if batch.segments.max() > 1:
        arguments["position_ids"] = torch.from_numpy(batch.positions).long()
    else:
        arguments["attention_mask"] = torch.from_numpy(batch.segments > 0).long()
    return arguments


if __name__ == "__main__":
    run_job(import_libraries, load)
