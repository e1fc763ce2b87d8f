"""Writes a model as a Hugging Face folder that transformers, vLLM and others load.

    config.json              Gemma3ForCausalLM, text only
    generation_config.json   greedy; ends at <eos> and at <end_of_turn>
    model*.safetensors       `safetensors_file`
    tokenizer.*              `tokenizer_files`

Rotation is spelt in both ways in use: `rope_parameters` for transformers 5, and the single keys
for those before it. Reading it back is `model.huggingface`, whose names of tensors are used here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.export.layout import stored_view
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.safetensors_file import PendingTensor, write_shards
from coderllm_jax.export.tokenizer_files import write_tokenizer
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.huggingface import BLOCK_NAMES
from coderllm_jax.model.stored_layout import stored_shape
from coderllm_jax.model.weights import Dtype, leaf_dtype

# Gemma 3's own: those whose global layers stretch their rotation were trained on long contexts.
_SHORT_CONTEXT, _LONG_CONTEXT = 32_768, 131_072


def context_length(architecture: Architecture) -> int:
    """Tokens that the makers trained the model for; the architecture itself has no limit."""
    return _LONG_CONTEXT if architecture.rope_global_scaling > 1 else _SHORT_CONTEXT


def write_huggingface(
    folder: Path, model: MergedModel, *, dtype: Dtype, max_shard_bytes: int
) -> None:
    """Writes the whole folder; tensors are merged and cast as they are written."""
    tokenizer = model.tokenizer
    config = config_json(model.architecture, tokenizer, dtype=dtype)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation_config(tokenizer))
    write_tokenizer(
        folder,
        tokenizer,
        max_length=context_length(model.architecture),
        chat=model.knows_turns,
    )
    write_shards(folder, list(pending_tensors(model, dtype)), max_shard_bytes=max_shard_bytes)


def pending_tensors(model: MergedModel, dtype: Dtype) -> Iterator[PendingTensor]:
    """Every tensor under transformers' name, in its layout. The head is the embedding, untold."""
    architecture = model.architecture
    for path, layer in model.tensors():
        stored = leaf_dtype(path, dtype)
        if layer is None:
            name = {"embedding": "embed_tokens", "final_norm": "norm"}[path]
            shape = model.whole(path).shape
            read = functools.partial(model.whole, path)
        else:
            ours = path.removeprefix("blocks/")
            name, shape = f"layers.{layer}.{BLOCK_NAMES[ours]}", stored_shape(ours, architecture)
            read = functools.partial(_read_stored, model, ours, layer)
        yield PendingTensor(f"model.{name}.weight", shape, stored, read)


def _read_stored(model: MergedModel, name: str, layer: int) -> np.ndarray:
    return stored_view(name, model.block(name, layer), model.architecture)


def config_json(
    architecture: Architecture, tokenizer: Tokenizer, *, dtype: Dtype
) -> dict[str, Any]:
    """The content of config.json."""
    wide = {"rope_type": "default", "rope_theta": architecture.rope_global}
    if architecture.rope_global_scaling != 1:
        wide |= {"rope_type": "linear", "factor": architecture.rope_global_scaling}
    local = {"rope_type": "default", "rope_theta": architecture.rope_local}
    if architecture.rope_local_scaling != 1:
        local |= {"rope_type": "linear", "factor": architecture.rope_local_scaling}
    kinds = {False: "sliding_attention", True: "full_attention"}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": architecture.attention_soft_cap or None,
        "bos_token_id": tokenizer.bos_id,
        "dtype": dtype,
        "eos_token_id": _stops(tokenizer),
        "final_logit_softcapping": architecture.final_soft_cap or None,
        "head_dim": architecture.head_size,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": architecture.width,
        "initializer_range": 0.02,
        "intermediate_size": architecture.feed_forward,
        "layer_types": [kinds[architecture.is_global(i)] for i in range(architecture.num_layers)],
        "max_position_embeddings": context_length(architecture),
        "num_attention_heads": architecture.num_heads,
        "num_hidden_layers": architecture.num_layers,
        "num_key_value_heads": architecture.num_kv_heads,
        "pad_token_id": tokenizer.pad_id,
        "query_pre_attn_scalar": _query_scalar(architecture),
        "rms_norm_eps": architecture.norm_epsilon,
        "rope_local_base_freq": architecture.rope_local,
        "rope_parameters": {"full_attention": wide, "sliding_attention": local},
        "rope_scaling": (
            {"rope_type": "linear", "factor": architecture.rope_global_scaling}
            if architecture.rope_global_scaling != 1
            else None
        ),
        "rope_theta": architecture.rope_global,
        "sliding_window": architecture.window,
        "sliding_window_pattern": architecture.global_every,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": architecture.vocabulary,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Greedy decoding that ends where ours does."""
    return {
        "bos_token_id": tokenizer.bos_id,
        "do_sample": False,
        "eos_token_id": _stops(tokenizer),
        "pad_token_id": tokenizer.pad_id,
    }


def _stops(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.eos_id, tokenizer.end_of_turn_id]


def _query_scalar(architecture: Architecture) -> float | int:
    """What queries are divided by the root of; whole in every Gemma."""
    scalar = architecture.query_scale**-2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(f"{json.dumps(content, indent=1)}\n")
