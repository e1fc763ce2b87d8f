"""Whether a folder is still, byte for byte, what was written: a sha256 manifest inside it.

    20/integrity.json    {"step": 20, "eval_loss": 2.31,
                          "files": {"state/manifest.ocdbt": {"bytes": 238, "sha256": "9f…"}, …},
                          "sha256": "4c…"}        the digest of everything above

The manifest is written last, after everything that it lists is safe on the disk, and appears whole
or not at all: a folder without one was never finished.

Covers: flipped bits, truncated, emptied, missing, added and exchanged files, also in the manifest
itself, and a folder that was renamed to another step. Does not cover: what was already wrong when
it was hashed, and somebody who means harm, who can write a manifest as well as a file.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.model.mapped import sha256_of

MANIFEST = "integrity.json"
# What a process that was killed while it wrote one leaves; it belongs to nothing.
_UNFINISHED = f".{MANIFEST}.unfinished"


class FileDigest(NamedTuple):
    """What a file must be."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a step's folder must hold. `eval_loss` is None where the step has no finite one."""

    step: int
    eval_loss: float | None
    files: Mapping[str, FileDigest]

    @property
    def sha256(self) -> str:
        """One digest for the whole step."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of integrity.json."""
        return json.dumps({**self._content(), "sha256": self.sha256}, indent=1) + "\n"

    def _content(self) -> dict[str, Any]:
        files = {name: digest._asdict() for name, digest in sorted(self.files.items())}
        return {"step": self.step, "eval_loss": self.eval_loss, "files": files}


def write_manifest(folder: Path, *, step: int, eval_loss: float | None) -> Manifest:
    """Hashes every file of a finished folder, and writes the manifest that makes it valid.

    Everything is on the disk, not only with the operating system, when this returns: older steps
    may be deleted on the strength of it. Raises OSError.
    """
    paths = list(_files(folder))
    for path in paths:
        _sync(path)
    manifest = Manifest(step, eval_loss, _digests(folder, paths))
    _write(folder, manifest)
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        _sync(inner)
    _sync(folder)
    _sync(folder.parent)
    return manifest


def add_eval_loss(folder: Path, eval_loss: float) -> None:
    """Writes the loss of an evaluation that came after the save into a valid manifest.

    The digests stay those of when the files were written: hashing them anew would bless whatever
    has happened to them since. Raises OSError, and ValueError where the manifest is not valid.
    """
    _write(folder, dataclasses.replace(read_manifest(folder), eval_loss=eval_loss))
    _sync(folder)


def _write(folder: Path, manifest: Manifest) -> None:
    unfinished = folder / _UNFINISHED
    unfinished.write_text(manifest.to_json(), encoding="utf-8")
    _sync(unfinished)
    unfinished.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest, of which only itself is checked; ValueError where it is not valid."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(
            step=values["step"],
            eval_loss=values["eval_loss"],
            files={name: FileDigest(**digest) for name, digest in values["files"].items()},
        )
        digest = values["sha256"]
    except FileNotFoundError:
        raise ValueError(f"has no {MANIFEST}: it was never finished") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read ({error})") from error
    if digest != manifest.sha256:
        raise ValueError(f"{MANIFEST} has another sha256 than it says")
    if str(manifest.step) != folder.name:
        raise ValueError(f"{MANIFEST} is that of step {manifest.step}")
    return manifest


def find_damage(folder: Path) -> str:
    """What is wrong with the folder, as the end of a sentence about it; empty where nothing is."""
    try:
        manifest = read_manifest(folder)
        paths = {_name(folder, path): path for path in _files(folder)}
        # Sizes before hashes: a truncated file is then found without reading gigabytes.
        for name, expected in manifest.files.items():
            if name not in paths:
                return f"{name} is missing"
            if (found := paths[name].stat().st_size) != expected.bytes:
                return f"{name} has {found} bytes instead of {expected.bytes}"
        if added := sorted(paths.keys() - manifest.files.keys()):
            return f"{added[0]} does not belong to it"
        digests = _digests(folder, paths.values())
    except (OSError, ValueError) as error:
        return str(error)
    for name, expected in manifest.files.items():
        if digests[name] != expected:
            return f"{name} has another sha256 than when it was written"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """Everything but folders and the manifest itself."""
    own = (folder / MANIFEST, folder / _UNFINISHED)
    for path in folder.rglob("*"):
        if path not in own and (path.is_symlink() or not path.is_dir()):
            yield path


def _digests(folder: Path, paths: Iterable[Path]) -> dict[str, FileDigest]:
    def digest(path: Path) -> tuple[str, FileDigest]:
        return _name(folder, path), FileDigest(path.stat().st_size, sha256_of(path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter lock
        return dict(pool.map(digest, paths))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such notion for folders
            raise
    finally:
        os.close(descriptor)
