"""Making an index, and keeping it up with its chunks: only texts that are new are embedded.

    chunks ─ texts ─┬─ in the index that is there, unchanged ─┐
                    ├─ kept by a build that was killed ───────┼─ vectors ─ generation ─ manifest
                    └─ new: the embedder, 64 at a time, kept ─┘

A generation's folder is written whole beside the one that is in use, and the manifest is exchanged
last, so that a reader finds the old index or the new one. Nothing is forced onto the disk: what a
power cut leaves half written has another sha256 than the manifest says, is refused, and made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk
from coderllm_jax.retrieval import store
from coderllm_jax.retrieval.embedder import Embedder
from coderllm_jax.retrieval.kept_embeddings import KeptEmbeddings, drop_kept, key_of
from coderllm_jax.retrieval.lexical import K1, B, LexicalIndex
from coderllm_jax.retrieval.relevance import Pair, calibrate
from coderllm_jax.retrieval.store import Manifest, open_index
from coderllm_jax.retrieval.stored_chunks import (
    StoredChunks,
    check_chunks,
    hash_chunks,
    write_chunks,
)
from coderllm_jax.retrieval.vectors import EXACT_BELOW, ScannIndex, scann_problem
from coderllm_jax.retrieval.words import WORDS_VERSION
from coderllm_jax.training.run_folder import write_json

_log = logging.getLogger(__name__)

_BATCH = 64
_GENERATION = re.compile(r"[0-9a-f]{16}")
_PACKAGES = ("coderllm-jax", "sentence-transformers", "torch", "bm25s", "scann", "numpy")


class BuildReport(NamedTuple):
    """What a build did. `was_current`: the index was there already, for exactly this."""

    num_chunks: int
    num_embedded: int
    num_reused: int
    was_current: bool
    seconds: float


def build_index(
    folder: str | Path,
    chunks: Sequence[Chunk],
    embedder: Embedder,
    *,
    pairs: Sequence[Pair] = (),
    exact_below: int = EXACT_BELOW,
    missed_fraction: float = 0.05,
    on_progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Makes `folder` the index of exactly these chunks, and reuses what is there.

    `on_progress` is told how many texts have their vector, and of how many, after each batch.
    Raises DataError where chunks are wrong, the folder is another thing's or cannot be written.
    """
    started = time.perf_counter()
    folder = Path(folder)
    check_chunks(chunks)
    problem = scann_problem() if len(chunks) >= exact_below else ""
    recipe = {
        "embedding": dict(embedder.identity),
        "chunks": hash_chunks(chunks),
        "vectors": "exact" if len(chunks) < exact_below or problem else "scann",
        "words": WORDS_VERSION,
        "bm25": [K1, B],
        "pairs": _hash_json([pairs, missed_fraction]),
    }
    try:
        with _locked(folder):
            former = _current(folder)
            if former is not None and former.recipe == recipe:
                return BuildReport(len(chunks), 0, len(chunks), True, time.perf_counter() - started)
            if problem:
                _log.warning("%s: all %d vectors will be looked at", problem, len(chunks))
            vectors_ND, num_embedded = _embed(folder, chunks, embedder, former, on_progress)
            scratch = folder / f".new-{os.getpid()}"
            lexical = _write(scratch, chunks, vectors_ND, with_scann=recipe["vectors"] == "scann")
            manifest = Manifest(
                generation="",
                recipe=recipe,
                num_chunks=len(chunks),
                dimensions=vectors_ND.shape[1],
                thresholds=calibrate(
                    pairs,
                    chunks,
                    vectors_ND,
                    lexical=lexical,
                    embedder=embedder,
                    missed_fraction=missed_fraction,
                ),
                versions={name: version for name in _PACKAGES if (version := _version(name))},
                note=problem,
                files=store.digest_files(scratch),
            )
            _commit(folder, scratch, manifest, former)
            _clean(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: the index cannot be written ({error.strerror or error}); mend its "
            "permissions, make room, or name another retrieval.index_dir"
        ) from error
    return BuildReport(
        len(chunks), num_embedded, len(chunks) - num_embedded, False, time.perf_counter() - started
    )


def update_index(
    folder: str | Path,
    embedder: Embedder,
    *,
    put: Sequence[Chunk] = (),
    remove: Iterable[str] = (),
    pairs: Sequence[Pair] = (),
    **how: Any,
) -> BuildReport:
    """Adds and changes (by id) the chunks of `put`, and takes out the ids of `remove`.

    Chunks keep their places, new ones come last. DataError names an id that is not there.
    """
    index = open_index(folder)
    index.check_identity(embedder.identity)
    by_id = {chunk.id: chunk for chunk in index.chunks}
    for identifier in remove:
        if by_id.pop(identifier, None) is None:
            raise DataError(f"{folder}: has no chunk {identifier!r}; check the ids to be removed")
    by_id |= {chunk.id: chunk for chunk in put}
    return build_index(folder, list(by_id.values()), embedder, pairs=pairs, **how)


# --- vectors ------------------------------------------------------------------------------------


def _embed(
    folder: Path,
    chunks: Sequence[Chunk],
    embedder: Embedder,
    former: Manifest | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[npt.NDArray[np.float32], int]:
    """Every chunk's vector [N, D], and how many texts had to be embedded."""
    texts = {key_of(chunk.text): chunk.text for chunk in chunks}
    kept = KeptEmbeddings(folder, embedder.identity)
    vectors: dict[bytes, npt.NDArray[np.float32]] = {}
    if former is not None and former.recipe["embedding"] == dict(embedder.identity):
        stored_ND = np.load(folder / former.generation / store.VECTORS, mmap_mode="r")
        keys = (key_of(chunk.text) for chunk in StoredChunks(folder / former.generation))
        known = zip(keys, stored_ND, strict=True)
        vectors |= {key: vector_D for key, vector_D in known if key in texts}
    vectors |= {key: vector_D for key, vector_D in kept if key in texts}
    missing = [key for key in texts if key not in vectors]
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors_ND = embedder.embed_documents([texts[key] for key in batch])
        _check_vectors(vectors_ND, len(batch))
        kept.keep(batch, vectors_ND)
        vectors |= dict(zip(batch, vectors_ND, strict=True))
        if on_progress:
            on_progress(len(vectors), len(texts))
    return np.stack([vectors[key_of(chunk.text)] for chunk in chunks]), len(missing)


def _check_vectors(vectors_ND: npt.NDArray[np.float32], count: int) -> None:
    lengths_N = np.linalg.norm(vectors_ND, axis=-1)
    if vectors_ND.shape[:1] != (count,) or not np.allclose(lengths_N, 1, atol=1e-3):
        raise DataError(
            f"the embedding model gave vectors of shape {vectors_ND.shape} and lengths "
            f"{lengths_N.min():.3g} to {lengths_N.max():.3g}; expected {count} of length 1; "
            "name another retrieval.embedding_model"
        )


# --- files --------------------------------------------------------------------------------------


def _write(
    scratch: Path,
    chunks: Sequence[Chunk],
    vectors_ND: npt.NDArray[np.float32],
    *,
    with_scann: bool,
) -> LexicalIndex:
    """All files of a generation, in a folder that is nobody's yet."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    np.save(scratch / store.VECTORS, vectors_ND)
    write_chunks(scratch, chunks)
    lexical = LexicalIndex.build([chunk.text for chunk in chunks])
    lexical.save(scratch / store.LEXICAL)
    if with_scann:
        ScannIndex.build(vectors_ND).save(scratch / store.SCANN, vectors=scratch / store.VECTORS)
    return lexical


def _commit(folder: Path, scratch: Path, manifest: Manifest, former: Manifest | None) -> None:
    """Gives the generation its name, which is that of its content, and the folder its manifest."""
    generation = _hash_json({name: d.sha256 for name, d in manifest.files.items()})[:16]
    if former is None or former.generation != generation:
        shutil.rmtree(folder / generation, ignore_errors=True)  # of a build that was killed
        scratch.rename(folder / generation)
    manifest = dataclasses.replace(manifest, generation=generation)
    write_json(folder / store.MANIFEST, manifest.to_dict())


def _current(folder: Path) -> Manifest | None:
    """The manifest of an undamaged index; None where there is none. DataError: another thing's."""
    path = folder / store.MANIFEST
    if not path.exists():
        return None
    with contextlib.suppress(OSError, UnicodeDecodeError, json.JSONDecodeError):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "index_format" not in values:
            raise DataError(f"{path}: is no index's; name another retrieval.index_dir")
    try:
        manifest = store.read_manifest(folder)
        damage = store.find_damage(folder, manifest)
    except DataError as error:
        damage = str(error)
    if damage:
        _log.warning("%s: nothing of the index that is there is used: %s", folder, damage)
        return None
    return manifest


def _clean(folder: Path) -> None:
    """Removes what the manifest does not need: older generations, kept batches, cut beginnings."""
    generation = store.read_manifest(folder).generation
    for path in folder.iterdir():
        is_old = _GENERATION.fullmatch(path.name) and path.name != generation
        if is_old or path.name.startswith(".new-"):
            shutil.rmtree(path, ignore_errors=True)
    drop_kept(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the operating system lets go when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder}: the index is being built by another process; wait for it, or name "
                "another retrieval.index_dir"
            ) from None
        yield


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
