"""What a launch calls, as recorders: gcloud, kubectl, ssh, sbatch, srun, scontrol, scancel.

    world = World(folder)                       executables in folder/bin, to be put before PATH
    world.say("describe", "--zone=a", out="{}") what calls with these parts are answered, in order;
    world.say("describe", code=1)               the last answer goes on for ever
    world.calls                                 every call's words, in order of their beginning

An answer may also wait until a file is there (`until`), make one (`touch`), or run the call's own
words in a shell of this machine (`execute`), as ssh and srun would elsewhere; FAKE_SSH is then the
number of the process that stands for the connection. What no answer matches succeeds without a
word.
"""

from __future__ import annotations

import ast
import marshal
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("gcloud", "kubectl", "ssh", "sbatch", "srun", "scontrol", "scancel")
_PROGRAM = """#!{python} -IS
# A start is nearly all of a call: nothing that takes long to import.
import fcntl, marshal, os, sys, time
folder = {folder!r}
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
stdin = b"" if os.isatty(0) else sys.stdin.buffer.read()
with open(folder + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(folder + "/calls", "a") as calls:
        calls.write(repr((words, stdin.decode(errors="replace"))) + "\\n")
    with open(folder + "/answers", "rb") as file:
        answers = marshal.load(file)
    line = " ".join(words)
    mine = [each for each in answers if all(part in line for part in each["parts"])]
    answer = next((each for each in mine if not each["used"]), mine[-1] if mine else dict())
    answer["used"] = True
    # Whole or not at all: a launch that is stopped ends its programs wherever they are.
    with open(folder + "/answers.new", "wb") as file:
        marshal.dump(answers, file)
    os.replace(folder + "/answers.new", folder + "/answers")
if answer.get("touch"):
    open(answer["touch"], "w").close()
while answer.get("until") and not os.path.exists(answer["until"]):
    time.sleep(0.02)
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.stdout.flush()
if answer.get("execute"):
    import subprocess
if answer.get("execute") == "ssh":
    # Options come in pairs, then the host, then one line for its login shell.
    place = 1
    while words[place] == "-o":
        place += 2
    line = " ".join(words[place + 1:])
    os.chdir(os.environ["HOME"])
    env = dict(os.environ, FAKE_SSH=str(os.getpid()))
    done = subprocess.run(["sh", "-c", line], input=stdin, env=env)
    sys.exit(done.returncode % 256)
if answer.get("execute") == "srun":
    command = [word for word in words[1:]]
    while command[0].startswith("-"):
        command.pop(0)
    tasks = int(os.environ["SLURM_NTASKS"])
    started = [
        subprocess.Popen(command, env=dict(os.environ, SLURM_PROCID=str(rank)))
        for rank in range(tasks)
    ]
    sys.exit(max(each.wait() % 256 for each in started))
sys.exit(answer.get("code", 0))
"""


class World:
    """What lies beyond this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.folder / "answers").write_bytes(marshal.dumps([]))
        for name in PROGRAMS:
            program = self.bin / name
            program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
            program.chmod(0o755)

    def say(self, *parts: str, **answer: Any) -> None:
        """A call whose line has all of the parts is answered so."""
        answers = marshal.loads((self.folder / "answers").read_bytes())
        answers.append({"parts": parts, "used": False, **answer})
        (self.folder / "answers").write_bytes(marshal.dumps(answers))

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink()

    @property
    def _records(self) -> list[tuple[list[str], str]]:
        log = self.folder / "calls"
        return (
            [ast.literal_eval(line) for line in log.read_text().splitlines()]
            if log.exists()
            else []
        )

    @property
    def calls(self) -> list[list[str]]:
        return [words for words, _ in self._records]

    def stdin_of(self, word: str) -> str:
        (text,) = [stdin for words, stdin in self._records if word in words]
        return text

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """These programs come first on PATH, and home is a folder of the test."""
        home = self.folder / "home"
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")


def send_when(holds: Callable[[], bool], number: signal.Signals) -> None:
    """Sends this process a signal once something holds."""

    def watch() -> None:
        deadline = time.monotonic() + 200
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


FAKE_PYTHON = """#!/usr/bin/env bash
# Stands for the environment's Python: notes its arguments and does what FAKE_RUN says.
printf '%s\\0' "$@" >"$FAKE_FOLDER/args.$$"
env >"$FAKE_FOLDER/env.$$"
trap 'echo saved >>"$FAKE_FOLDER/saved"; sleep "${FAKE_SAVE_S:-0}"; exit 42' TERM
touch "$FAKE_FOLDER/started.$$"
case ${FAKE_RUN:-0} in
  forever) while :; do sleep 0.05; done ;;
  [0-9]*) exit "${FAKE_RUN:-0}" ;;
  *) . "$FAKE_RUN" ;;
esac
"""


def fake_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Python, and FAKE_FOLDER for what it leaves."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("FAKE_FOLDER", str(folder))
    path = folder / "python"
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)
    return path


def arguments_given(folder: Path) -> list[list[str]]:
    """What each start of the fake Python was given."""
    return [path.read_bytes().decode().split("\0")[:-1] for path in sorted(folder.glob("args.*"))]
