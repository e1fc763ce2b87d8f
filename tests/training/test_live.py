"""live.yaml: read when it changes, obeyed at a step, and made again by a run that went back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.training.journal import Journal
from coderllm_jax.training.live import LiveFile

HALF = {"learning_rate_scale": 0.5}


class Desk:
    """A run's folder, and a file that may be opened again as another session would."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "live.yaml"
        self.journal = Journal(folder / "journal.jsonl")
        self.notes: list[str] = []

    def session(self, *, step: int = 0, values: dict[str, Any] | None = None) -> LiveFile:
        return LiveFile(
            self.path, self.journal, values=values or {}, step=step, note=self.notes.append
        )

    def events(self) -> list[tuple[str, int]]:
        return [(event["event"], event["step"]) for event in self.journal.read()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def steps(live: LiveFile, *numbers: int) -> list[dict[str, Any]]:
    return [live.values(number) for number in numbers]


def test_a_change_holds_from_the_step_that_sees_it(desk: Desk) -> None:
    live = desk.session()
    assert steps(live, 1, 2) == [{}, {}]
    desk.path.write_text("learning_rate_scale: 0.5")
    assert steps(live, 3, 4) == [HALF, HALF]
    desk.path.unlink()
    assert steps(live, 5) == [{}]
    assert desk.events() == [("live", 3), ("live", 5)]
    assert desk.notes == [
        "live.yaml, from step 3: learning_rate_scale is 0.5",
        "live.yaml, from step 5: learning_rate_scale is as configured",
    ]


def test_a_file_that_an_editor_has_emptied_to_write_it_is_waited_for(desk: Desk) -> None:
    desk.path.write_text("learning_rate_scale: 0.5")
    live = desk.session()
    assert steps(live, 1) == [HALF]
    desk.path.write_text("")
    assert steps(live, 2) == [HALF]
    desk.path.write_text("learning_rate_scale: 0.25")
    assert steps(live, 3) == [{"learning_rate_scale": 0.25}]
    desk.path.write_text("")
    assert steps(live, 4, 5) == [{"learning_rate_scale": 0.25}, {}]


def test_a_file_that_was_there_before_the_run_holds_at_once(desk: Desk) -> None:
    desk.path.write_text("learning_rate_scale: 0.5")
    assert steps(desk.session(), 1) == [HALF]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"learning_rate: 0.5", "learning_rate cannot change while the run is going"),
        (b"learning_rate_scale: fast", "learning_rate_scale"),
        (b"learning_rate_scale: -1", "learning_rate_scale"),
        (b"{", "live.yaml"),
        (b"\xff\xfe\x00", "decode"),
        (b"!!python/object/apply:os.system ['true']", "live.yaml"),
        (b"learning_rate_scale: 0.1\nnonsense: 1", "unknown key 'nonsense'"),
    ],
)
def test_what_is_not_understood_is_rejected_as_a_whole(
    desk: Desk, text: bytes, reason: str
) -> None:
    live = desk.session(values=HALF)
    desk.path.write_bytes(text)
    assert steps(live, 1, 2) == [HALF, HALF]
    (event,) = desk.journal.read()
    assert event["event"] == "live_rejected"
    assert reason in event["reason"]
    assert "is rejected, nothing changes" in desk.notes[0]
    assert len(desk.notes) == 1  # not at every step


def test_a_file_that_was_only_touched_is_no_change(desk: Desk) -> None:
    desk.path.write_text("learning_rate_scale: 0.5")
    live = desk.session()
    live.values(1)
    os.utime(desk.path, ns=(1, 1))
    assert steps(live, 2) == [HALF]
    assert desk.events() == [("live", 1)]


def test_stop_is_obeyed_once(desk: Desk) -> None:
    desk.path.write_text("stop: true")
    live = desk.session()
    assert steps(live, 7) == [{}]
    assert live.wants_stop
    again = desk.session(step=8)
    again.values(9)
    assert not again.wants_stop


def test_a_stop_that_a_kill_overtook_is_obeyed_after_all(desk: Desk) -> None:
    desk.path.write_text("stop: true")
    desk.session().values(7)
    again = desk.session(step=5)
    again.values(6)
    assert not again.wants_stop
    again.values(7)
    assert again.wants_stop


def test_a_run_that_goes_back_makes_its_changes_at_their_steps(desk: Desk) -> None:
    live = desk.session()
    live.values(1)
    desk.path.write_text("learning_rate_scale: 0.5")
    live.values(30)
    desk.path.write_text("learning_rate_scale: 0.25")
    live.values(40)
    again = desk.session(step=25)
    assert steps(again, 26, 30, 39, 40) == [{}, HALF, HALF, {"learning_rate_scale": 0.25}]
    between = desk.session(step=35, values=HALF)
    assert steps(between, 36, 40) == [HALF, {"learning_rate_scale": 0.25}]
    assert len(desk.events()) == 2  # made again, and not journalled again


def test_a_new_file_ends_what_is_being_made_again(desk: Desk) -> None:
    live = desk.session()
    live.values(1)
    desk.path.write_text("learning_rate_scale: 0.5")
    live.values(30)
    again = desk.session(step=25)
    again.values(26)
    desk.path.write_text("learning_rate_scale: 0.25")
    assert steps(again, 27, 30) == [{"learning_rate_scale": 0.25}] * 2


def test_what_was_changed_while_it_was_down_holds_at_once_and_alone(desk: Desk) -> None:
    live = desk.session()
    live.values(1)
    desk.path.write_text("learning_rate_scale: 0.5")
    live.values(30)
    desk.path.write_text("evaluation: {every_steps: 7}")
    again = desk.session(step=25)
    assert steps(again, 26, 30) == [{"evaluation.every_steps": 7}] * 2


def test_a_change_that_a_session_wrote_over_is_not_made_again(desk: Desk) -> None:
    """0.5 at step 30; gone back to 20; 0.25 at step 25; gone back to 20 once more."""
    live = desk.session()
    live.values(1)
    desk.path.write_text("learning_rate_scale: 0.5")
    live.values(30)
    second = desk.session(step=20)
    second.values(21)
    desk.path.write_text("learning_rate_scale: 0.25")
    second.values(25)
    third = desk.session(step=20)
    quarter = {"learning_rate_scale": 0.25}
    assert steps(third, 21, 25, 30, 31) == [{}, quarter, quarter, quarter]


def test_a_rejected_file_does_not_undo_what_is_made_again(desk: Desk) -> None:
    live = desk.session()
    live.values(1)
    desk.path.write_text("learning_rate_scale: 0.5")
    live.values(30)
    desk.path.write_text("nonsense")
    live.values(35)
    assert steps(desk.session(step=25), 26, 30, 36) == [{}, HALF, HALF]
