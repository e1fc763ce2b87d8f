"""The watchdog: bites what stands still, names who holds it up, and lets what moves alone."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.training import watchdog
from coderllm_jax.training.watchdog import Watchdog


class Ends:
    """What `os._exit` would have been called with."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.happened = threading.Event()

    def __call__(self, code: int) -> Any:
        self.codes.append(code)
        self.happened.set()


def make(folder: Path, ends: Ends, *, timeout_s: float, rank: int = 0, count: int = 2) -> Watchdog:
    return Watchdog(folder, rank=rank, count=count, timeout_s=timeout_s, end=ends)


def write_report(folder: Path, rank: int, **values: Any) -> None:
    report = {"rank": rank, "host": "there", "pid": 7, "phase": "training", "step": 4}
    (folder / f"{rank}.json").write_text(
        json.dumps(report | {"time": time.time(), "since": time.time()} | values)
    )


def hang_of_a_data_iterator() -> None:
    threading.Event().wait(3)


def test_a_data_iterator_that_gives_nothing_is_bitten(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = Ends()
    with make(tmp_path, ends, timeout_s=0.3, count=1) as dog:
        dog.begin()
        dog.beat("waiting for a batch", 17)
        stuck = threading.Thread(target=hang_of_a_data_iterator)
        stuck.start()
        assert ends.happened.wait(10)
        dog.beat("training", 17)
    stuck.join()
    assert set(ends.codes) == {42}
    said = capfd.readouterr().err
    assert "process 0 has been waiting for a batch at step 17 for" in said
    assert "the same command goes on from the last checkpoint" in said
    stacks = (tmp_path / "0.stacks.txt").read_text()
    assert "hang_of_a_data_iterator" in stacks
    assert "hang_of_a_data_iterator" in said


def test_what_moves_is_left_alone(tmp_path: Path) -> None:
    ends = Ends()
    with make(tmp_path, ends, timeout_s=1.0) as dog:
        for step in range(15):
            dog.beat("training", step)
            time.sleep(0.1)
    assert ends.codes == []
    assert list(tmp_path.iterdir()) == []  # a run that never began leaves no trace


def test_without_a_timeout_it_only_reports(tmp_path: Path) -> None:
    ends = Ends()
    with make(tmp_path, ends, timeout_s=0) as dog:
        dog.begin()
        time.sleep(1.2)  # it looks once a second
    assert ends.codes == []
    report = json.loads((tmp_path / "0.json").read_text())
    assert (report["rank"], report["pid"], report["phase"]) == (0, os.getpid(), "starting")


def test_the_silent_one_is_named_before_those_behind(tmp_path: Path) -> None:
    with make(tmp_path, Ends(), timeout_s=0, count=4) as dog:
        dog.beat("training", 5)
        assert dog.blame() == ""  # of those that have not reported yet nothing is known
        write_report(tmp_path, 1, step=5)
        write_report(tmp_path, 2, step=4)
        assert dog.blame() == "process 2 is training at step 4"
        write_report(tmp_path, 3, time=time.time() - 60)
        assert dog.blame().startswith("process 3 (there, pid 7) has not been heard of for 60")


def test_reports_of_an_earlier_session_accuse_nobody(tmp_path: Path) -> None:
    write_report(tmp_path, 1, time=time.time() - 60, step=90)
    with make(tmp_path, Ends(), timeout_s=0) as dog:
        dog.beat("training", 5)
        assert dog.blame() == ""
        os.utime(tmp_path / "1.json", (1, 1))  # written anew
        assert "process 1" in dog.blame()


def test_damaged_reports_accuse_nobody(tmp_path: Path) -> None:
    with make(tmp_path, Ends(), timeout_s=0) as dog:
        (tmp_path / "1.json").write_text('{"rank": 1, "ti')
        assert dog.blame() == ""


def test_it_waits_until_a_death_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_SILENT_AFTER_S", 0.5)
    monkeypatch.setattr(watchdog, "_WRITE_EVERY_S", 0.2)
    with make(tmp_path, Ends(), timeout_s=0) as dog:
        dog.beat("training", 4)
        write_report(tmp_path, 1)
        assert "has not been heard of" in dog.wait_for_silence()


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "processes").write_text("a file")
    with make(tmp_path / "processes", Ends(), timeout_s=0) as dog:
        dog.begin()
        assert dog.blame() == ""
