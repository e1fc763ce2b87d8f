"""An index on disk: whole and for what is asked of it, or refused.

    index/
      manifest.json          the one commit point: what it is of, and every file's sha256
      4f1c0a…/               a generation, named by its content; others are leftovers
        vectors.npy          float32 [N, D], in the order of the chunks
        chunks.jsonl offsets.npy
        lexical/             BM25, as arrays
        scann/               tree and codes, where there are many vectors
      embedded-3fb2…/        while a build is going, see retrieval.kept_embeddings

Whoever opens it says which embedding model, prefixes and chunks it is wanted for. Vectors of one
model mean nothing to another, and an index of yesterday's chunks would answer for today's: both end
in one line that says what differs and what to do.

Covers: flipped bits, truncated, missing and added files, also in the manifest itself. Does not
cover somebody who means harm, who can write a manifest as well as a file.

Opening costs hashing (1.5 GB/s a core) and no library: BM25 and ScaNN load with the first question.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.errors import DataError
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.retrieval.lexical import LexicalIndex
from coderllm_jax.retrieval.relevance import Threshold, Thresholds
from coderllm_jax.retrieval.stored_chunks import StoredChunks
from coderllm_jax.retrieval.vectors import ExactIndex, ScannIndex, VectorIndex, scann_problem
from coderllm_jax.retrieval.words import WORDS_VERSION

_log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, VECTORS, LEXICAL, SCANN = "manifest.json", "vectors.npy", "lexical", "scann"
REMEDY = "build it again with retrieval.build=update"


class FileDigest(NamedTuple):
    """What a file must be."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an index is of. `recipe` is all that decides about it; equal recipes, equal indices."""

    generation: str
    recipe: Mapping[str, Any]
    num_chunks: int
    dimensions: int
    thresholds: Thresholds
    versions: Mapping[str, str]
    note: str
    files: Mapping[str, FileDigest]

    @property
    def sha256(self) -> str:
        """One digest for the whole index."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What manifest.json holds."""
        return {**self._content(), "sha256": self.sha256}

    def _content(self) -> dict[str, Any]:
        return {
            "index_format": FORMAT,
            "generation": self.generation,
            "recipe": dict(self.recipe),
            "num_chunks": self.num_chunks,
            "dimensions": self.dimensions,
            "thresholds": {
                name: threshold and threshold._asdict()
                for name, threshold in self.thresholds._asdict().items()
            },
            "versions": dict(self.versions),
            "note": self.note,
            "files": {name: digest._asdict() for name, digest in sorted(self.files.items())},
        }


@dataclasses.dataclass(frozen=True)
class Index:
    """An opened index."""

    folder: Path
    manifest: Manifest
    chunks: StoredChunks
    vectors_ND: npt.NDArray[np.float32]

    @property
    def thresholds(self) -> Thresholds:
        """From which similarity on a passage is relevant."""
        return self.manifest.thresholds

    @functools.cached_property
    def lexical(self) -> LexicalIndex:
        """BM25; loaded when it is first asked."""
        return LexicalIndex.load(self._home / LEXICAL)

    @functools.cached_property
    def nearest(self) -> VectorIndex:
        """The vectors' index; loaded when it is first asked."""
        if self.manifest.recipe["vectors"] == "exact":
            return ExactIndex(self.vectors_ND)
        if problem := scann_problem():
            _log.warning("%s: all %d vectors are looked at", problem, len(self.chunks))
            return ExactIndex(self.vectors_ND)
        return ScannIndex.load(self._home / SCANN)

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """DataError where this index holds another embedding model's vectors."""
        before = self.manifest.recipe["embedding"]
        names = dict.fromkeys(["model", *before, *identity])
        changed = [
            f"{name} was {_short(before.get(name))}, is {_short(identity.get(name))}"
            for name in names
            if before.get(name) != identity.get(name)
        ]
        if changed:
            raise DataError(
                f"{self.folder}: the index holds another embedding's vectors "
                f"({'; '.join(changed)}); set retrieval.embedding_model and its prefixes back, or "
                f"{REMEDY}"
            )

    def check_chunks(self, chunks_sha256: str) -> None:
        """DataError where this index is of other chunks (`hash_chunks` gives the digest)."""
        if self.manifest.recipe["chunks"] != chunks_sha256:
            raise DataError(
                f"{self.folder}: the index was built from other chunks "
                f"({self.manifest.num_chunks}, {_short(self.manifest.recipe['chunks'])}) than are "
                f"there now ({_short(chunks_sha256)}); restore them, or {REMEDY}"
            )

    @property
    def _home(self) -> Path:
        return self.folder / self.manifest.generation


def open_index(folder: str | Path) -> Index:
    """The index in `folder`, every file of which is what was written; DataError where not."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    if damage := find_damage(folder, manifest):
        current = read_manifest(folder)
        if current.generation != manifest.generation:  # a build has replaced it meanwhile
            return open_index(folder)
        raise DataError(f"{folder}: the index is damaged: {damage}; {REMEDY}")
    if manifest.recipe["words"] != WORDS_VERSION:
        raise DataError(
            f"{folder}: the index splits words as version {manifest.recipe['words']} did; "
            f"expected {WORDS_VERSION}; {REMEDY}"
        )
    home = folder / manifest.generation
    return Index(folder, manifest, StoredChunks(home), np.load(home / VECTORS, mmap_mode="r"))


def read_manifest(folder: Path) -> Manifest:
    """The index's manifest, of which only itself is checked; DataError where it is not valid."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: there is no index; build it with retrieval.build=missing"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {REMEDY}") from None
    if not isinstance(values, dict) or "index_format" not in values:
        raise DataError(f"{path}: is no index's; name another retrieval.index_dir")
    if values["index_format"] != FORMAT:
        raise DataError(
            f"{path}: has index format {values['index_format']!r}; expected {FORMAT}; {REMEDY}"
        )
    try:
        manifest = Manifest(
            generation=values["generation"],
            recipe=values["recipe"],
            num_chunks=values["num_chunks"],
            dimensions=values["dimensions"],
            thresholds=Thresholds(
                **{
                    name: None if threshold is None else Threshold(**threshold)
                    for name, threshold in values["thresholds"].items()
                }
            ),
            versions=values["versions"],
            note=values["note"],
            files={name: FileDigest(**digest) for name, digest in values["files"].items()},
        )
        digest = values["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error!r}); {REMEDY}") from None
    if digest != manifest.sha256:
        raise DataError(f"{path}: is damaged (it has another sha256 than it says); {REMEDY}")
    return manifest


def digest_files(home: Path) -> dict[str, FileDigest]:
    """Size and sha256 of every file below a generation's folder."""
    return _digests(home, _files(home))


def find_damage(folder: Path, manifest: Manifest) -> str:
    """What is wrong with the generation's files; empty where nothing is."""
    home = folder / manifest.generation
    try:
        paths = {path.relative_to(home).as_posix(): path for path in _files(home)}
        # Sizes before hashes: a truncated file is then found without reading gigabytes.
        for name, expected in manifest.files.items():
            if name not in paths:
                return f"{name} is missing"
            if (found := paths[name].stat().st_size) != expected.bytes:
                return f"{name} has {found} bytes instead of {expected.bytes}"
        if added := sorted(paths.keys() - manifest.files.keys()):
            return f"{added[0]} does not belong to it"
        digests = _digests(home, paths.values())
    except OSError as error:
        return str(error)
    for name, expected in manifest.files.items():
        if digests[name] != expected:
            return f"{name} has another sha256 than when it was written"
    return ""


def _files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_symlink() or not path.is_dir()]


def _digests(home: Path, paths: Iterable[Path]) -> dict[str, FileDigest]:
    def digest(path: Path) -> tuple[str, FileDigest]:
        return path.relative_to(home).as_posix(), FileDigest(path.stat().st_size, sha256_of(path))

    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return dict(pool.map(digest, paths))


def _short(value: Any) -> str:
    """A value as an error shows it: a digest by its beginning."""
    text = repr(value)
    return f"{text[:9]}…'" if isinstance(value, str) and len(value) == 64 else text
