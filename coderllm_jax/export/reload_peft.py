"""A PEFT adapter over its base, a Hugging Face folder: the body of a process."""

from __future__ import annotations

import peft
import torch
import transformers

from coderllm_jax.export.reload_protocol import Job, Reply, answer
from coderllm_jax.export.reload_transformers import logits_of


def reload(job: Job) -> Reply:
    """Loads base and adapter in float32 and asks. Every tensor of the adapter must find a place."""
    base = transformers.AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, job.artifact)
    return Reply(
        versions={
            "peft": peft.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        logits=logits_of(model, job),
        text_ids=[],
        chat_ids=[],
    )


if __name__ == "__main__":
    answer(reload)
