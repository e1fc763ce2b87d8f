"""What every arm of `benchmarks.generate` is given, made once: prompts and a model's folder.

HumanEval ──┬─ one       the first problem
            ├─ sixteen   the first sixteen, as they are: their lengths differ
            ├─ even      the same, cut to the shortest one's length
            └─ prefill   16 x 1,024 tokens, problems end to end
model     ────────────► huggingface/   config.json, model.safetensors (float32)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.generate_arm import Prompts, save_prompts
from benchmarks.train_inputs import write_huggingface

ROWS, PREFILL_LENGTH = 16, 1024


def make_workloads(problems: Prompts, *, bos_id: int) -> dict[str, Prompts]:
    """The drawing's four lists of prompts, each beginning with one <bos>."""
    prompts = [np.concatenate([[bos_id], ids]).astype(np.int32) for ids in problems[:ROWS]]
    shortest = min(map(len, prompts))
    return {
        "one": prompts[:1],
        "sixteen": prompts,
        "even": [prompt[:shortest] for prompt in prompts],
        "prefill": _rows(np.concatenate(problems), bos_id=bos_id),
    }


def _rows(text: npt.NDArray[np.int32], *, bos_id: int) -> Prompts:
    """One text as rows of equal length, each with a <bos> before it; a short one is repeated."""
    needed = np.resize(text, ROWS * (PREFILL_LENGTH - 1)).reshape(ROWS, -1)
    return list(np.pad(needed, ((0, 0), (1, 0)), constant_values=bos_id).astype(np.int32))


def write_inputs(folder: Path, *, model_name: str, with_huggingface: bool) -> dict[str, Any]:
    """Writes the prompts, and the folder for transformers; gives back what they were made of."""
    from coderllm_jax.config.training import ModelSection
    from coderllm_jax.evaluation.tasks import load_human_eval
    from coderllm_jax.model.load import load_model

    model = load_model(model_name, dtype="float32", cache_dir=ModelSection().cache_dir)
    problems = [
        np.array(model.tokenizer.encode(task.prompt), np.int32)
        for task in load_human_eval().values()
    ]
    workloads = make_workloads(problems, bos_id=model.tokenizer.bos_id)
    for name, prompts in workloads.items():
        save_prompts(folder / f"{name}.npz", prompts)
    if with_huggingface:
        write_huggingface(folder / "huggingface", model.architecture, model.weights)
    return {
        "model": model.source,
        "lengths": {name: [len(prompt) for prompt in found] for name, found in workloads.items()},
    }


if __name__ == "__main__":
    target, name, with_huggingface = sys.argv[1:]
    made = write_inputs(
        Path(target), model_name=name, with_huggingface=with_huggingface == "huggingface"
    )
    (Path(target) / "inputs.json").write_text(json.dumps(made))
