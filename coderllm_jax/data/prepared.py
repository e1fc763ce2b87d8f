"""What `prepare` leaves on disk, written whole or not at all, and how it is read back.

    data/
      training/optax.jsonl                  one file a source
      chunks/trained.jsonl unseen.jsonl     passages on symbols that are trained on, and not
      evaluation/seen.jsonl unseen.jsonl    items of each split
      manifest.json                         versions, licences, counts, what was dropped, sha256

Everything is written into a folder beside its place first, then moved there; the manifest goes
away before the first move and comes back after the last, so that data with a manifest is whole.
No time, no path of this machine and no set order enters a file: equal input gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from coderllm_jax.data.files import Record, find_files, iterate_records
from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk, EvalItem

FOLDERS = ("training", "chunks", "evaluation")
MANIFEST = "manifest.json"

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

    Replaces what `prepare` wrote before, as a whole; other files in `output_dir` stay. Adds to the
    manifest the sha256, size and number of rows of each file.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=output_dir) as scratch:
            staged, retired = Path(scratch) / "new", Path(scratch) / "old"
            retired.mkdir()
            for folder in FOLDERS:
                (staged / folder).mkdir(parents=True)
            listing = {name: _write_rows(staged / name, rows) for name, rows in files.items()}
            manifest = {**manifest, "files": dict(sorted(listing.items()))}
            (staged / MANIFEST).write_text(
                json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            (output_dir / MANIFEST).unlink(missing_ok=True)
            for folder in FOLDERS:
                if (output_dir / folder).exists():
                    (output_dir / folder).rename(retired / folder)
                (staged / folder).rename(output_dir / folder)
            (staged / MANIFEST).rename(output_dir / MANIFEST)
    except OSError as error:
        raise DataError(
            f"{output_dir}: cannot be written ({error.strerror}); "
            "mend its permissions, make room, or set output_dir"
        ) from error
    return PreparedData(output_dir, manifest)


def is_prepared(output_dir: Path) -> bool:
    """Whether `output_dir` holds the whole of what one run of `prepare` wrote."""
    return (output_dir / MANIFEST).is_file() and all((output_dir / f).is_dir() for f in FOLDERS)


def read_evaluation_items(path: str | Path) -> list[EvalItem]:
    """Items of a JSONL file, or of every one in a folder; DataError names file, line and remedy."""
    return _read(path, _item)


def read_chunks(path: str | Path) -> list[Chunk]:
    """Chunks of a JSONL file, or of every one in a folder; DataError names file, line, remedy."""
    return _read(path, _chunk)


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


def _read(path: str | Path, parse: Callable[[dict[str, Any]], R]) -> list[R]:
    found: list[R] = []
    identifiers: dict[str, str] = {}
    for file in find_files(str(path)):
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
