"""Converted weights on disk, so that a model is converted once and mapped afterwards.

Owns the folder's layout and its integrity; knows nothing of any source's format.

    <cache_dir>/weights/                           0700, refused if another user owns it
      <source sha256>-<dtype>-v<converter>/        appears whole (renamed into place) or not at all
        record.json                                its source, and each file's size and sha256
        tokenizer.model
        embedding.npy  final_norm.npy  blocks.query.npy …

Every file is hashed before it is believed (0.7 s a gigabyte and core, measured): a flipped bit,
a truncated file or a damaged record means that the folder is dropped and made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coderllm_jax.errors import DeviceError, ModelError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.model.weights import Dtype, LazyLeaf, Leaves, leaf_dtype, leaf_shapes

# Raised whenever the bytes that a conversion writes change: older folders are then made again.
CONVERTER = 1
_RECORD = "record.json"
_TOKENIZER = "tokenizer.model"


class CachedModel(NamedTuple):
    """A verified folder of converted weights. `dtype` is that of the large leaves."""

    folder: Path
    architecture: Architecture
    dtype: Dtype

    @property
    def tokenizer(self) -> bytes:
        """The SentencePiece model."""
        return (self.folder / _TOKENIZER).read_bytes()

    def leaves(self) -> Iterator[tuple[str, LazyLeaf]]:
        """Every leaf, to be mapped from its file a tensor at a time."""
        for path, shape in leaf_shapes(self.architecture).items():
            is_stacked = path.startswith("blocks/")

            def read(i: int, path: str = path, is_stacked: bool = is_stacked) -> np.ndarray:
                values = np.load(self.folder / _file_name(path), mmap_mode="r", allow_pickle=False)
                tensor = values[i] if is_stacked else values
                return tensor.view(leaf_dtype(path, self.dtype))

            yield path, LazyLeaf(shape, read, is_stacked=is_stacked)


def cache_folder(cache_dir: str | Path, *, source_sha256: str, dtype: Dtype) -> Path:
    """Where the conversion of that source lies or will lie; makes the private parent folder."""
    parent = Path(cache_dir).expanduser() / "weights"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = parent.stat()
    except OSError as error:
        raise ModelError(
            f"{parent}: cannot be made ({error.strerror}); name another model.cache_dir"
        ) from None
    if status.st_uid != os.getuid():
        raise ModelError(f"{parent}: belongs to another user; name another model.cache_dir")
    if stat.S_IMODE(status.st_mode) & 0o077:
        parent.chmod(0o700)
    return parent / f"{source_sha256}-{dtype}-v{CONVERTER}"


def open_cached(folder: Path) -> CachedModel | None:
    """The conversion in `folder` if it is there and whole; a damaged one is dropped and logged."""
    if not folder.exists():
        return None
    try:
        return _verify(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged (%s) and is made again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def write_cached(
    folder: Path,
    leaves: Leaves,
    *,
    architecture: Architecture,
    tokenizer: bytes,
    dtype: Dtype,
    source: str,
) -> CachedModel:
    """Writes a conversion beside `folder` and renames it into place once it is complete."""
    shapes = leaf_shapes(architecture)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _check_space(partial, shapes, dtype)
        (partial / _TOKENIZER).write_bytes(tokenizer)
        for path, leaf in leaves:
            _write_leaf(partial / _file_name(path), leaf, leaf_dtype(path, dtype))
        record = {
            "converter": CONVERTER,
            "source": source,
            "dtype": dtype,
            "architecture": dataclasses.asdict(architecture),
            "files": _digests(partial, [_TOKENIZER, *map(_file_name, shapes)]),
        }
        _write_record(partial / _RECORD, record)
        try:
            partial.rename(folder)
        except OSError as error:
            # Another process finished first: its folder is as good as ours.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CachedModel(folder, architecture, dtype)


def _write_leaf(path: Path, leaf: np.ndarray | LazyLeaf, dtype: np.dtype) -> None:
    """The bytes that `np.save` would write, without the whole leaf in memory."""
    # The format has no bfloat16: its bits are kept as integers.
    stored = np.dtype(np.uint16) if dtype.itemsize == 2 else dtype
    header = {"descr": stored.str, "fortran_order": False, "shape": leaf.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for tensor in leaf.tensors() if isinstance(leaf, LazyLeaf) else [leaf]:
            file.write(np.ascontiguousarray(tensor, dtype).view(np.uint8).data)


def _verify(folder: Path) -> CachedModel:
    record = _read_record(folder / _RECORD)
    architecture = Architecture(**record["architecture"])
    expected = record["files"]
    names = [_TOKENIZER, *map(_file_name, leaf_shapes(architecture))]
    if sorted(expected) != sorted(names):
        raise ValueError("its record lists other files")
    # Sizes first: a truncated file is then found without reading a gigabyte.
    for name in names:
        if (folder / name).stat().st_size != expected[name]["bytes"]:
            raise ValueError(f"{name} has another size")
    if _digests(folder, names) != expected:
        raise ValueError("a file has another sha256")
    return CachedModel(folder, architecture, record["dtype"])


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """The record and its own sha256, so that a changed number in it is seen as well."""
    signed = record | {"sha256": _digest_of(record)}
    path.write_text(json.dumps(signed, indent=1), encoding="utf-8")


def _read_record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.pop("sha256") != _digest_of(record):
        raise ValueError("its record has another sha256")
    return record


def _digest_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(lambda name: sha256_of(folder / name), names))
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }


def _check_space(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: Dtype) -> None:
    needed = sum(
        int(np.prod(shape)) * leaf_dtype(path, dtype).itemsize for path, shape in shapes.items()
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DeviceError(
            f"{folder.parent}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the "
            "converted weights; free some space or name another model.cache_dir"
        )


def _file_name(path: str) -> str:
    return f"{path.replace('/', '.')}.npy"
