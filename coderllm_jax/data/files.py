"""Files of rows, one row at a time: JSON lines, JSON arrays, Parquet, ArrayRecord and TFDS.

    find_files("data/training")   a.jsonl, b.parquet          sorted; a folder, a pattern, one file
    iterate_records(a.jsonl)      a.jsonl:1 {...}, a.jsonl:2 {...}, ...
    iterate_records(b.parquet)    b.parquet[0] {...}, b.parquet[1] {...}, ...

Owns how files are found, opened and decoded, and the names of rows in errors: lines are counted
from 1 (`a.jsonl:17`), rows of files without lines from 0 (`b.parquet[16]`). A row that is wrong by
itself raises when its `fields` are asked for, so that it can be skipped; a file that is damaged as
a whole raises at once. What a row means is `layouts`' business.

pyarrow, array_record and tensorflow_datasets are imported when a file needs them. TFDS reads its
ArrayRecord data sets without TensorFlow, the others with it.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from coderllm_jax.errors import DataError

_TFDS = re.compile(r"tfds://(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
_KINDS = {
    "lines": re.compile(r"\.(jsonl|ndjson)(\.gz)?$"),
    "json": re.compile(r"\.json(\.gz)?$"),  # an array of rows, or lines after all
    "parquet": re.compile(r"\.parquet$"),
    "arrayrecord": re.compile(r"\.(arrayrecord|array_record)(-\d+-of-\d+)?$"),
}
_SUFFIXES = ".jsonl, .json (each also .gz), .parquet, .arrayrecord"
_BOM = codecs.BOM_UTF8
_RECORDS_A_READ = 512


class SourceFile(NamedTuple):
    """One file (or TFDS split) and how it is read."""

    name: str
    kind: str

    def locate(self, number: int) -> str:
        """Where row `number` is, as an error names it."""
        return f"{self.name}:{number}" if self.kind == "lines" else f"{self.name}[{number}]"


class Record(NamedTuple):
    """One row as it lies in its file: JSON as bytes, or a value already."""

    location: str
    number: int
    raw: Any

    def fields(self) -> dict[str, Any]:
        """The row's keys and values; DataError (without the location) where it is no object."""
        row = _from_json(self.raw) if isinstance(self.raw, bytes) else self.raw
        if not isinstance(row, dict):
            array_hint = "; a JSON array of rows belongs in a .json file" * isinstance(row, list)
            raise DataError(
                f"the row is a {type(row).__name__}; expected an object "
                f"with keys such as question and answer{array_hint}"
            )
        return row


def find_files(path: str, *, option: str = "data.path") -> list[SourceFile]:
    """The files that `path` means, sorted; DataError, naming `option`, where there is none."""
    if path.startswith("tfds://"):
        return [SourceFile(path, "tfds")]
    if not path:
        raise DataError(f"{option} is empty; name a file, a folder, a pattern or tfds://name")
    try:
        return _find_in(Path(path).expanduser(), path, option)
    except OSError as error:  # a folder on the way that may not be entered, a name too long
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check {option} and its permissions"
        ) from None


def _find_in(root: Path, path: str, option: str) -> list[SourceFile]:
    if root.is_file():
        kind = _kind(root)
        if kind is None:
            raise DataError(f"{path}: cannot tell what it holds; expected {_SUFFIXES}; rename it")
        return [SourceFile(str(root), kind)]
    if root.is_dir():
        os.scandir(root).close()  # raises where `rglob` would just find nothing
        found = [entry for entry in root.rglob("*") if not _is_hidden(entry.relative_to(root))]
        problem = f"{path}: the folder has no data files"
    elif re.search(r"[*?\[]", root.name):
        found = list(root.parent.glob(root.name))
        problem = f"{path}: the pattern matches no data files"
    elif root.is_symlink():
        raise DataError(f"{path}: is a link that leads nowhere; mend it or check {option}")
    elif root.exists():
        raise DataError(f"{path}: is neither a file nor a folder; name one of them in {option}")
    else:
        raise DataError(f"{path}: no such file or folder; check {option}")
    kinds = ((entry, _kind(entry)) for entry in sorted(found) if entry.is_file())
    files = [SourceFile(str(entry), kind) for entry, kind in kinds if kind]
    if not files:
        raise DataError(f"{problem}; expected {_SUFFIXES}")
    return files


def iterate_records(file: SourceFile) -> Iterator[Record]:
    """Every row of one file, unread; DataError where the file as a whole is damaged or empty."""
    empty = True
    for number, raw in _READERS[file.kind](file.name):
        empty = False
        yield Record(file.locate(number), number, raw)
    if empty:
        raise DataError(f"{file.name}: has no rows; expected at least one; fill or remove it")


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    kind = next((kind for kind, suffix in _KINDS.items() if suffix.search(name)), None)
    if kind == "json":
        return "array" if _first_byte(path) == b"[" else "lines"
    return kind


def _first_byte(path: Path) -> bytes:
    """The first byte that is neither space nor byte-order mark."""
    with _reading(str(path)) as stream:
        return stream.read(4096).removeprefix(_BOM).lstrip()[:1]


@contextlib.contextmanager
def _reading(file: str) -> Iterator[IO[bytes]]:
    """A file opened, unzipped where its name says so; its failures become DataErrors."""
    try:
        zipped = file.lower().endswith(".gz")
        with gzip.open(file) if zipped else Path(file).open("rb") as stream:
            yield cast(IO[bytes], stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}: damaged gzip ({error}); fetch or write the file again") from None
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); check its permissions"
        ) from None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _from_json(raw: bytes) -> Any:
    if b"\0" in raw:  # never in JSON; in UTF-16 every other byte
        raise DataError("holds NUL bytes, as UTF-16 does; save the file as UTF-8")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at byte {error.start + 1}); "
            "save the file as UTF-8"
        ) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise DataError(
            f"not JSON ({error.msg}, {place}); expected one object a row; mend or drop the row"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON ({error}); drop the row") from None


def _iterate_lines(file: str) -> Iterator[tuple[int, Any]]:
    with _reading(file) as stream:
        for number, line in enumerate(stream, 1):
            row = line.removeprefix(_BOM if number == 1 else b"").strip()
            if row:
                yield number, row


def _iterate_array(file: str) -> Iterator[tuple[int, Any]]:
    with _reading(file) as stream:
        content = stream.read().removeprefix(_BOM)
    try:
        rows = _from_json(content)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    yield from enumerate(rows)


def _iterate_parquet(file: str) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{file}: needs pyarrow; install it or save the rows as JSONL") from None
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_RECORDS_A_READ):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: not readable as Parquet ({_first_line(error)}); write the file again"
        ) from None


def _iterate_array_record(file: str) -> Iterator[tuple[int, Any]]:
    try:
        from array_record.python import array_record_module
    except ImportError:
        raise DataError(
            f"{file}: needs array_record, which has no build for this machine; "
            f"save the rows as JSONL"
        ) from None
    try:
        reader = array_record_module.ArrayRecordReader(file)
        try:
            # `num_records` of a damaged file is 0; only reading says what is wrong.
            total = reader.num_records() if reader.ok() else len(reader.read_all())
            for start in range(0, total, _RECORDS_A_READ):
                numbers = list(range(start, min(start + _RECORDS_A_READ, total)))
                yield from zip(numbers, reader.read(numbers), strict=True)
        finally:
            reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"{file}: not readable as ArrayRecord ({_first_line(error)}); write the file again"
        ) from None


def _iterate_tfds(file: str) -> Iterator[tuple[int, Any]]:
    match = _TFDS.fullmatch(file)
    if match is None:
        raise DataError(f"{file}: expected tfds://name or tfds://name:split")
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError(f"{file}: needs tensorflow_datasets; install it") from None
    split = match["split"] or "train"
    try:
        builder = tfds.builder(match["name"], data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
        if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
            rows = builder.as_data_source(split)
        else:
            rows = tfds.as_numpy(builder.as_dataset(split))
        for number, row in enumerate(rows):
            yield number, {key: _plain(value) for key, value in row.items()}
    except Exception as error:  # TFDS raises whatever its builders, TF or the network raise
        raise DataError(
            f"{file}: not readable through TFDS ({_first_line(error)}); "
            "check the name, the split and TFDS_DATA_DIR"
        ) from error


def _plain(value: Any) -> Any:
    """TFDS's bytes as text, arrays as lists, and a sequence's columns as a list of objects."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value  # the layout refuses it with the field's name
    if isinstance(value, Mapping):
        columns = {key: _plain(column) for key, column in value.items()}
        if not all(isinstance(column, list) for column in columns.values()):
            return columns
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines or lines[0] == type(error).__name__:
        return "it is cut or was overwritten"  # array_record's whole answer is `RuntimeError`
    return lines[0]


_READERS = {
    "lines": _iterate_lines,
    "array": _iterate_array,
    "parquet": _iterate_parquet,
    "arrayrecord": _iterate_array_record,
    "tfds": _iterate_tfds,
}
