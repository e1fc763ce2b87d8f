"""A PEFT adapter over its base, a Hugging Face folder: the body of a process.

The base is text-only. An adapter for a multimodal one is put onto that text model inside the class
that people get, so that it is the names of its modules that must be found:

    Gemma3ForConditionalGeneration       Gemma4ForConditionalGeneration alike
      model.vision_tower                 one layer without weights (device meta); text never asks it
      model.language_model, lm_head      the base's
"""

from __future__ import annotations

from typing import Any

import peft
import torch
import transformers

from coderllm_jax.export.reload_protocol import Job, Reply, answer
from coderllm_jax.export.reload_transformers import ids_of, logits_of

_TOWER = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "image_size": 8,
    "patch_size": 4,
}


def reload(job: Job) -> Reply:
    """Loads base and adapter in float32 and asks. Every tensor of the adapter must find a place."""
    base = transformers.AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    if job.base_is_multimodal:
        base = _inside_multimodal(base)
    model = peft.PeftModel.from_pretrained(base, job.artifact)
    # Which names found no place from_pretrained keeps to itself, or warns of; this call returns it.
    places = model.load_adapter(job.artifact, "default")
    if lost := [*places.missing_keys, *places.unexpected_keys]:
        raise ValueError(f"{len(lost)} tensors of adapter and base do not meet, such as {lost[0]}")
    text_ids, chat_ids = ids_of(job)  # the adapter's folder has a tokenizer, and its chat turns
    return Reply(
        versions={
            "peft": peft.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        logits=logits_of(model, job),
        text_ids=text_ids,
        chat_ids=chat_ids,
    )


def _inside_multimodal(text: Any) -> Any:
    kind: Any = transformers.CONFIG_MAPPING[text.config.model_type.removesuffix("_text")]
    config = kind(text_config=text.config, vision_config=dict(_TOWER), mm_tokens_per_image=4)
    with torch.device("meta"):
        whole = transformers.AutoModelForCausalLM.from_config(config)
    whole.model.language_model, whole.lm_head = text.model, text.lm_head
    return whole


if __name__ == "__main__":
    answer(reload)
