"""Starting programs: words survive a shell, signals end what is going, a dry run starts nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.commands import Commands
from launch.errors import LaunchError, StoppedError
from tests.launch.fakes import send_when

NASTY = ["", " ", "a b", "it's", '"quoted"', "$HOME", "`id`", "$(id)", "a\\b", "*", "~", "#", "&&"]


def words_of(line: str) -> list[str]:
    """What a real shell makes of a printed line."""
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True
    )
    return shown.stdout.decode().split("\0")[:-1]


def printed(words: list[str]) -> str:
    out = io.StringIO()
    assert Commands(dry_run=True, out=out).run(words) == 0
    return out.getvalue()


def test_a_printed_line_is_the_command() -> None:
    assert words_of(printed(["echo", *NASTY])) == ["echo", *NASTY]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1)
)
def test_any_words_survive_a_shell(words: list[str]) -> None:
    assert words_of(printed(["echo", *words])) == ["echo", *words]


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    commands = Commands(dry_run=True, out=out)
    made = tmp_path / "made"
    assert commands.run(["touch", str(made)], stdin=Path("my file")) == 0
    assert commands.ask(["touch", str(made)], pretend="yes").out == "yes"
    assert commands.together([["touch", str(made)], ["no-such"]], stop=lambda: None) == [0, 0]
    commands.run(["cat"], stdin="a\nb\n")
    commands.sleep(1000)
    assert not made.exists()
    assert out.getvalue().splitlines() == [
        f"touch {made} < 'my file'",
        f"touch {made}",
        f"touch {made} &",
        "no-such",
        "cat <<'END'",
        "a",
        "b",
        "END",
    ]


def test_exit_codes_and_what_was_said(tmp_path: Path) -> None:
    commands = Commands()
    assert commands.run(["sh", "-c", "exit 42"]) == 42
    assert commands.run(["sh", "-c", "kill -9 $$"]) == 137
    assert commands.ask(["sh", "-c", "echo a; echo b >&2; exit 3"]) == (3, "a\n", "b\n")
    group = commands.ask(["sh", "-c", "ps -o pgid= -p $$"]).out
    assert int(group) != os.getpgrp()  # Ctrl-C in a terminal is sent to a whole group
    assert commands.together(
        [["sh", "-c", "exit 1"], ["sh", "-c", "kill $$"], ["true"]], stop=lambda: None
    ) == [1, 143, 0]
    (tmp_path / "in").write_text("from a file")
    for stdin in (tmp_path / "in", "from a file"):
        grep = ["grep", "-q", "from a file"]
        assert commands.run(grep, stdin=stdin) == 0
    with pytest.raises(LaunchError, match=r"^there is no no-such on PATH; install it"):
        commands.run(["no-such"])
    with pytest.raises(LaunchError, match=r"^copying failed \(false ended with 1\)"):
        commands.must(["false"], "copying")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_is_going_and_is_named(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    ready = tmp_path / "ready"
    with Commands() as commands:
        send_when(ready.exists, number)
        script = f"trap 'touch {tmp_path}/told; exit 1' TERM; touch {ready}"
        script += "; while :; do sleep 0.05; done"
        with pytest.raises(StoppedError, match=number.name):
            commands.run(["bash", "-c", script])
        assert (tmp_path / "told").exists()  # it could end in good order
        with pytest.raises(StoppedError):
            commands.sleep(60)
        with pytest.raises(StoppedError):
            commands.check_signal()
        with commands.tidying():  # cleaning up goes on all the same
            assert commands.run(["true"]) == 0
            commands.check_signal()
    assert signal.getsignal(number) == before


def test_programs_that_run_together_are_stopped_by_their_caller(tmp_path: Path) -> None:
    flag = tmp_path / "stop"
    wait = [
        "bash",
        "-c",
        f"touch {tmp_path}/ready; until [[ -e {flag} ]]; do sleep 0.02; done; exit 42",
    ]
    stops = []

    def stop() -> None:
        stops.append(1)
        flag.touch()

    ready = tmp_path / "ready"
    with Commands() as commands:
        send_when(ready.exists, signal.SIGTERM)
        assert commands.together([wait, wait, ["false"]], stop=stop) == [42, 42, 1]
    assert stops == [1]


def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with Commands() as commands:
        send_when(ready.exists, signal.SIGTERM)
        codes = commands.together(
            [["bash", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"]],
            stop=lambda: None,
            patience_s=0.3,
        )
    assert codes == [137]
