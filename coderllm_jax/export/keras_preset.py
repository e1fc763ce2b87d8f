"""Writes a model as a KerasHub preset's folder: `CausalLM.from_preset(FOLDER)` loads it.

    config.json  metadata.json  preprocessor.json  tokenizer.json
    model.weights.h5               layers/gemma3_decoder_block_7/attention/query_dense/vars/0  …
    assets/tokenizer/vocabulary.spm

What KerasHub saves is written here array by array instead: through Keras, the model would be in
memory a second time. Reading it back is `model.keras_folder`, whose names of groups are used.

Gemma 1 and 2 are one class, Gemma 3 and 4 one each. What their configs have no words for is fixed
in KerasHub: which layers of a Gemma 2 or 3 are global, and their wavelengths. A model that differs
there is refused, and so is one whose queries are scaled by width: KerasHub 0.32 takes the setting
and forgets it (`model.keras_bridge`), and would answer otherwise.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from coderllm_jax.data.tokenizer import SentencePieceTokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.export.layout import difference_of, row_chunks
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.tokenizer_files import published_model
from coderllm_jax.model import keras_folder as reader
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family
from coderllm_jax.model.weights import Dtype, leaf_dtype, leaf_shapes

# KerasHub's own default. `generate` makes caches and prompt logits of this length for every answer.
_SEQUENCE_LENGTH = 1024
_OUTER_NAMES = {"embedding": "token_embedding", "final_norm": "final_normalization"}


class _Class(NamedTuple):
    """What KerasHub calls a family: `stem` before Backbone, Tokenizer, …, and its package."""

    stem: str
    package: str


def class_of(family: Family) -> str:
    """The task that people load: Gemma3CausalLM."""
    return f"{_CLASSES[family].stem}CausalLM"


_CLASSES: dict[Family, _Class] = {
    "gemma": _Class("Gemma", "gemma"),
    "gemma2": _Class("Gemma", "gemma"),
    "gemma3": _Class("Gemma3", "gemma3"),
    "gemma4": _Class("Gemma4", "gemma4"),
}


def write_keras(folder: Path, model: MergedModel, *, dtype: Dtype) -> None:
    """Writes the whole folder. Raises ModelError for what KerasHub cannot express."""
    architecture, tokenizer = model.architecture, model.tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer), type(tokenizer)
    config = _backbone_config(architecture, dtype)
    found = reader.architecture_of(config, folder=folder)
    if difference := difference_of(found, architecture):
        raise ModelError(
            f"a KerasHub preset cannot say all of this model: {difference}; export it as "
            "huggingface"
        )
    if not config["config"].get("query_head_dim_normalize", True):
        raise ModelError(
            "KerasHub 0.32 forgets that this model scales its queries by width (its "
            "query_head_dim_normalize is False) and would answer otherwise; export it as "
            "huggingface"
        )
    for name, content in (
        (reader.CONFIG, config),
        ("tokenizer.json", _tokenizer_config(architecture.family)),
        ("preprocessor.json", _preprocessor_config(architecture.family, dtype)),
        ("metadata.json", _metadata(architecture)),
    ):
        (folder / name).write_text(f"{json.dumps(content, indent=4)}\n")
    vocabulary = folder / reader.TOKENIZER
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_bytes(published_model(tokenizer))
    _write_weights(folder / reader.WEIGHTS, model, dtype)


def _write_weights(file: Path, model: MergedModel, dtype: Dtype) -> None:
    import h5py

    family = model.architecture.family
    with h5py.File(file, "w") as store:
        for path, layer in model.tensors():
            group = store.create_group(f"{reader.group_of(path, layer, family=family)}/vars")
            group.attrs["name"] = _OUTER_NAMES.get(path, path.removeprefix("blocks/"))
            values = model.read(path, layer)
            if path.endswith("norm") and FAMILIES[family].whole_norms:
                values = values.astype(np.float32) + np.float32(1)
            _write_array(group, values, leaf_dtype(path, dtype))


def _write_array(group: Any, values: np.ndarray, dtype: np.dtype) -> None:
    """One array as Keras stores it: HDF5 has no bfloat16, so its bytes go in with a note."""
    is_narrow = dtype == np.dtype(ml_dtypes.bfloat16)
    stored = np.dtype("V2") if is_narrow else dtype
    dataset = group.create_dataset("0", values.shape, stored)
    if is_narrow:
        dataset.attrs["dtype"] = "bfloat16"
    if not values.shape:
        dataset[()] = values.astype(dtype).view(stored)
        return
    start = 0
    for chunk in row_chunks(values):
        dataset[start : start + len(chunk)] = chunk.astype(dtype, copy=False).view(stored)
        start += len(chunk)


def _object(family: Family, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """How Keras writes down an object of KerasHub's; `kind` is the last part of its class."""
    stem, package = _CLASSES[family]
    snake = _snake(kind)
    return {
        "module": f"keras_hub.src.models.{package}.{package}_{snake}",
        "class_name": f"{stem}{kind}",
        "config": {"name": f"{package}_{snake}", "trainable": True} | values,
        "registered_name": f"keras_hub>{stem}{kind}",
    }


def _snake(kind: str) -> str:
    """CausalLMPreprocessor → causal_lm_preprocessor, as its module is called."""
    return re.sub("(?<=[a-z])(?=[A-Z])|(?<=LM)(?=P)", "_", kind).lower()


def _policy(dtype: str) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }


def _backbone_config(architecture: Architecture, dtype: Dtype) -> dict[str, Any]:
    values = {
        "dtype": _policy(dtype),
        "vocabulary_size": architecture.vocabulary,
        "num_layers": architecture.num_layers,
        "num_query_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "hidden_dim": architecture.width,
        "intermediate_dim": architecture.feed_forward,
        "head_dim": architecture.head_size,
        "attention_logit_soft_cap": architecture.attention_soft_cap or None,
        "final_logit_soft_cap": architecture.final_soft_cap or None,
        "use_sliding_window_attention": architecture.global_every > 1,
        "sliding_window_size": architecture.window,
        "layer_norm_epsilon": architecture.norm_epsilon,
        "dropout": 0,
    }
    own = {"gemma": _older, "gemma2": _older, "gemma3": _third, "gemma4": _fourth}
    family = architecture.family
    return _object(family, "Backbone", values | own[family](architecture))


def _older(architecture: Architecture) -> dict[str, Any]:
    """Gemma 1 and 2, whose class counts both halves of the gated layer."""
    return _scaled(architecture) | {"intermediate_dim": 2 * architecture.feed_forward}


def _scaled(architecture: Architecture) -> dict[str, Any]:
    """What every class says but Gemma 4's, which leaves queries as they are and has all norms."""
    by_head = bool(np.isclose(architecture.query_scale, architecture.head_size**-0.5))
    return {
        "query_head_dim_normalize": by_head,
        "use_post_ffw_norm": architecture.post_norms,
        "use_post_attention_norm": architecture.post_norms,
    }


def _third(architecture: Architecture) -> dict[str, Any]:
    return _scaled(architecture) | {
        "image_size": None,
        "use_query_key_norm": architecture.query_key_norm,
        "local_rope_scaling_factor": architecture.rope_local_scaling,
        "global_rope_scaling_factor": architecture.rope_global_scaling,
        "vision_encoder": None,
        "use_bidirectional_attention": False,
        "is_embedding_model": False,
    }


def _fourth(architecture: Architecture) -> dict[str, Any]:
    return {
        "image_size": None,
        "sliding_window_pattern": architecture.global_every,
        "global_head_dim": architecture.global_head_size,
        "num_global_key_value_heads": architecture.global_kv_heads,
        "local_rope_scaling_factor": architecture.rope_local_scaling,
        "global_rope_scaling_factor": architecture.rope_global_scaling,
        "local_rope_wavelength": architecture.rope_local,
        "global_rope_wavelength": architecture.rope_global,
        "global_rope_partial_rotary_factor": architecture.rope_global_fraction,
        "vision_encoder": None,
        "audio_encoder": None,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": False,
    }


def _tokenizer_config(family: Family) -> dict[str, Any]:
    values: dict[str, Any] = {
        "dtype": _policy("int32"),
        "config_file": "tokenizer.json",
        "proto": None,
        "sequence_length": None,
        "add_bos": False,
        "add_eos": False,
    }
    if family in ("gemma3", "gemma4"):
        values["has_vision_tokens"] = False
    if family == "gemma4":
        values |= {"has_audio_tokens": False, "has_video_tokens": False}
    return _object(family, "Tokenizer", values)


def _preprocessor_config(family: Family, dtype: Dtype) -> dict[str, Any]:
    values = {
        "dtype": _policy(dtype),
        "tokenizer": _tokenizer_config(family),
        "config_file": "preprocessor.json",
        "sequence_length": _SEQUENCE_LENGTH,
        "add_start_token": True,
        "add_end_token": True,
    }
    return _object(family, "CausalLMPreprocessor", values)


def _metadata(architecture: Architecture) -> dict[str, Any]:
    return {
        "keras_version": importlib.metadata.version("keras"),
        "keras_hub_version": importlib.metadata.version("keras-hub"),
        "parameter_count": sum(int(np.prod(shape)) for shape in leaf_shapes(architecture).values()),
        "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["CausalLM"],
    }
