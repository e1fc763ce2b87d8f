"""Lines that are whole, files that are rotated, and a docstring that names every field."""

from __future__ import annotations

import dataclasses
import json
import re
import stat
from pathlib import Path

from coderllm_jax.serving import request_log
from coderllm_jax.serving.request_log import RequestLog, RequestRecord


def record(number: int = 0, **fields: object) -> RequestRecord:
    return RequestRecord(time=1000.5 + number, id=f"chatcmpl-{number}", **fields)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_field_is_written_and_described(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "new" / "log.jsonl", max_bytes=10_000, num_kept=1)
    log.write(record(question="What?", answer="That."))
    log.close()
    (row,) = read(log.path)
    names = [field.name for field in dataclasses.fields(RequestRecord)]
    assert list(row) == names
    described = re.findall(
        r"^    ([a-z][a-z_, ]*?)(?:  |$)", request_log.__doc__, flags=re.MULTILINE
    )
    assert [name for line in described for name in line.split(", ")] == names


def test_text_is_there_only_where_it_was_kept(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10_000, num_kept=1)
    log.write(record())
    log.close()
    (row,) = read(log.path)
    assert "question" not in row
    assert "answer" not in row
    assert row["ttft_s"] is None


def test_a_line_is_one_whatever_text_holds(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10_000, num_kept=1)
    text = 'a\nb\r\u2028\x00\ud800 "quoted" ü'
    log.write(record(question=text, answer=""))
    log.close()
    data = log.path.read_bytes()
    assert data.count(b"\n") == 1
    assert json.loads(data)["question"] == text.replace("\ud800", "?")


def test_files_are_rotated_before_they_grow_too_large(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    size = len(record(1).as_line())
    log = RequestLog(path, max_bytes=2 * size, num_kept=2)
    for number in range(9):
        log.write(record(number))
    log.close()
    ids = [
        [row["id"] for row in read(file)]
        for file in (tmp_path / "log.jsonl.2", tmp_path / "log.jsonl.1", path)
    ]
    assert ids == [
        ["chatcmpl-4", "chatcmpl-5"],
        ["chatcmpl-6", "chatcmpl-7"],
        ["chatcmpl-8"],
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "log.jsonl",
        "log.jsonl.1",
        "log.jsonl.2",
    ]


def test_a_line_longer_than_a_file_is_still_written(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10, num_kept=0)
    log.write(record(1))
    log.write(record(2))
    log.close()
    assert [row["id"] for row in read(log.path)] == ["chatcmpl-2"]
    assert len(list(tmp_path.iterdir())) == 1


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for number in range(2):
        log = RequestLog(path, max_bytes=10_000, num_kept=1)
        log.write(record(number))
        log.close()
    assert [row["id"] for row in read(path)] == ["chatcmpl-0", "chatcmpl-1"]


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10, num_kept=1)
    log.write(record(1))
    log.write(record(2))
    log.close()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
