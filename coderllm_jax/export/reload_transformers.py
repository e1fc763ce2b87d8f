"""A Hugging Face folder in transformers: the body of a process, see `reload_protocol`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from coderllm_jax.export.reload_protocol import Job, Reply, answer


def reload(job: Job) -> Reply:
    """Loads the folder as everybody does, in float32, and asks."""
    model = transformers.AutoModelForCausalLM.from_pretrained(job.artifact, dtype=torch.float32)
    text_ids, chat_ids = ids_of(job)
    return Reply(
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        logits=logits_of(model, job),
        text_ids=text_ids,
        chat_ids=chat_ids,
    )


def ids_of(job: Job) -> tuple[list[list[int]], list[list[int]]]:
    """Texts and conversations by the artifact's tokenizer; none of the latter without template."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.artifact)
    return (
        [tokenizer(text).input_ids for text in job.texts],
        [_chat_ids(tokenizer, chat) for chat in job.chats if tokenizer.chat_template],
    )


def _chat_ids(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> list[int]:
    turns = [dict(turn) for turn in chat]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def logits_of(model: torch.nn.Module, job: Job) -> list:
    """The wanted positions' logits of each prompt, float32."""
    model.eval()
    found = []
    with torch.no_grad():
        for prompt, positions in zip(job.prompts, job.positions, strict=True):
            output = model(torch.tensor([prompt]), logits_to_keep=torch.tensor(positions))
            found.append(output.logits[0].float().numpy())
    return found


if __name__ == "__main__":
    answer(reload)
