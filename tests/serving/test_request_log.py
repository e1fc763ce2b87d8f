"""Lines that are whole, files that are rotated, and a docstring that names every field."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.errors import RunError
from coderllm_jax.serving import request_log
from coderllm_jax.serving.request_log import RequestLog, RequestRecord
from tests.fakes import FakeClock


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


def ids(path: Path) -> list[object]:
    return [row["id"] for row in read(path)]


def block_by_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The name that it would be renamed to is a folder's."""
    folder = path.with_name(f"{path.name}.1")
    folder.mkdir()
    return folder.rmdir


def block_by_descriptors(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """It is renamed, and then there is no descriptor for the new file."""

    def refuse(*args: Any, **options: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    return monkeypatch.undo


@pytest.mark.parametrize("block", [block_by_folder, block_by_descriptors])
def test_a_rotation_that_fails_costs_no_line_and_is_tried_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    block: Callable[[Path, pytest.MonkeyPatch], Callable[[], None]],
) -> None:
    path, clock = tmp_path / "log.jsonl", FakeClock()
    size = len(record(1).as_line())
    log = RequestLog(path, max_bytes=2 * size, num_kept=1, now_s=clock.now)
    unblock = block(path, monkeypatch)
    for number in range(5):
        log.write(record(number))
    clock.sleep(61)
    log.write(record(5))
    assert caplog.text.count("cannot be rotated") == 2  # once a minute, not once a line
    unblock()
    log.write(record(6))
    clock.sleep(61)
    log.write(record(7))
    log.write(record(8))
    log.close()
    assert ids(tmp_path / "log.jsonl.1") == [f"chatcmpl-{number}" for number in range(7)]
    assert ids(path) == ["chatcmpl-7", "chatcmpl-8"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    log = RequestLog(path, max_bytes=10, num_kept=1)
    log.write(record(1))
    path.unlink()
    path.parent.rmdir()
    log.write(record(2))
    log.close()
    assert ids(path) == ["chatcmpl-2"]


@pytest.mark.parametrize("there_is_room_later", [True, False])
def test_a_line_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_is_room_later: bool
) -> None:
    """As a disk that is nearly full does: 9 bytes a call, and then perhaps none."""
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10_000, num_kept=1)
    log.write(record(1))
    write, counts = os.write, [0]

    def write_little(file: int, data: bytes) -> int:
        counts[0] += 1
        if counts[0] > 1 and not there_is_room_later:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:9])

    monkeypatch.setattr(os, "write", write_little)
    if there_is_room_later:
        log.write(record(2))
    else:
        with pytest.raises(OSError, match="No space"):
            log.write(record(2))
    monkeypatch.undo()
    log.write(record(3))
    log.close()
    expected = [1, 2, 3] if there_is_room_later else [1, 3]
    assert ids(log.path) == [f"chatcmpl-{number}" for number in expected]


def test_two_servers_do_not_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RequestLog(path, max_bytes=10, num_kept=1)
    for number in range(2):  # the second is in a new file
        log.write(record(number))
        with pytest.raises(RunError, match=r"log\.jsonl is written by another server; stop it, or"):
            RequestLog(path, max_bytes=10, num_kept=1)
    log.close()
    RequestLog(path, max_bytes=10, num_kept=1).close()


def test_a_file_system_without_locks_does_not_forbid_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    log = RequestLog(tmp_path / "log.jsonl", max_bytes=10, num_kept=1)
    log.write(record(1))
    log.close()
    assert ids(log.path) == ["chatcmpl-1"]
    assert "cannot be locked (No locks available)" in caplog.text
