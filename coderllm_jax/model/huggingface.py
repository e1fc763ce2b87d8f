"""Reads a Hugging Face folder of a Gemma 3: config.json and safetensors, nothing else.

Neither transformers nor torch is needed, and no file is ever executed: weights in pickle form
(*.bin, *.pt) are refused by not being looked at. Tensors are read one at a time and stacked into
the tree's layout, which for a matrix is the transpose with heads apart:

    q_proj [H·K, D] → query [H, D, K]      o_proj [D, H·K] → attention_output [H, K, D]
    gate_proj [F, D] → ffw_gating [D, F]   norms are kept as (1 + scale) minus 1 on both sides

The text half of a multimodal checkpoint is read and its vision half left alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.data.tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture

_BLOCK_NAMES = {
    "pre_attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "attention_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "ffw_gating": "mlp.gate_proj",
    "ffw_gating_2": "mlp.up_proj",
    "ffw_linear": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Before a text tensor's name: multimodal checkpoints of two generations, and text-only ones.
_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
# What a config.json may leave out, because it is the value of its class in transformers.
_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
}
_WHOLE = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "sliding_window_pattern",
    "_sliding_window_pattern",
)
_REAL = (
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


class SafetensorsFolder:
    """Every tensor of a folder's safetensors files by name, without the prefix of its model."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder}: holds no .safetensors; other weight formats are not read")
        self._folder = folder
        self._files: dict[str, tuple[Path, str]] = {}
        for file in files:
            for name in _tensor_names(file):
                prefix = next((text for text in _PREFIXES if name.startswith(text)), "")
                self._files[name.removeprefix(prefix)] = (file, name)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        file, stored = self._locate(name)
        with _open_safetensors(file) as tensors:
            return tuple(tensors.get_slice(stored).get_shape())

    def read(self, name: str) -> np.ndarray:
        """The tensor in its own dtype."""
        file, stored = self._locate(name)
        with _open_safetensors(file) as tensors:
            return tensors.get_tensor(stored)

    def _locate(self, name: str) -> tuple[Path, str]:
        if name not in self._files:
            raise ModelError(f"{self._folder}: tensor '{name}' is missing; fetch the folder again")
        return self._files[name]


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: holds no config.json; expected a Hugging Face or Keras model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'}: not readable JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'}: expected a JSON object")
    return config


def check_model_type(config: dict[str, Any], *, folder: Path) -> None:
    """ModelError for a folder of another family, before anything else of it is looked at."""
    kind = config.get("model_type")
    if kind not in ("gemma3_text", "gemma3"):
        raise ModelError(f"{folder}: holds a '{kind}' model; only Gemma 3 is understood so far")


def architecture_of(config: dict[str, Any], *, vocabulary: int, folder: Path) -> Architecture:
    """The model's numbers; `vocabulary` is its embedding's, which some configs misstate."""
    check_model_type(config, folder=folder)
    written = config.get("text_config") if config["model_type"] == "gemma3" else config
    if not isinstance(written, dict):
        raise ModelError(
            f"{folder / 'config.json'}: text_config is {written!r}; expected the text model's "
            "settings; fetch the file again"
        )
    text: dict[str, Any] = _DEFAULTS | {
        key: value for key, value in written.items() if value is not None
    }
    if text.get("use_bidirectional_attention"):
        raise ModelError(f"{folder}: holds an embedding model, which cannot generate")
    if not text.get("tie_word_embeddings", True):
        raise ModelError(f"{folder}: its output head is not its embedding; such is not understood")
    for key in (*_WHOLE, *_REAL):
        _check_number(key, text.get(key), folder=folder)
    try:
        local, wide = _rope(text)
        for key in ("rope_theta", "factor"):
            _check_number(key, local.get(key), folder=folder)
            _check_number(key, wide.get(key), folder=folder)
        return Architecture(
            family="gemma3",
            num_layers=text["num_hidden_layers"],
            vocabulary=vocabulary,
            width=text["hidden_size"],
            feed_forward=text["intermediate_size"],
            num_heads=text["num_attention_heads"],
            num_kv_heads=text["num_key_value_heads"],
            head_size=text["head_dim"],
            window=text["sliding_window"],
            global_every=_global_every(text, folder=folder),
            query_scale=text["query_pre_attn_scalar"] ** -0.5,
            rope_local=local.get("rope_theta", text["rope_local_base_freq"]),
            rope_global=wide.get("rope_theta", text["rope_theta"]),
            rope_local_scaling=local.get("factor", 1.0),
            rope_global_scaling=wide.get("factor", 1.0),
            norm_epsilon=text["rms_norm_eps"],
            attention_soft_cap=text.get("attn_logit_softcapping") or 0.0,
            final_soft_cap=text.get("final_logit_softcapping") or 0.0,
        )
    except KeyError as error:
        raise ModelError(f"{folder / 'config.json'}: {error} is missing") from None
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"{folder / 'config.json'}: its rotation or layers are not spelt as a Gemma 3's "
            f"({error}); fetch the file again"
        ) from None


def read_weights(
    tensors: SafetensorsFolder, architecture: Architecture
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, array in the file's dtype) for every leaf, one in memory at a time."""
    yield "embedding", tensors.read("embed_tokens.weight")
    yield "final_norm", tensors.read("norm.weight")
    for name in architecture.block_shapes():
        layers = [
            _to_tree(name, tensors.read(f"layers.{i}.{_BLOCK_NAMES[name]}.weight"), architecture)
            for i in range(architecture.num_layers)
        ]
        yield f"blocks/{name}", np.stack(layers)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.model where there is one, else its tokenizer.json."""
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer.from_file(folder / "tokenizer.model")
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelError(f"{folder}: holds neither tokenizer.model nor tokenizer.json")
    return JsonTokenizer(path.read_text(encoding="utf-8"), name=str(path))


def _to_tree(name: str, values: np.ndarray, architecture: Architecture) -> np.ndarray:
    if name.endswith("norm"):
        return values
    if name in ("query", "key", "value"):
        return values.reshape(-1, architecture.head_size, architecture.width).transpose(0, 2, 1)
    if name == "attention_output":
        return values.reshape(architecture.width, -1, architecture.head_size).transpose(1, 2, 0)
    return values.T


def _rope(text: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary settings of local and global layers, from either of the two spellings in use."""
    named = text.get("rope_parameters") or {}
    local, wide = named.get("sliding_attention") or {}, named.get("full_attention") or {}
    if not wide:
        wide = text.get("rope_scaling") or {}
    for settings in (local, wide):
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in ("default", "linear"):
            raise ModelError(f"rotary scaling '{kind}' is not Gemma 3's; expected linear")
    return local, wide


def _check_number(key: str, value: Any, *, folder: Path) -> None:
    kinds = (int,) if key in _WHOLE else (int, float)
    is_off = key.endswith("softcapping") and not value
    if value is None or is_off or (type(value) in kinds and value > 0):
        return
    expected = "a whole number" if key in _WHOLE else "a number"
    raise ModelError(
        f"{folder / 'config.json'}: {key} is {value!r}; expected {expected} above 0; "
        "fetch the file again"
    )


def _global_every(text: dict[str, Any], *, folder: Path) -> int:
    kinds = text.get("layer_types")
    pattern = text.get("_sliding_window_pattern") or text["sliding_window_pattern"]
    if not kinds:
        return pattern
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else pattern
    expected = [(i + 1) % every == 0 for i in range(len(kinds))]
    if [kind == "full_attention" for kind in kinds] != expected:
        raise ModelError(f"{folder}: global layers are not evenly spaced; not a Gemma 3")
    return every


def _tensor_names(file: Path) -> list[str]:
    with _open_safetensors(file) as tensors:
        return list(tensors.keys())


def _open_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, struct.error) as error:
        raise ModelError(f"{file}: not a safetensors file ({error}); fetch it again") from None
