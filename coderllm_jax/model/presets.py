"""Models that come as folders: KerasHub presets, hf://org/name, and folders on this machine.

    gemma3_1b            Kaggle's client (credentials) → a Keras folder   ─┐
    hf://org/name        huggingface_hub → one of the two folders         ─┤
    FOLDER, class_name   Keras preset folder → `keras_folder`             ─┼→ OpenedModel
    FOLDER, model_type   Hugging Face folder → `huggingface`              ─┘

Owns which kind a folder is, and what a person must set when a download is refused. Nothing here
executes a downloaded file: files are fetched by name, read as numbers and arrays by our own
readers, and no library is asked to rebuild an object from them. Values of credentials are read by
the hubs' own clients and never reach a message.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from coderllm_jax.errors import ModelError
from coderllm_jax.model import huggingface, keras_bridge, keras_folder
from coderllm_jax.model.mapped import sha256_of_all
from coderllm_jax.model.weights import OpenedModel
from coderllm_jax.redaction import redact

# Names that people use for presets that KerasHub calls otherwise.
ALIASES = {
    "gemma-2b": "gemma_2b_en",
    "gemma-7b": "gemma_7b_en",
    "gemma-2-2b": "gemma2_2b_en",
    "gemma-2-9b": "gemma2_9b_en",
    "gemma-2-27b": "gemma2_27b_en",
}
_KAGGLE_REMEDY = (
    "check the network; if the model is gated, accept its licence on kaggle.com and set "
    "KAGGLE_USERNAME and KAGGLE_KEY (gemma3_270m needs no account)"
)
_HUB_REMEDY = "check the network, or download the folder elsewhere and name its path"
# What the hub's client raises → what helps; it tells a private repository from none to nobody.
_HUB_REMEDIES = {
    "GatedRepoError": "accept its licence on huggingface.co and set HF_TOKEN",
    "RepositoryNotFoundError": "check the name; a private or gated one needs HF_TOKEN",
    "HFValidationError": "write hf://organization/name",
    "PermissionError": "set HF_TOKEN",
}
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.h5", "assets/*")


def open_preset(name: str, *, others: tuple[str, ...] = ()) -> OpenedModel:
    """A KerasHub preset by its name; `others` are names a misspelling may have meant besides."""
    keras_hub = keras_bridge.import_keras_hub()
    preset = ALIASES.get(name, name)
    kinds = sorted(set(keras_bridge.BACKBONES.values()))
    known = {
        known_name: entry
        for kind in kinds
        for known_name, entry in getattr(keras_hub.models, kind).presets.items()
    }
    if preset not in known:
        near = difflib.get_close_matches(name, [*others, *known, *ALIASES], n=1, cutoff=0.7)
        hint = f"did you mean '{near[0]}'?" if near else f"for instance {', '.join(others)}"
        raise ModelError(
            f"model '{name}' is unknown; expected a KerasHub Gemma preset, hf://org/name, a "
            f"folder, gguf:FILE or tiny; {hint}"
        )
    folder = _fetch_preset(preset, known[preset]["kaggle_handle"])
    return open_folder(folder)._replace(source=f"KerasHub preset {preset}")


def _fetch_preset(preset: str, handle: str) -> Path:
    """The folder of the preset's files in Kaggle's cache, each fetched by name."""
    path = handle.removeprefix("kaggle://")
    try:
        import kagglehub

        config = Path(kagglehub.model_download(path, keras_folder.CONFIG))
        described = huggingface.read_config(config.parent)
        if keras_folder.is_keras(described):
            # What we cannot run is said before gigabytes are fetched.
            keras_folder.architecture_of(described, folder=config.parent)
        for name in (keras_folder.TOKENIZER, keras_folder.WEIGHTS):
            try:
                kagglehub.model_download(path, name)
            except ValueError:  # how its client says that a model has no such file
                if name != keras_folder.WEIGHTS:
                    raise
                kagglehub.model_download(path, keras_folder.INDEX)
                for part in keras_folder.weight_files(config.parent):
                    kagglehub.model_download(path, part.name)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - the client's and HTTP's errors share no class
        raise ModelError(
            f"KerasHub preset {preset} was not fetched ({_reason(error)}); {_KAGGLE_REMEDY}"
        ) from None
    return config.parent


def open_hub(name: str) -> OpenedModel:
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
        remedy = _HUB_REMEDIES.get(type(error).__name__, _HUB_REMEDY)
        raise ModelError(f"model '{name}' was not fetched ({_reason(error)}); {remedy}") from None
    opened = open_folder(Path(folder))
    # The snapshot's folder is named by the commit it holds.
    return opened._replace(source=f"{name} at {Path(folder).name}")


def find_hub_config(name: str) -> dict[str, Any]:
    """config.json of hf://org/name in the hub's cache, which loading filled; {} where it is not."""
    import huggingface_hub

    file = huggingface_hub.try_to_load_from_cache(name.removeprefix("hf://"), keras_folder.CONFIG)
    return huggingface.read_config(Path(file).parent) if isinstance(file, str) else {}


def open_folder(folder: Path) -> OpenedModel:
    """A folder on this machine: a Hugging Face one has model_type, a Keras one class_name."""
    config = read_folder_config(folder)
    if "model_type" in config:
        return _open_huggingface(folder, config)
    if keras_folder.is_keras(config):
        return _open_keras(folder, config)
    classes = ", ".join(sorted(set(keras_bridge.BACKBONES.values())))
    raise ModelError(
        f"{folder}: config.json has neither model_type nor class_name ({classes}); "
        "expected a Hugging Face or Keras folder of a Gemma"
    )


def read_folder_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; ModelError where there is no folder, or none in it."""
    if folder.is_file():
        raise ModelError(
            f"{folder}: is a file, which is not opened; expected a Hugging Face or Keras model "
            "folder, or gguf:FILE"
        )
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a Hugging Face or Keras model folder")
    return huggingface.read_config(folder)


def _open_huggingface(folder: Path, config: dict) -> OpenedModel:
    huggingface.check_model_type(config, folder=folder)
    tensors = huggingface.SafetensorsFolder(folder)
    architecture = huggingface.architecture_of(
        config, vocabulary=tensors.find("embed_tokens.weight").shape[0], folder=folder
    )
    return OpenedModel(
        architecture,
        huggingface.read_weights(tensors, architecture),
        huggingface.read_tokenizer(folder),
        f"folder {folder.name}",
        sha256_of_all(tensors.files, extra=repr(architecture)),
    )


def _open_keras(folder: Path, config: dict) -> OpenedModel:
    architecture = keras_folder.architecture_of(config, folder=folder)
    files = keras_folder.weight_files(folder)
    return OpenedModel(
        architecture,
        keras_folder.read_weights(files, architecture),
        keras_folder.read_tokenizer(folder),
        f"folder {folder.name}",
        sha256_of_all(files, extra=repr(architecture)),
    )


def _reason(error: Exception) -> str:
    """The error's first line, with any credential in it blotted out before it is cut."""
    lines = redact(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
