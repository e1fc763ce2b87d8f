"""A run's history: whole lines, whatever happened while one was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coderllm_jax.training.journal import Journal


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    assert journal.read() == []
    journal.write("started", 0)
    journal.write("skipped", 3, {"loss": float("nan"), "rows": ["ä.jsonl:1"]})
    first, second = Journal(tmp_path / "run" / "journal.jsonl").read()
    assert (first["event"], first["step"]) == ("started", 0)
    assert (second["loss"], second["rows"]) == (None, ["ä.jsonl:1"])


@pytest.mark.parametrize("half", ['{"time": 1, "st', '{"time": 1}', "\x00\x00", "[1]", '"event"'])
def test_half_a_line_costs_no_other_event(tmp_path: Path, half: str) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.write("started", 0)
    with path.open("a") as file:
        file.write(half)
    assert [event["event"] for event in journal.read()] == ["started"]
    journal.write("started", 5)
    assert [event["step"] for event in journal.read()] == [0, 5]


def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\xff\xfe\n" + json.dumps({"event": "started", "step": 1}).encode() + b"\n")
    assert [event["step"] for event in Journal(path).read()] == [1]


def test_a_journal_that_cannot_be_written_is_said_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    Journal(tmp_path / "journal.jsonl").write("started", 0)
    assert "event 'started' was not written" in caplog.text


def test_a_process_that_keeps_none_writes_none() -> None:
    journal = Journal(None)
    journal.write("started", 0)
    assert journal.read() == []
