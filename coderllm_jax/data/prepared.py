"""What `prepare` leaves on disk, written whole or not at all, and how it is read back.

    data/
      training/optax.jsonl                  one file a source
      chunks/trained.jsonl unseen.jsonl     passages on symbols that are trained on, and not
      evaluation/seen.jsonl unseen.jsonl    items of each split
      manifest.json                         versions, licences, counts, what was dropped, sha256

Everything is written into a folder beside its place first, then moved there file by file; the
manifest goes away before the first move and comes back after the last, so that data with a manifest
is whole. A move that fails is taken back. Where the process was killed between two moves, that
folder stays, and its manifests say which files are ours:

    data/.prepare-1f2e/new/manifest.json   old/manifest.json

Only files that a manifest of ours lists are ever replaced; beside anything else nothing is written.
No time, no path of this machine and no set order enters a file: equal input gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from coderllm_jax.data.files import Record, find_files, iterate_records
from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk, EvalItem

FOLDERS = ("training", "chunks", "evaluation")
MANIFEST = "manifest.json"
_SCRATCH = ".prepare-"

R = TypeVar("R")


class PreparedData(NamedTuple):
    """Where prepared data lies and its manifest's content."""

    output_dir: Path
    manifest: dict[str, Any]

    @property
    def training(self) -> Path:
        """The folder of training rows."""
        return self.output_dir / "training"

    @property
    def chunks(self) -> Path:
        """The folder of chunks."""
        return self.output_dir / "chunks"

    @property
    def evaluation(self) -> Path:
        """The folder of evaluation items."""
        return self.output_dir / "evaluation"

    def summary(self) -> str:
        """A few lines for people."""
        counts = self.manifest["counts"]
        dropped = sum(self.manifest["dropped"].values())
        return (
            f"{self.output_dir}: {counts['training_rows']} training rows, "
            f"{counts['chunks_trained'] + counts['chunks_unseen']} chunks, "
            f"{counts['items_seen'] + counts['items_unseen']} evaluation items\n"
            f"from {counts['symbols']} symbols ({counts['symbols_unseen']} unseen) of "
            f"{', '.join(source['name'] for source in self.manifest['sources'])}; "
            f"{dropped} left out, see {self.output_dir / MANIFEST}"
        )


def write_prepared(
    output_dir: Path, files: Mapping[str, Iterable[Any]], manifest: dict[str, Any]
) -> PreparedData:
    """Writes rows (dataclasses or dicts) as JSONL under their relative names, then the manifest.

    Replaces what `prepare` wrote before, as a whole; DataError where a foreign file is among it.
    Other files in `output_dir` stay. Adds to the manifest the sha256, size and number of rows of
    each file.
    """
    try:
        former = find_former(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        leftovers = list(output_dir.glob(f"{_SCRATCH}*"))
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=output_dir) as scratch:
            staged, retired = Path(scratch) / "new", Path(scratch) / "old"
            for folder in FOLDERS:
                for parent in (staged, retired, output_dir):
                    (parent / folder).mkdir(parents=True, exist_ok=True)
            listing = {name: _write_rows(staged / name, rows) for name, rows in files.items()}
            manifest = {**manifest, "files": dict(sorted(listing.items()))}
            (staged / MANIFEST).write_text(
                json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            _move_all(
                [(output_dir / name, retired / name) for name in former]
                + [(staged / name, output_dir / name) for name in (*listing, MANIFEST)]
            )
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{output_dir}: cannot be written ({error.strerror}); "
            "mend its permissions, make room, or set output_dir"
        ) from error
    return PreparedData(output_dir, manifest)


def find_former(output_dir: Path) -> list[str]:
    """Names of the files that an earlier `prepare` left, its manifest first.

    DataError names a file that lies among them and is not ours. Hidden files count as neither,
    because nothing reads them.
    """
    manifests = [output_dir / MANIFEST, *output_dir.glob(f"{_SCRATCH}*/*/{MANIFEST}")]
    present = [path for path in manifests if path.exists() or path.is_symlink()]
    ours = {name for path in present for name in _listed(path)}
    former = [MANIFEST] if present[:1] == manifests[:1] else []
    for folder in FOLDERS:
        home = output_dir / folder
        if home.exists() and not home.is_dir():
            raise DataError(f"{home} is a file; expected a folder; set another output_dir")
        for path in sorted(home.rglob("*")):
            inside = path.relative_to(output_dir)
            if (path.is_dir() and not path.is_symlink()) or _is_hidden(inside):
                continue
            if inside.as_posix() not in ours:
                raise DataError(
                    f"{path} is not from an earlier `prepare`, which replaces only its own files; "
                    "set another output_dir or move this file"
                )
            former.append(inside.as_posix())
    return former


def is_prepared(output_dir: Path) -> bool:
    """Whether `output_dir` holds the whole of what one run of `prepare` wrote."""
    return (output_dir / MANIFEST).is_file() and all((output_dir / f).is_dir() for f in FOLDERS)


def was_interrupted(output_dir: Path) -> bool:
    """Whether `prepare` was killed while it replaced files: what lies there may be of two runs."""
    staged = output_dir.glob(f"{_SCRATCH}*/new/{MANIFEST}")
    return not (output_dir / MANIFEST).exists() and any(staged)


def read_evaluation_items(path: str | Path) -> list[EvalItem]:
    """Items of a JSONL file, or of every one in a folder; DataError names file, line and remedy."""
    return _read(path, _item, option="data.evaluation_path")


def read_chunks(path: str | Path) -> list[Chunk]:
    """Chunks of a JSONL file, or of every one in a folder; DataError names file, line, remedy."""
    return _read(path, _chunk, option="the path of the chunks")


def _listed(manifest: Path) -> list[str]:
    """The files that a manifest of ours lists; DataError where it is somebody else's."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if "coderllm_jax" in content:
            return list(content["files"])
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{manifest} is not a manifest that `prepare` wrote; set another output_dir or move it"
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    """Every move, or none: those before one that fails are taken back."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise


def _write_rows(path: Path, rows: Iterable[Any]) -> dict[str, Any]:
    digest = hashlib.sha256()
    count = size = 0
    with path.open("wb") as stream:
        for row in rows:
            fields = row if isinstance(row, dict) else dataclasses.asdict(row)
            line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
            stream.write(line)
            digest.update(line)
            count, size = count + 1, size + len(line)
    return {"rows": count, "bytes": size, "sha256": digest.hexdigest()}


def _read(path: str | Path, parse: Callable[[dict[str, Any]], R], *, option: str) -> list[R]:
    found: list[R] = []
    identifiers: dict[str, str] = {}
    for file in find_files(str(path), option=option):
        for record in iterate_records(file):
            try:
                found.append(parse(record.fields()))
            except DataError as error:
                raise DataError(f"{record.location}: {error}") from None
            _check_identifier(found[-1], record, identifiers)
    return found


def _check_identifier(row: Any, record: Record, identifiers: dict[str, str]) -> None:
    if row.id in identifiers:
        raise DataError(
            f"{record.location}: id {row.id!r} stands at {identifiers[row.id]} already; rename one"
        )
    identifiers[row.id] = record.location


def _item(fields: dict[str, Any]) -> EvalItem:
    values = _texts(fields, EvalItem, required=("id", "question", "answer", "split"))
    facts = fields.get("facts", [])
    if not isinstance(facts, list) or not all(isinstance(fact, str) for fact in facts):
        raise DataError(f"'facts' is {facts!r}; expected a list of strings")
    if values["split"] not in ("seen", "unseen"):
        raise DataError(f"'split' is {values['split']!r}; expected seen or unseen")
    return EvalItem(**{**values, "facts": tuple(facts)})


def _chunk(fields: dict[str, Any]) -> Chunk:
    return Chunk(**_texts(fields, Chunk, required=("id", "text", "source")))


def _texts(fields: dict[str, Any], record: type, *, required: tuple[str, ...]) -> dict[str, Any]:
    """The record's fields, each a string; what the record does not know is ignored."""
    known = [field.name for field in dataclasses.fields(record) if field.name != "facts"]
    for key in known:
        if key in required and not fields.get(key):
            raise DataError(f"{key!r} is missing or empty; add it or drop the row")
        if key in fields and not isinstance(fields[key], str):
            raise DataError(f"{key!r} is a {type(fields[key]).__name__}; expected a string")
    return {key: fields[key] for key in known if key in fields}
