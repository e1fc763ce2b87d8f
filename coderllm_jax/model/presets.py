"""Models that come as folders: KerasHub presets, hf://org/name, and folders on this machine.

    gemma3_1b            KerasHub → Kaggle (credentials) → Gemma3Backbone ─┐
    FOLDER, class_name   Keras preset folder → Gemma3Backbone             ─┼→ OpenedModel
    FOLDER, model_type   Hugging Face folder → safetensors, directly      ─┤
    hf://org/name        huggingface_hub → one of the two folders         ─┘

Owns which kind a folder is, and what a person must set when a download is refused. Nothing here
executes a downloaded file: no pickle, no custom code, Keras' safe mode. Names and values of
credentials are read by the hubs' own clients; a value never reaches a message.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path
from typing import Any

from coderllm_jax.data.tokenizer import SentencePieceTokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model import huggingface, keras_bridge
from coderllm_jax.model.weights import Dtype, OpenedModel

# Names that people use for presets that KerasHub calls otherwise.
ALIASES = {"gemma-2b": "gemma_2b_en", "gemma-7b": "gemma_7b_en"}
_KAGGLE_REMEDY = (
    "check the network; if the model is gated, accept its licence on kaggle.com and set "
    "KAGGLE_USERNAME and KAGGLE_KEY (gemma3_270m needs no account)"
)
_HUB_REMEDY = (
    "check the network; if the model is gated, accept its licence on huggingface.co and set "
    "HF_TOKEN (gemma3_270m needs no account)"
)
_SECRETS = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.h5", "assets/*")


def open_preset(name: str, *, dtype: Dtype, others: tuple[str, ...] = ()) -> OpenedModel:
    """A KerasHub preset by its name; `others` are names a misspelling may have meant besides."""
    keras_hub = keras_bridge.import_keras_hub()
    preset = ALIASES.get(name, name)
    known = keras_hub.models.Gemma3Backbone.presets
    if preset not in known:
        if preset in keras_hub.models.GemmaBackbone.presets:
            raise ModelError(
                f"model '{name}' is KerasHub's {preset}, which is older than Gemma 3; only Gemma 3 "
                "is supported so far: try gemma3_270m or gemma3_1b"
            )
        near = difflib.get_close_matches(name, [*others, *known, *ALIASES], n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"for instance {', '.join(others)}"
        raise ModelError(
            f"model '{name}' is unknown; expected a KerasHub Gemma 3 preset, hf://org/name, a "
            f"folder, gguf:FILE or tiny; {hint}"
        )
    return _open_keras(
        preset, source=f"KerasHub preset {preset}", remedy=_KAGGLE_REMEDY, dtype=dtype
    )


def open_hub(name: str, *, dtype: Dtype) -> OpenedModel:
    """hf://org/name: fetches the folder (or finds it in the hub's cache) and opens it."""
    repository = name.removeprefix("hf://")
    try:
        import huggingface_hub
    except ImportError:
        raise ModelError(
            f"model '{name}' needs the package huggingface_hub; install it with pip, or download "
            "the folder and name its path"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(repository, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # noqa: BLE001 - the client's errors share no narrower class
        raise ModelError(
            f"model '{name}' was not fetched ({_reason(error)}); {_HUB_REMEDY}"
        ) from None
    opened = open_folder(Path(folder), dtype=dtype)
    # The snapshot's folder is named by the commit it holds.
    return opened._replace(source=f"{name} at {Path(folder).name}")


def open_folder(folder: Path, *, dtype: Dtype) -> OpenedModel:
    """A folder on this machine: a Hugging Face one has model_type, a Keras one class_name."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a Hugging Face or Keras model folder")
    config = huggingface.read_config(folder)
    source = f"folder {folder.name}"
    if "model_type" in config:
        huggingface.check_model_type(config, folder=folder)
        tensors = huggingface.SafetensorsFolder(folder)
        architecture = huggingface.architecture_of(
            config, vocabulary=tensors.shape("embed_tokens.weight")[0], folder=folder
        )
        leaves = huggingface.read_weights(tensors, architecture)
        return OpenedModel(architecture, leaves, huggingface.read_tokenizer(folder), source)
    # Keras would import what class_name and module say: only the one class is let through.
    if config.get("class_name") != "Gemma3Backbone":
        raise ModelError(
            f"{folder}: config.json has neither model_type nor class_name 'Gemma3Backbone'; "
            "expected a Hugging Face or Keras folder of a Gemma 3"
        )
    return _open_keras(
        str(folder), source=source, remedy="save the folder again with save_to_preset", dtype=dtype
    )


def _open_keras(preset: str, *, source: str, remedy: str, dtype: Dtype) -> OpenedModel:
    keras_hub = keras_bridge.import_keras_hub()
    try:
        backbone = keras_hub.models.Gemma3Backbone.from_preset(preset, dtype=dtype)
        tokenizer = keras_hub.models.Gemma3Tokenizer.from_preset(preset)
    except Exception as error:  # noqa: BLE001 - Kaggle, HTTP and Keras errors share no class
        raise ModelError(f"{source} was not loaded ({_reason(error)}); {remedy}") from None
    architecture = keras_bridge.architecture_of(backbone)
    leaves = keras_bridge.read_weights(backbone, architecture)
    return OpenedModel(architecture, leaves, _sentencepiece_of(tokenizer), source)


def _sentencepiece_of(tokenizer: Any) -> SentencePieceTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_assets(folder)
        (path,) = Path(folder).iterdir()
        return SentencePieceTokenizer.from_file(path)


def _reason(error: Exception) -> str:
    """The error's first line, with any credential in it blotted out."""
    lines = str(error).strip().splitlines() or [""]
    line = f"{type(error).__name__}: {lines[0]}"
    for variable in _SECRETS:
        if secret := os.environ.get(variable):
            line = line.replace(secret, "***")
    return line[:300]
