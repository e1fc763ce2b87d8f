"""Writes a model as a KerasHub preset's folder: `Gemma3CausalLM.from_preset(FOLDER)` loads it.

    config.json  metadata.json  preprocessor.json  tokenizer.json
    model.weights.h5               layers/gemma3_decoder_block_7/attention/query_dense/vars/0  …
    assets/tokenizer/vocabulary.spm

What KerasHub saves is written here array by array instead: through Keras, the model would be in
memory a second time. Reading it back is `model.keras_folder`, whose names of groups are used.
KerasHub fixes what its config has no words for (every sixth layer global, wavelengths of 10k and
1M): a model that differs there is refused.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from coderllm_jax.data.tokenizer import SentencePieceTokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.export.layout import row_chunks
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.tokenizer_files import published_model
from coderllm_jax.model import keras_folder as reader
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.weights import Dtype, leaf_dtype, leaf_shapes

_MODELS = "keras_hub.src.models.gemma3"
# KerasHub's own default. `generate` makes caches and prompt logits of this length for every answer.
_SEQUENCE_LENGTH = 1024
_OUTER_NAMES = {"embedding": "token_embedding", "final_norm": "final_normalization"}


def write_keras(folder: Path, model: MergedModel, *, dtype: Dtype) -> None:
    """Writes the whole folder. Raises ModelError for what KerasHub cannot express."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer), type(tokenizer)
    config = _backbone_config(model.architecture, dtype)
    found = reader.architecture_of(config, folder=folder)
    if found != model.architecture:
        raise ModelError(
            f"a KerasHub preset cannot say all of this model: written {model.architecture}, read "
            f"{found}; export it as huggingface"
        )
    for name, content in (
        (reader.CONFIG, config),
        ("tokenizer.json", _tokenizer_config()),
        ("preprocessor.json", _preprocessor_config(dtype)),
        ("metadata.json", _metadata(model.architecture)),
    ):
        (folder / name).write_text(f"{json.dumps(content, indent=4)}\n")
    vocabulary = folder / reader.TOKENIZER
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_bytes(published_model(tokenizer))
    _write_weights(folder / reader.WEIGHTS, model, dtype)


def _write_weights(file: Path, model: MergedModel, dtype: Dtype) -> None:
    import h5py

    with h5py.File(file, "w") as store:
        for path, layer in model.tensors():
            group = store.create_group(f"{reader.group_of(path, layer)}/vars")
            group.attrs["name"] = _OUTER_NAMES.get(path, path.removeprefix("blocks/"))
            _write_array(group, model.read(path, layer), leaf_dtype(path, dtype))


def _write_array(group: Any, values: np.ndarray, dtype: np.dtype) -> None:
    """One array as Keras stores it: HDF5 has no bfloat16, so its bytes go in with a note."""
    is_narrow = dtype == np.dtype(ml_dtypes.bfloat16)
    stored = np.dtype("V2") if is_narrow else dtype
    dataset = group.create_dataset("0", values.shape, stored)
    if is_narrow:
        dataset.attrs["dtype"] = "bfloat16"
    start = 0
    for chunk in row_chunks(values):
        dataset[start : start + len(chunk)] = chunk.astype(dtype, copy=False).view(stored)
        start += len(chunk)


def _object(module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """How Keras writes down an object of KerasHub's."""
    return {
        "module": f"{_MODELS}.{module}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def _policy(dtype: str) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }


def _backbone_config(architecture: Architecture, dtype: Dtype) -> dict[str, Any]:
    by_head = bool(np.isclose(architecture.query_scale, architecture.head_size**-0.5))
    values = {
        "name": "gemma3_backbone",
        "trainable": True,
        "dtype": _policy(dtype),
        "vocabulary_size": architecture.vocabulary,
        "image_size": None,
        "num_layers": architecture.num_layers,
        "num_query_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "hidden_dim": architecture.width,
        "intermediate_dim": architecture.feed_forward,
        "head_dim": architecture.head_size,
        "query_head_dim_normalize": by_head,
        "use_query_key_norm": architecture.query_key_norm,
        "use_post_ffw_norm": architecture.post_norms,
        "use_post_attention_norm": architecture.post_norms,
        "attention_logit_soft_cap": architecture.attention_soft_cap or None,
        "final_logit_soft_cap": architecture.final_soft_cap or None,
        "use_sliding_window_attention": architecture.global_every > 1,
        "sliding_window_size": architecture.window,
        "local_rope_scaling_factor": architecture.rope_local_scaling,
        "global_rope_scaling_factor": architecture.rope_global_scaling,
        "vision_encoder": None,
        "use_bidirectional_attention": False,
        "layer_norm_epsilon": architecture.norm_epsilon,
        "dropout": 0,
        "is_embedding_model": False,
    }
    return _object("gemma3_backbone", "Gemma3Backbone", values)


def _tokenizer_config() -> dict[str, Any]:
    values = {
        "name": "gemma3_tokenizer",
        "trainable": True,
        "dtype": _policy("int32"),
        "config_file": "tokenizer.json",
        "proto": None,
        "sequence_length": None,
        "add_bos": False,
        "add_eos": False,
        "has_vision_tokens": False,
    }
    return _object("gemma3_tokenizer", "Gemma3Tokenizer", values)


def _preprocessor_config(dtype: Dtype) -> dict[str, Any]:
    values = {
        "name": "gemma3_causal_lm_preprocessor",
        "trainable": True,
        "dtype": _policy(dtype),
        "tokenizer": _tokenizer_config(),
        "config_file": "preprocessor.json",
        "sequence_length": _SEQUENCE_LENGTH,
        "add_start_token": True,
        "add_end_token": True,
    }
    return _object("gemma3_causal_lm_preprocessor", "Gemma3CausalLMPreprocessor", values)


def _metadata(architecture: Architecture) -> dict[str, Any]:
    return {
        "keras_version": importlib.metadata.version("keras"),
        "keras_hub_version": importlib.metadata.version("keras-hub"),
        "parameter_count": sum(int(np.prod(shape)) for shape in leaf_shapes(architecture).values()),
        "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["CausalLM"],
    }
