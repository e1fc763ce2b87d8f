"""Writes an adapter as PEFT loads it, exact: KerasHub's per-head shapes become plain matrices.

PEFT adds scale · B·A to a matrix [out, in]; ours adds scale · A·B to a kernel with head axes:

    ours                                             PEFT: lora_A [r, in], lora_B [out, r]
    query, key, value   A [H, D, R], B [R, K]        A [H·R, D], B [H·K, H·R], rank H·R
    attention_output    A [H, K, R], B [R, D]        A [R, H·K], B [D, R]
    feed-forward        A [in, R],   B [R, out]      A [R, in],  B [out, R]

In the first row every head has its own A and all share B, so lora_B repeats B along its diagonal,
a block a head, and is zero elsewhere; alpha grows with the rank, and alpha / rank stays. Ranks that
differ from the adapter's own are in `rank_pattern`, by module, or by layers where Gemma 4's global
ones have other heads.

Gemma 3 from 4B on and Gemma 4 are published with a vision tower, and AutoModelForCausalLM loads the
whole: the text model's modules then lie deeper, and the tower has a q_proj of its own. For such a
base (transformers 4.52 and later) names are

    text-only    model.layers.0.self_attn.q_proj                  target_modules: [q_proj, …]
    multimodal   model.language_model.layers.0.self_attn.q_proj   target_modules: a pattern of these

PEFT puts an adapter with the other names onto nothing, and only warns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.safetensors_file import PendingTensor, write_file
from coderllm_jax.export.tokenizer_files import write_tokenizer
from coderllm_jax.model.architecture import base_name
from coderllm_jax.model.huggingface import BLOCK_NAMES

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_BY_HEAD = ("query", "key", "value")


def write_peft(
    folder: Path,
    model: MergedModel,
    *,
    base_model: str,
    max_length: int,
    is_multimodal: bool = False,
) -> None:
    """Writes both files of the adapter, and the tokenizer with the chat turns it was trained on.

    base_model: what adapter_config.json names as the model to put it onto. is_multimodal: whether
    that holds more than the text model.
    """
    if not model.adapters:
        raise ModelError("formats has peft, and this model has no adapter; drop peft from formats")
    content = adapter_config(model, base_model=base_model, is_multimodal=is_multimodal)
    (folder / CONFIG).write_text(f"{json.dumps(content, indent=1)}\n")
    write_file(
        folder / TENSORS,
        [_pending(*tensor) for tensor in peft_tensors(model, is_multimodal=is_multimodal)],
    )
    write_tokenizer(folder, model.tokenizer, max_length=max_length, chat=model.knows_turns)


def adapter_config(
    model: MergedModel, *, base_model: str, is_multimodal: bool = False
) -> dict[str, Any]:
    """The content of adapter_config.json."""
    ranks = {name: _peft_rank(model, name) for name in model.adapters}
    rank = min(ranks.values())
    modules = sorted({BLOCK_NAMES[base_name(name)] for name in model.adapters})
    wider = {_pattern(model, name): found for name, found in ranks.items() if found != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": model.scale * rank,
        "rank_pattern": wider,
        "alpha_pattern": {name: model.scale * found for name, found in wider.items()},
        "target_modules": (
            rf".*\.language_model\.layers\.\d+\.({'|'.join(map(re.escape, modules))})"
            if is_multimodal
            else sorted(module.rpartition(".")[2] for module in modules)
        ),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def module_name(name: str, layer: int, *, is_multimodal: bool) -> str:
    """What transformers calls the module of block weight `name`; see the drawing."""
    root = "model.language_model" if is_multimodal else "model"
    return f"{root}.layers.{layer}.{BLOCK_NAMES[base_name(name)]}"


def peft_tensors(model: MergedModel, *, is_multimodal: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the adapter by PEFT's name, float32."""
    for layer in range(model.architecture.num_layers):
        for name, adapter in model.adapters.items():
            if layer not in model.architecture.layers_of(name):
                continue
            place = model.place_of(name, layer)
            a, b = (np.asarray(adapter[part])[place].astype(np.float32) for part in ("a", "b"))
            for part, values in zip("AB", peft_matrices(name, a, b), strict=True):
                module = module_name(name, layer, is_multimodal=is_multimodal)
                yield f"base_model.model.{module}.lora_{part}.weight", values


def peft_matrices(name: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One layer's lora_A [r, in] and lora_B [out, r] of block weight `name`."""
    if base_name(name) not in _BY_HEAD:
        return a.reshape(-1, a.shape[-1]).T, b.T
    heads, width, rank = a.shape
    lora_a = a.transpose(0, 2, 1).reshape(heads * rank, width)
    return lora_a, np.kron(np.eye(heads, dtype=np.float32), b.T)


def _peft_rank(model: MergedModel, name: str) -> int:
    shape = model.adapters[name]["a"].shape
    return shape[1] * shape[-1] if base_name(name) in _BY_HEAD else shape[-1]


def _pattern(model: MergedModel, name: str) -> str:
    """How PEFT finds the modules of block weight `name`: by their name, or by layer and name."""
    stored, layers = BLOCK_NAMES[base_name(name)], model.architecture.layers_of(name)
    if len(layers) == model.architecture.num_layers:
        return stored.rpartition(".")[2]
    part, module = stored.split(".")
    return rf"layers\.({'|'.join(map(str, layers))})\.{part}\.{module}"


def _pending(name: str, values: np.ndarray) -> PendingTensor:
    return PendingTensor(name, values.shape, np.dtype(np.float32), lambda: values)
