"""PEFT with torch as an arm of `benchmarks.gpu`: bfloat16, LoRA on q_proj and v_proj, AdamW.

Options: `attention` as transformers calls it, `checkpointing` for its gradient checkpointing (each
layer is computed again in the backward pass). Packed rows are told apart by their position_ids,
from which transformers makes a block-diagonal mask where it is given no other.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu_cells import MODELS, Job, Timing, packed_batch, run_arm, time_steps
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.records import PackedBatch

_IGNORED = -100


def import_libraries(job: Job) -> None:
    """torch, transformers and PEFT, no device touched."""
    del job
    import torch
    from peft import get_peft_model
    from transformers import Gemma3ForCausalLM

    # transformers imports a model when it is first named.
    assert {torch, get_peft_model, Gemma3ForCausalLM}


def configuration(architecture: Architecture) -> Any:
    """The architecture as transformers writes it down."""
    import transformers

    kinds = {False: "sliding_attention", True: "full_attention"}
    rope = {"rope_type": "default", "rope_theta": architecture.rope_global}
    if architecture.rope_global_scaling != 1:
        rope |= {"rope_type": "linear", "factor": architecture.rope_global_scaling}
    return transformers.Gemma3TextConfig(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.width,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        head_dim=architecture.head_size,
        query_pre_attn_scalar=round(architecture.query_scale**-2),
        sliding_window=architecture.window,
        layer_types=[kinds[architecture.is_global(i)] for i in range(architecture.num_layers)],
        rms_norm_eps=architecture.norm_epsilon,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": architecture.rope_local},
            "full_attention": rope,
        },
        use_cache=False,
    )


def measure(job: Job) -> Timing:
    """Builds the model on the device and times its steps."""
    started = time.perf_counter()
    import peft
    import torch
    import transformers

    device = "cuda" if job.platform == "gpu" else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        base = transformers.AutoModelForCausalLM.from_config(
            configuration(MODELS[job.cell.model]),
            dtype=torch.bfloat16,
            attn_implementation=job.options["attention"],
        )
    if job.options["checkpointing"]:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = sum(parameter.numel() for parameter in base.parameters())
    lora = peft.LoraConfig(
        r=job.rank,
        lora_alpha=job.rank,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, lora).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    arguments = _arguments(packed_batch(job.cell), device)

    def step() -> float:
        loss = model(**arguments).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    def peak_bytes() -> int | None:
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    notes = {
        "attention": job.options["attention"],
        "checkpointing": bool(base.is_gradient_checkpointing),
        "parameters": parameters,
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    return time_steps(step, job, started=started, peak_bytes=peak_bytes, notes=notes)


def _arguments(batch: PackedBatch, device: str) -> dict[str, Any]:
    import torch

    targets = torch.from_numpy(batch.targets).long()
    labels = targets.masked_fill(torch.from_numpy(batch.weights) == 0, _IGNORED)
    arguments = {
        "input_ids": torch.from_numpy(batch.inputs).long(),
        "position_ids": torch.from_numpy(batch.positions).long(),
        # Targets are shifted already: transformers takes them as they are under this name.
        "labels": labels,
        "shift_labels": labels,
    }
    return {name: value.to(device) for name, value in arguments.items()}


if __name__ == "__main__":
    run_arm(import_libraries, measure)
