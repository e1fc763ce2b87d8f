"""Training rows become Examples, whatever files and layout they come in.

    data/training/            read_examples("data/training")
      a.jsonl         ──►       [Example, Example, ...]    files in sorted order, rows as they stand
      b.parquet                 SourceReport               counts, sha256, where each example is

Owns what happens to a bad row (one line with file, row and remedy, or a count up to a limit) and
the hash by which a run knows its data again. `files` reads files, `layouts` reads rows.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import json
from typing import Any

from coderllm_jax.config.training import DataSection
from coderllm_jax.data.files import SourceFile, find_files, iterate_records
from coderllm_jax.data.layouts import detect_layout, parse_row
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example

_BAD_ROWS_SHOWN = 10


@dataclasses.dataclass(frozen=True, eq=False)
class SourceReport:
    """What was read. `sha256` covers the examples and their order, not where they lay."""

    path: str
    files: tuple[SourceFile, ...]
    layouts: tuple[str, ...]
    num_examples: int
    num_bad_rows: int
    bad_rows: tuple[str, ...]
    sha256: str
    _file_of: array.array
    _row_of: array.array

    def locate(self, example: int) -> str:
        """Where example number `example` came from, as an error would name it."""
        return self.files[self._file_of[example]].locate(self._row_of[example])

    def to_dict(self) -> dict[str, Any]:
        """What a run's manifest keeps."""
        return {
            "path": self.path,
            "files": {
                file.name: layout for file, layout in zip(self.files, self.layouts, strict=True)
            },
            "num_examples": self.num_examples,
            "num_bad_rows": self.num_bad_rows,
            "bad_rows": list(self.bad_rows),
            "sha256": self.sha256,
        }


def read_examples(
    path: str, options: DataSection | None = None
) -> tuple[list[Example], SourceReport]:
    """Reads every row under `path`: a file, a folder, a glob pattern, or tfds://name[:split].

    Of `options`, format, on_bad_row, bad_row_limit and allow_empty are used (path is the caller's
    to choose). Raises DataError naming the file, the row and the remedy.
    """
    options = options or DataSection()
    files = find_files(path)
    reader = _Reader(options)
    for file in files:
        reader.read(file)
    if not reader.examples:
        raise DataError(
            f"{path}: all {reader.num_bad_rows} rows are bad; expected at least one good one; "
            f"the first: {reader.bad_rows[0]}"
        )
    report = SourceReport(
        path=path,
        files=tuple(files),
        layouts=tuple(reader.layouts),
        num_examples=len(reader.examples),
        num_bad_rows=reader.num_bad_rows,
        bad_rows=tuple(reader.bad_rows),
        sha256=hash_examples(reader.examples),
        _file_of=reader.file_of,
        _row_of=reader.row_of,
    )
    return reader.examples, report


def hash_examples(examples: list[Example]) -> str:
    """A sha256 of the examples in their order: the same rows in other files have the same hash."""
    digest = hashlib.sha256()
    for example in examples:
        row = [example.turns, example.source, example.symbol, example.kind, example.license]
        digest.update(json.dumps(row, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


class _Reader:
    """Collects examples over files, with the bad rows of all of them under one limit."""

    def __init__(self, options: DataSection) -> None:
        self.options = options
        self.examples: list[Example] = []
        self.layouts: list[str] = []
        self.num_bad_rows = 0
        self.bad_rows: list[str] = []
        self.file_of = array.array("q")
        self.row_of = array.array("q")

    def read(self, file: SourceFile) -> None:
        number_of_file = len(self.layouts)
        # A file has one layout: that of the first row that shows one.
        layout = "" if self.options.format == "auto" else self.options.format
        for record in iterate_records(file):
            try:
                row = record.fields()
                layout = layout or detect_layout(row)
                example = parse_row(row, layout, allow_empty=self.options.allow_empty)
            except DataError as error:
                self._refuse(f"{record.location}: {error}")
            else:
                self.examples.append(example)
                self.file_of.append(number_of_file)
                self.row_of.append(record.number)
        self.layouts.append(layout)

    def _refuse(self, message: str) -> None:
        if self.options.on_bad_row == "error":
            raise DataError(message)
        self.num_bad_rows += 1
        if len(self.bad_rows) < _BAD_ROWS_SHOWN:
            self.bad_rows.append(message)
        if self.num_bad_rows > self.options.bad_row_limit:
            raise DataError(
                f"{self.num_bad_rows} bad rows, more than "
                f"data.bad_row_limit={self.options.bad_row_limit}; mend them or raise the limit; "
                f"the first: {self.bad_rows[0]}"
            )
