"""A GGUF in llama.cpp through llama-cpp-python: the body of a process, see `reload_protocol`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as library
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from coderllm_jax.export.reload_protocol import Job, Reply, answer


def reload(job: Job) -> Reply:
    """Loads the file with float32 caches, so that its weights alone differ from ours, and asks."""
    use_plain_kernels()
    longest = max(map(len, job.prompts))
    model = llama_cpp.Llama(
        job.artifact,
        n_ctx=longest + 1,
        n_batch=longest + 1,
        n_ubatch=longest + 1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    logits = [
        _logits(model, prompt, positions)
        for prompt, positions in zip(job.prompts, job.positions, strict=True)
    ]
    template = model.metadata.get("tokenizer.chat_template", "")
    chats = job.chats if template else ()
    return Reply(
        versions={"llama-cpp-python": llama_cpp.__version__},
        logits=logits,
        text_ids=[model.tokenize(text.encode(), add_bos=True) for text in job.texts],
        chat_ids=[_chat_ids(model, template, chat) for chat in chats],
    )


def use_plain_kernels() -> None:
    """Models loaded after this keep their weights as the file has them.

    By default llama.cpp repacks quantized weights for the processor it finds. On virtual machines
    that announce AMX and do not let it run, that ends in an illegal instruction; elsewhere it is
    one more thing between the file and its logits. The class `Llama` has no argument for it.
    """
    default_params = library.llama_model_default_params

    def plain_params() -> Any:
        params = default_params()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = plain_params


def _logits(model: llama_cpp.Llama, prompt: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """One decode of the whole prompt; llama.cpp computes logits where they are asked for."""
    context, wanted = model.ctx, set(positions)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(prompt), 0, 1)
    try:
        batch.n_tokens = len(prompt)
        for i, token in enumerate(prompt):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i in wanted
        if code := llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        rows = [llama_cpp.llama_get_logits_ith(context, i) for i in positions]
        return np.stack([np.ctypeslib.as_array(row, (model.n_vocab(),)).copy() for row in rows])
    finally:
        llama_cpp.llama_batch_free(batch)


def _chat_ids(model: llama_cpp.Llama, template: str, chat: Any) -> list[int]:
    """The ids of a conversation as llama-cpp-python makes them for a chat completion."""
    eos, bos = "<eos>", "<bos>"
    made = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)(messages=chat)
    return model.tokenize(made.prompt.encode(), add_bos=not made.added_special, special=True)


if __name__ == "__main__":
    answer(reload)
