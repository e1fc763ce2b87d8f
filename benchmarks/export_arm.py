"""One library's greedy answers from one artifact: the body of a process of `benchmarks.export`.

    job.json                                  answers.json
      library, artifact, base, prompts,   →     [[ids of the first answer], …]
      num_new, stops

Ids go in and ids come out, so that answers are compared token by token. All prompts are one batch
where the library takes batches. An answer ends before the first of `stops`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Answers = list[list[int]]


class Job(NamedTuple):
    """What is asked. `base` is the folder under an adapter, else ""."""

    library: str
    artifact: str
    base: str
    prompts: Sequence[Sequence[int]]
    num_new: int
    stops: Sequence[int]


def answer_by_torch(job: Job) -> Answers:
    """transformers' `generate`, with PEFT's adapter over it where there is one; float32."""
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        job.base or job.artifact, dtype=torch.float32
    )
    if job.base:
        import peft

        model = peft.PeftModel.from_pretrained(model, job.artifact)
    longest = max(map(len, job.prompts))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in job.prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in job.prompts])
    with torch.no_grad():
        # The ends are those of the folder's generation_config.
        made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=job.num_new)
    return made[:, longest:].tolist()


def answer_by_keras(job: Job) -> Answers:
    """KerasHub's compiled generate function; see `benchmarks.generate_keras` for why that."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras_hub

    model = keras_hub.models.CausalLM.from_preset(job.artifact, dtype="float32")
    model.compile(sampler="greedy")
    generate = model.make_generate_function()
    length = max(map(len, job.prompts)) + job.num_new
    ids = np.zeros((len(job.prompts), length), np.int32)
    mask = np.zeros_like(ids)
    for i, row in enumerate(job.prompts):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    made = np.asarray(generate({"token_ids": ids, "padding_mask": mask})["token_ids"])
    return [
        line[len(row) : len(row) + job.num_new].tolist()
        for line, row in zip(made, job.prompts, strict=True)
    ]


def answer_by_llama_cpp(job: Job) -> Answers:
    """llama.cpp with its default float16 caches, one prompt after another."""
    import llama_cpp

    from coderllm_jax.export.reload_llama_cpp import use_plain_kernels

    use_plain_kernels()
    longest = max(map(len, job.prompts))
    model = llama_cpp.Llama(job.artifact, n_ctx=longest + job.num_new + 1, verbose=False)
    answers = []
    for prompt in job.prompts:
        made: list[int] = []
        for token in model.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0):
            if token in job.stops or len(made) == job.num_new:
                break
            made.append(token)
        answers.append(made)
    return answers


LIBRARIES: dict[str, Callable[[Job], Answers]] = {
    "transformers": answer_by_torch,
    "peft": answer_by_torch,
    "keras_hub": answer_by_keras,
    "llama.cpp": answer_by_llama_cpp,
}


def cut(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The ids before the first stop."""
    ends = [i for i, token in enumerate(ids) if token in stops]
    return list(ids[: ends[0]] if ends else ids)


def main() -> None:
    """Reads the job, asks, writes the answers."""
    folder = Path(sys.argv[1])
    job = Job(**json.loads((folder / "job.json").read_text()))
    answers = [cut(ids, job.stops) for ids in LIBRARIES[job.library](job)]
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
