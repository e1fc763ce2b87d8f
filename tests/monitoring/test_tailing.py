"""Every line once, whatever a writer does to its file."""

from __future__ import annotations

import os

import pytest

from coderllm_jax.monitoring import tailing
from coderllm_jax.monitoring.tailing import LineTail, LogTail


def add(path, text):
    with path.open("a") as file:
        file.write(text)


def test_lines_come_once_and_half_a_line_waits(tmp_path):
    path = tmp_path / "a.jsonl"
    tail = LineTail(path)
    assert tail.read() == ([], False, False)  # not there yet
    add(path, "one\ntw")
    assert tail.read().lines == [b"one"]
    assert tail.read().lines == []
    add(path, "o\nthree\n")
    assert tail.read() == ([b"two", b"three"], False, False)


def test_a_replaced_file_begins_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    add(path, "one\ntwo\n")
    tail = LineTail(path)
    tail.read()
    other = tmp_path / "other"
    add(other, "one\n")
    other.replace(path)
    add(path, "new\n")
    assert tail.read() == ([b"one", b"new"], True, False)


def test_a_file_cut_in_place_begins_anew_even_where_it_has_grown_past_where_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    add(path, "one\ntwo\n")
    tail = LineTail(path)
    tail.read()
    inode = path.stat().st_ino
    with path.open("r+") as file:
        file.truncate(4)
    add(path, "TWO\nthree\nfour\n")
    assert path.stat().st_ino == inode
    assert tail.read() == ([b"one", b"TWO", b"three", b"four"], True, False)


def test_a_long_file_comes_in_pieces_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tailing, "_CHUNK_BYTES", 64)
    path = tmp_path / "a.jsonl"
    lines = [f"line {i}".encode() for i in range(100)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    tail, got, more = LineTail(path), [], True
    while more:
        found = tail.read()
        assert len(found.lines) <= 64
        got, more = got + found.lines, found.more
    assert got == lines


def test_a_line_without_end_is_left_out_and_the_next_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tailing, "_CHUNK_BYTES", 64)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"a\n" + b"x" * 500 + b"\nb\n")
    tail, got, more = LineTail(path), [], True
    while more:
        found = tail.read()
        got, more = got + found.lines, found.more
    assert got == [b"a", b"(too long)", b"b"]


def test_a_rotated_log_loses_nothing(tmp_path):
    path = tmp_path / "requests.jsonl"
    add(path, "one\n")
    tail = LogTail(path)
    assert tail.read().lines == [b"one"]
    add(path, "two\n")
    path.rename(tmp_path / "requests.jsonl.1")
    assert tail.read().lines == [b"two"]  # nothing in its place yet
    with (tmp_path / "requests.jsonl.1").open("a") as file:
        file.write("late\n")
    add(path, "three\n")
    found = tail.read()
    assert found.lines == [b"late"]
    assert found.more
    assert tail.read().lines == [b"three"]
    tail.close()


def test_a_line_that_comes_while_it_is_looked_whether_the_log_was_rotated(tmp_path, monkeypatch):
    path, rotated = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    add(path, "one\n")
    tail = LogTail(path)
    tail.read()
    path.rename(rotated)
    add(path, "new\n")
    asked = tailing._OpenFile.is_replaced

    def is_replaced(file, now):
        add(rotated, "late\nhalf")
        return asked(file, now)

    monkeypatch.setattr(tailing._OpenFile, "is_replaced", is_replaced)
    assert tail.read().lines == [b"late", b"half"]
    tail.close()


def test_a_log_that_was_copied_and_truncated_goes_on(tmp_path):
    path = tmp_path / "requests.jsonl"
    add(path, "one\ntwo\n")
    tail = LogTail(path)
    assert tail.read().lines == [b"one", b"two"]
    os.truncate(path, 0)
    add(path, "3\n")
    assert tail.read().lines == [b"3"]
    tail.close()


def test_a_log_that_was_truncated_and_has_grown_past_where_it_was(tmp_path):
    path = tmp_path / "requests.jsonl"
    add(path, "one\ntwo\n")
    tail = LogTail(path)
    tail.read()
    os.truncate(path, 0)
    add(path, "three\nfour\nfive\n")
    assert tail.read().lines == [b"three", b"four", b"five"]
    add(path, "si")
    assert tail.read().lines == []
    add(path, "x\n")
    assert tail.read().lines == [b"six"]
    tail.close()


def rotated(folder):
    """A log and three that were rotated away, each a second older."""
    for number in range(4):
        path = folder / f"requests.jsonl.{number}" if number else folder / "requests.jsonl"
        add(path, f"{number} a\n{number} b\n")
        os.utime(path, (100 - number, 100 - number))
    return folder / "requests.jsonl"


def read_all(tail):
    lines, more = [], True
    while more:
        found = tail.read()
        lines, more = lines + found.lines, found.more
    return lines


def test_what_was_rotated_away_since_is_read_first_and_once(tmp_path):
    path = rotated(tmp_path)
    tail = LogTail(path, since=97.5)
    assert read_all(tail) == [b"2 a", b"2 b", b"1 a", b"1 b", b"0 a", b"0 b"]
    path.rename(tmp_path / "other")
    add(path, "new\n")
    assert read_all(tail) == [b"new"]
    tail.close()
    tail = LogTail(path)
    assert read_all(tail) == [b"new"]
    tail.close()


@pytest.mark.parametrize("moment", ["requests.jsonl", "requests.jsonl.1", "requests.jsonl.2"])
def test_a_rotation_while_the_old_ones_are_opened(tmp_path, monkeypatch, moment):
    path = rotated(tmp_path)
    opened, done = tailing._OpenFile.open, []

    def open_and_rotate(file, asked):
        is_open = opened(file, asked)
        if asked.name == moment and not done:
            done.append(moment)
            for number in (3, 2, 1):
                older = tmp_path / f"requests.jsonl.{number}"
                older.rename(tmp_path / f"requests.jsonl.{number + 1}")
            path.rename(tmp_path / "requests.jsonl.1")
            add(path, "new\n")
        return is_open

    monkeypatch.setattr(tailing._OpenFile, "open", open_and_rotate)
    tail = LogTail(path, since=97.5)
    assert read_all(tail) == [b"2 a", b"2 b", b"1 a", b"1 b", b"0 a", b"0 b", b"new"]
    tail.close()


def test_a_log_that_appears_later_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "requests.jsonl"
    tail = LogTail(path)
    assert tail.read().lines == []
    add(path, "one\n")
    assert tail.read().lines == [b"one"]
    tail.close()
