"""Runs that are killed: one started, watched, killed at a chosen moment, and started again.

    write_inputs(folder)    rows.jsonl, items.jsonl      the same bytes every time
    run_to_end(...)         session ── kill -9 ── session ── kill -9 ── session ── exit 0
    read_outcome(workdir)   everything a run leaves that no clock has measured
    differences(a, b)       empty where two runs are equal, bit for bit

A session is one `python -m coderllm_jax.train` with its process group. What is known about it is
read from the run's folder: where it was when it died (`look`) from what it left behind, and when to
kill it from what appears there. Nothing in the trained program knows of it.

Covers the death of all processes of a run on a machine that lives on. Does not cover a machine
that loses power: what the operating system has not yet written to the disk would be lost too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.errors import RunError
from coderllm_jax.monitoring.metrics_log import read_rows
from coderllm_jax.training.integrity import MANIFEST
from coderllm_jax.training.run_folder import RunFolder, read_json

KINDS = ("moment", "saving", "step", "evaluation", "end")
# Rows of metrics.jsonl and figures of summary.json that a clock, or the machine's load, decides.
CLOCKED = frozenset(
    {
        "time",
        "tokens_per_s",
        "loss_tokens_per_s",
        "step_time_s",
        "data_wait_s",
        "data_wait_fraction",
        "memory_bytes",
        "peak_memory_bytes",
        "compile_s",
        "train_s",
        "evaluation_s",
        "sampling_s",
        "checkpoint_wait_s",
        "setup_s",
        "wall_s",
        "mfu",
    }
)
# What a session found and set aside belongs to its history, not to its result.
_HISTORY = frozenset({"set_aside"})
# Orbax's mark of a folder that is being written; its own constant costs seconds to import.
_TEMPORARY = "orbax-checkpoint-tmp"
_POLL_S = 0.002
_PATIENCE_S = 900


class Experiment(NamedTuple):
    """A run to be killed: its options, and how many rows it trains on."""

    name: str
    num_rows: int
    options: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """How many there are when it is done."""
        return int(self.options["steps"])

    @property
    def evaluation_every_steps(self) -> int:
        """Steps between evaluations."""
        return int(self.options["evaluation.every_steps"])


class Kill(NamedTuple):
    """When a session is killed: `delay_s` after its `number`-th ...

    moment      start (number counts nothing)
    saving      save has begun and is not finished
    step        step of this session is in metrics.jsonl
    evaluation  evaluation of this session has begun
    end         last step is done; the adapter and the report are being written
    """

    kind: str
    number: int = 1
    delay_s: float = 0.0


class Session(NamedTuple):
    """One start of the command, and how it ended.

    Phase and step say where it was, `went_on_from` from which step (None: it did not get that
    far), `num_steps` how many steps it computed as far as metrics.jsonl knows.
    """

    was_killed: bool
    after_s: float
    phase: str
    step: int
    went_on_from: int | None
    num_steps: int
    was_saving: bool


class SessionError(RuntimeError):
    """A session ended by itself, and not well, after `sessions` that had been killed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.sessions: list[Session] = []


class Bench(NamedTuple):
    """Where an experiment's runs lie, and what they share."""

    experiment: Experiment
    folder: Path
    cache_dir: str

    def command(self, workdir: Path) -> list[str]:
        """The command that begins a run, and that goes on with it."""
        options = {
            **self.experiment.options,
            "data.path": self.folder / "rows.jsonl",
            "data.evaluation_path": self.folder / "items.jsonl",
            "model.cache_dir": self.cache_dir,
            "workdir": workdir,
        }
        flags = [f"--config.{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "coderllm_jax.train", *flags]


def write_inputs(folder: Path, num_rows: int) -> None:
    """Training rows, and items of another kind: capitals, which small letters make improbable.

    So the lowest evaluation loss comes early and the adapter is read back from a checkpoint that
    lay about for the rest of the run, kills included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"source": "made up", "kind": "what", "license": "CC0-1.0"}
    rows = [
        {
            "question": f"What does f{i} do?",
            "answer": f"It adds {i % 7} to what it is given and gives back {i % 5}.",
            "symbol": f"m.f{i}",
            **about,
        }
        for i in range(num_rows)
    ]
    items = [
        {
            "id": f"item-{i}",
            "split": "unseen",
            "question": f"What does g{i} do?",
            "answer": f"IT TAKES {i % 7} AWAY",
            "symbol": f"m.g{i}",
            **about,
        }
        for i in range(8)
    ]
    for name, lines in (("rows", rows), ("items", items)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


# --- one run ------------------------------------------------------------------------------------


def run_to_end(bench: Bench, workdir: Path, kills: Sequence[Kill] = ()) -> list[Session]:
    """Starts the run, kills it once for each of `kills`, and starts it again until it is done.

    Raises SessionError, with what it said, where a session ends by itself and not well.
    """
    sessions: list[Session] = []
    for kill in [*kills, None]:
        log = workdir.with_name(f"{workdir.name}-{len(sessions) + 1}.log")
        try:
            sessions.append(_run_session(bench, workdir, kill, log))
        except SessionError as error:
            error.sessions = sessions
            raise
        if not sessions[-1].was_killed:
            break
    return sessions


def _run_session(bench: Bench, workdir: Path, kill: Kill | None, log: Path) -> Session:
    began, before = time.time(), _num_started(workdir)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output, _process(bench, workdir, output) as process:
        is_due = _trigger(kill, bench.experiment, workdir, began=began, before=before)
        while process.poll() is None and not is_due():
            if time.time() - began > _PATIENCE_S:
                raise SessionError(f"{workdir} is not done after {_PATIENCE_S} s; see {log}")
            time.sleep(_POLL_S)
        if kill is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(kill.delay_s)
        was_killed = process.poll() is None
        if was_killed:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code not in (0, -signal.SIGKILL):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SessionError(f"{workdir} ended with {code}: {said[-1] if said else 'no word'}")
    return look(
        bench.experiment, workdir, log, began=began, before=before, was_killed=code != 0
    )._replace(after_s=time.time() - began)


@contextlib.contextmanager
def _process(bench: Bench, workdir: Path, output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process group of its own, which does not outlive the block."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CODERLLM_") and name not in ("WANDB_PROJECT", "PYTHONHASHSEED")
    }
    process = subprocess.Popen(
        bench.command(workdir),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _trigger(
    kill: Kill | None, experiment: Experiment, workdir: Path, *, began: float, before: int
) -> Callable[[], bool]:
    """A function that says whether what `kill` waits for has happened."""
    if kill is None:
        return lambda: False
    log = RunFolder(workdir).metrics_log
    seen: set[str] = set()
    known: tuple[int, list[dict[str, Any]]] = (0, [])

    def has_begun() -> bool:  # and has swept away what an earlier session left
        return _num_started(workdir) > before

    def saving() -> bool:
        if has_begun():
            seen.update(unfinished_saves(workdir))
        return len(seen) >= kill.number

    def steps() -> list[dict[str, Any]]:
        nonlocal known
        size = log.stat().st_size if log.exists() else 0
        if size != known[0]:
            known = (size, [row for row in _rows_since(workdir, began) if "loss" in row])
        return known[1]

    return {
        "moment": lambda: True,
        "saving": saving,
        "step": lambda: len(steps()) >= kill.number,
        "evaluation": lambda: sum(_is_evaluated(row, experiment) for row in steps()) >= kill.number,
        "end": lambda: has_begun() and _last_event(workdir) == "finished",
    }[kill.kind]


# --- looking ------------------------------------------------------------------------------------

# The first that is found at the end of a session's output tells its phase before the first step.
_NOTES = {
    "compiling the training step": "compiling",
    "measuring the model as it is": "baseline",
    "tokenizing the rows": "restoring",
    "loading ": "loading",
    "reading the rows": "loading",
}


def look(
    experiment: Experiment, workdir: Path, log: Path, *, began: float, before: int, was_killed: bool
) -> Session:
    """Where a session was when it ended, from what it left behind."""
    rows = _rows_since(workdir, began)
    steps = [row["step"] for row in rows if "loss" in row]
    events = [event for event in _events(workdir) if event.get("event") == "started"]
    went_on_from = events[-1]["step"] if len(events) > before else None
    was_saving = went_on_from is not None and bool(unfinished_saves(workdir)) and was_killed
    if not was_killed:
        phase = "finished"
    elif went_on_from is not None and _last_event(workdir) == "finished":
        phase = "adapter, report"
    elif was_saving:
        phase = "saving"
    elif not steps:
        phase = _noted_phase(log.read_text(encoding="utf-8", errors="replace"))
    elif "eval_loss" in rows[-1] or _is_evaluated(rows[-1], experiment):
        phase = "evaluating"
    else:
        phase = "training"
    step = max(steps, default=went_on_from or 0)
    return Session(was_killed, 0.0, phase, step, went_on_from, len(steps), was_saving)


def _noted_phase(text: str) -> str:
    places = {phase: text.rfind(note) for note, phase in reversed(_NOTES.items())}
    phase = max(places, key=lambda name: places[name])
    return phase if places[phase] >= 0 else "starting"


def unfinished_saves(workdir: Path) -> list[str]:
    """The steps of which something lies on the disk that is not yet a checkpoint."""
    found = set()
    with contextlib.suppress(OSError):
        for place in RunFolder(workdir).checkpoints.iterdir():
            step, _, rest = place.name.partition(".")
            is_unmarked = not rest and step.isdecimal() and not (place / MANIFEST).exists()
            if is_unmarked or _TEMPORARY in rest:
                found.add(step)
    return sorted(found)


def _is_evaluated(row: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether the row is that of a step which an evaluation follows."""
    step, every = row["step"], experiment.evaluation_every_steps
    return "loss" in row and (step == experiment.steps or bool(every and step % every == 0))


def _rows_since(workdir: Path, began: float) -> list[dict[str, Any]]:
    rows = read_rows(RunFolder(workdir).metrics_log)
    return [row for row in rows if row.get("time", 0) >= began]


def _events(workdir: Path) -> list[dict[str, Any]]:
    return read_rows(RunFolder(workdir).journal)


def _num_started(workdir: Path) -> int:
    return sum(event.get("event") == "started" for event in _events(workdir))


def _last_event(workdir: Path) -> str:
    events = _events(workdir)
    return str(events[-1].get("event")) if events else ""


def num_set_aside(workdir: Path) -> int:
    """How many steps were found damaged or unfinished, over all sessions."""
    folder = RunFolder(workdir).checkpoints / "set_aside"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# --- comparing ----------------------------------------------------------------------------------


def read_outcome(workdir: Path) -> dict[str, Any]:
    """What a finished run leaves, by name, without what a clock has measured."""
    folder = RunFolder(workdir)
    outcome: dict[str, Any] = {"files": _files(workdir)}
    for path in [*sorted(folder.adapter.glob("*")), folder.training_rows]:
        if path.is_file():
            name = path.relative_to(workdir).as_posix()
            outcome[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    logs = (("metrics.jsonl", folder.metrics_log), ("samples.jsonl", folder.samples_log))
    for name, path in logs:
        for number, row in enumerate(read_rows(path), start=1):
            outcome |= _timeless(row, prefix=f"{name}:{number} ")
    with contextlib.suppress(RunError):
        outcome |= _timeless(read_json(folder.summary), prefix="summary.json ")
    with contextlib.suppress(OSError):  # a page of a run that goes on loads itself anew
        shown = (folder.report / "index.html").read_text(encoding="utf-8")
        outcome["report/index.html refreshes"] = 'http-equiv="refresh"' in shown
        outcome["report/index.html ends"] = shown.rstrip().endswith("</html>")
    return outcome


def _files(workdir: Path) -> list[str]:
    """Everything in the run's folder; of checkpoints the finished steps, of processes nothing."""
    folder = RunFolder(workdir)
    inner = (folder.checkpoints, folder.processes)
    found = [
        path
        for path in workdir.rglob("*")
        if path.is_file() and not any(path.is_relative_to(each) for each in inner)
    ]
    found += [path.parent for path in folder.checkpoints.glob(f"[0-9]*/{MANIFEST}")]
    return sorted(path.relative_to(workdir).as_posix() for path in found)


def _timeless(values: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    left_out = CLOCKED | _HISTORY
    return {prefix + name: value for name, value in values.items() if name not in left_out}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Everything in which two outcomes are not equal, to the last bit; empty where they are."""
    names = [*expected, *(name for name in found if name not in expected)]
    return [
        _difference(name, expected.get(name, "missing"), found.get(name, "missing"))
        for name in names
        if expected.get(name, "missing") != found.get(name, "missing")
    ]


def _difference(name: str, expected: Any, found: Any) -> str:
    if isinstance(expected, list) and isinstance(found, list):
        lacks = [str(each) for each in expected if each not in found]
        has = [str(each) for each in found if each not in expected]
        parts = [f"lacks {', '.join(lacks)}"] * bool(lacks) + [f"has {', '.join(has)}"] * bool(has)
        return f"{name}: {' and '.join(parts) or 'in another order'}"
    return f"{name} is {found}, not {expected}"
