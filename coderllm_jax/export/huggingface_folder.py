"""Writes a model as a Hugging Face folder that transformers, vLLM and others load.

    config.json              GemmaForCausalLM to Gemma4ForCausalLM, text only
    generation_config.json   greedy; ends at <eos> and at <end_of_turn>
    model*.safetensors       `safetensors_file`
    tokenizer.*              `tokenizer_files`

Families are spelt by classes of their own, each with keys that the others' readers would pass
over, or, worse, act on: a Gemma 1 has no windows, and its config no window. Rotation is spelt in
both ways in use: `rope_parameters` for transformers 5, and the single keys for those before it.
Reading it back is `model.huggingface`, whose names of tensors are used here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.export.layout import stored_view
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.safetensors_file import PendingTensor, write_shards
from coderllm_jax.export.tokenizer_files import write_tokenizer
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family
from coderllm_jax.model.huggingface import tensor_names
from coderllm_jax.model.stored_layout import stored_shape
from coderllm_jax.model.weights import Dtype, leaf_dtype


class _Spelling(NamedTuple):
    """What transformers calls a family: its class, and its `model_type`."""

    name: str
    model_type: str


_SPELLINGS: dict[Family, _Spelling] = {
    "gemma": _Spelling("GemmaForCausalLM", "gemma"),
    "gemma2": _Spelling("Gemma2ForCausalLM", "gemma2"),
    "gemma3": _Spelling("Gemma3ForCausalLM", "gemma3_text"),
    "gemma4": _Spelling("Gemma4ForCausalLM", "gemma4_text"),
}
_KINDS = {False: "sliding_attention", True: "full_attention"}
# The model cards' own figures. Of Gemma 3, those whose global layers stretch their rotation were
# trained on long contexts; of Gemma 4, the dense models of 31B.
_CONTEXT: dict[Family, int] = {"gemma": 8192, "gemma2": 8192, "gemma3": 32_768, "gemma4": 262_144}
_STRETCHED_CONTEXT = 131_072


def context_length(architecture: Architecture) -> int:
    """Tokens that the makers trained the model for; the architecture itself has no limit."""
    if architecture.rope_global_scaling > 1:
        return _STRETCHED_CONTEXT
    return _CONTEXT[architecture.family]


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
    architecture, names = model.architecture, tensor_names(model.architecture)
    for path, layer in model.tensors():
        end = ".weight"
        if layer is None:
            name = {"embedding": "embed_tokens", "final_norm": "norm"}[path]
            shape = model.whole(path).shape
        else:
            ours = path.removeprefix("blocks/")
            name, shape = f"layers.{layer}.{names[ours]}", stored_shape(ours, architecture)
            end = "" if ours == "layer_scale" else end
        read = functools.partial(_read_stored, model, path, layer)
        yield PendingTensor(f"model.{name}{end}", shape, leaf_dtype(path, dtype), read)


def _read_stored(model: MergedModel, path: str, layer: int | None) -> np.ndarray:
    values = model.read(path, layer)
    if path.endswith("norm") and FAMILIES[model.architecture.family].whole_norms:
        return values.astype(np.float32) + np.float32(1)
    if layer is None:
        return values
    return stored_view(path.removeprefix("blocks/"), values, model.architecture)


def config_json(
    architecture: Architecture, tokenizer: Tokenizer, *, dtype: Dtype
) -> dict[str, Any]:
    """The content of config.json."""
    spelling = _SPELLINGS[architecture.family]
    config = {
        "architectures": [spelling.name],
        "model_type": spelling.model_type,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.bos_id,
        "dtype": dtype,
        "eos_token_id": _stops(tokenizer),
        "head_dim": architecture.head_size,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": architecture.width,
        "initializer_range": 0.02,
        "intermediate_size": architecture.feed_forward,
        "max_position_embeddings": context_length(architecture),
        "num_attention_heads": architecture.num_heads,
        "num_hidden_layers": architecture.num_layers,
        "num_key_value_heads": architecture.num_kv_heads,
        "pad_token_id": tokenizer.pad_id,
        "rms_norm_eps": architecture.norm_epsilon,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": architecture.vocabulary,
    }
    own = {"gemma": _first, "gemma2": _second, "gemma3": _third, "gemma4": _fourth}
    return dict(sorted((config | own[architecture.family](architecture)).items()))


def _first(architecture: Architecture) -> dict[str, Any]:
    """Alone `hidden_act` counts here: transformers 5 dropped the other key of this class."""
    return {"hidden_act": "gelu_pytorch_tanh"} | _one_rotation(architecture)


def _one_rotation(architecture: Architecture) -> dict[str, Any]:
    """Where all layers rotate alike."""
    return {
        "rope_parameters": _rotation(architecture.rope_global, architecture.rope_global_scaling),
        "rope_theta": architecture.rope_global,
    }


def _windows(architecture: Architecture) -> dict[str, Any]:
    """What every family after the first has: windows, and which layers have one."""
    return {
        "final_logit_softcapping": architecture.final_soft_cap or None,
        "layer_types": [_KINDS[architecture.is_global(i)] for i in range(architecture.num_layers)],
        "sliding_window": architecture.window,
    }


def _second(architecture: Architecture) -> dict[str, Any]:
    return _one_rotation(architecture) | _windows(architecture) | _scaled(architecture)


def _scaled(architecture: Architecture) -> dict[str, Any]:
    """What only the second and the third say."""
    return {
        "attn_logit_softcapping": architecture.attention_soft_cap or None,
        "query_pre_attn_scalar": _query_scalar(architecture),
    }


def _third(architecture: Architecture) -> dict[str, Any]:
    local = _rotation(architecture.rope_local, architecture.rope_local_scaling)
    wide = _rotation(architecture.rope_global, architecture.rope_global_scaling)
    return (
        _windows(architecture)
        | _scaled(architecture)
        | {
            "rope_local_base_freq": architecture.rope_local,
            "rope_parameters": {"full_attention": wide, "sliding_attention": local},
            "rope_scaling": (
                {"rope_type": "linear", "factor": architecture.rope_global_scaling}
                if architecture.rope_global_scaling != 1
                else None
            ),
            "rope_theta": architecture.rope_global,
            "sliding_window_pattern": architecture.global_every,
        }
    )


def _fourth(architecture: Architecture) -> dict[str, Any]:
    """Layers share nothing and embed nothing: what is left out would be taken for E2B's."""
    wide = _rotation(architecture.rope_global, architecture.rope_global_scaling)
    wide |= {
        "rope_type": "proportional",
        "partial_rotary_factor": architecture.rope_global_fraction,
    }
    local = _rotation(architecture.rope_local, architecture.rope_local_scaling)
    return _windows(architecture) | {
        "attention_k_eq_v": architecture.keys_are_values,
        "enable_moe_block": False,
        "global_head_dim": architecture.global_head_size or architecture.head_size,
        "hidden_size_per_layer_input": 0,
        "num_global_key_value_heads": architecture.global_kv_heads,
        "num_kv_shared_layers": 0,
        "rope_parameters": {"full_attention": wide, "sliding_attention": local},
        "use_double_wide_mlp": False,
    }


def _rotation(wavelength: float, scaling: float) -> dict[str, Any]:
    if scaling == 1:
        return {"rope_type": "default", "rope_theta": wavelength}
    return {"rope_type": "linear", "rope_theta": wavelength, "factor": scaling}


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
