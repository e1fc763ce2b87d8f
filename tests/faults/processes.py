"""Starting runs as processes, waiting for them to get somewhere, and reading what they left.

    one = launch(lab, "run", faults="slow", steps=50)       python -m coderllm_jax.train ... &
    one.wait_for_step(30); one.send(signal.SIGTERM)
    ended = one.wait()                                      exit code, seconds, what it printed

`launch_pair` starts two that find one another on this machine. All share one cache of compiled
programs and one file of rows. Whatever a failed test leaves running is killed by the fixture.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from coderllm_jax.monitoring.metrics_log import read_rows
from coderllm_jax.training.adapter import load_adapter
from coderllm_jax.training.journal import Journal
from coderllm_jax.training.run_folder import read_json

CARD = Path(__file__).with_name("card.py")
_PATIENCE_S = 120.0
_MEASURED = (
    *("time", "tokens_per_s", "loss_tokens_per_s", "step_time_s", "data_wait_s"),
    "memory_bytes",
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that is over."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


class Running:
    """One process of a run."""

    def __init__(
        self,
        lab: Lab,
        workdir: Path,
        command: list[str],
        env: dict[str, str],
        *,
        is_read: bool = True,
    ) -> None:
        """The process leads a group of its own. `is_read` False: nobody reads what it prints."""
        self.workdir = workdir
        self._texts = [lab.folder / f"{lab.number()}.{name}" for name in ("out", "err")]
        with self._texts[0].open("wb") as out, self._texts[1].open("wb") as err:
            pipe = subprocess.PIPE
            self._popen = subprocess.Popen(
                command,
                stdout=out if is_read else pipe,
                stderr=err if is_read else pipe,
                env=env,
                process_group=0,
            )
        for end in (self._popen.stdout, self._popen.stderr):
            if end is not None:
                end.close()
        lab.started.append(self)

    @property
    def is_over(self) -> bool:
        return self._popen.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        os.killpg(self._popen.pid, number)

    def wait_for_step(self, step: int) -> None:
        """Returns once metrics.jsonl has the step's row."""
        log = self.workdir / "metrics" / "metrics.jsonl"
        self.wait_until(lambda: max((row["step"] for row in read_rows(log)), default=0) >= step)

    def wait_until(self, holds: Any) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if self.is_over or time.monotonic() > deadline:
                raise AssertionError(f"it did not come so far; {self.wait(1)}")
            time.sleep(0.02)

    def wait(self, timeout_s: float = _PATIENCE_S) -> Ended:
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end: {self._text(1)[-3000:]}") from None
        return Ended(code, self._text(0), self._text(1))

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def _text(self, place: int) -> str:
        return self._texts[place].read_text(errors="replace")


@dataclasses.dataclass
class Lab:
    """A folder for runs that share rows and compiled programs."""

    folder: Path
    started: list[Running] = dataclasses.field(default_factory=list)
    _number: int = 0

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    def number(self) -> int:
        self._number += 1
        return self._number

    def write_rows(self) -> None:
        with self.rows.open("w") as file:
            for i in range(60):
                row = {"question": f"What is f{i}?", "answer": f"It adds {i % 5}."}
                row |= {"symbol": f"m.f{i}", "source": "m", "kind": "what", "license": "MIT"}
                file.write(json.dumps(row) + "\n")

    def launch(
        self,
        name: str,
        *,
        faults: str = "",
        card: Path = CARD,
        env: dict[str, str] | None = None,
        rows: Path | None = None,
        is_read: bool = True,
        **settings: Any,
    ) -> Running:
        """Starts a run in the folder `name`; settings are written a__b for a.b."""
        workdir = self.folder / name
        options = {
            "workdir": workdir,
            "data.path": rows or self.rows,
            "model.cache_dir": self.folder / "cache",
        } | {key.replace("__", "."): value for key, value in settings.items()}
        command = [sys.executable, "-m", "coderllm_jax.train", f"--config={card}:{faults}"]
        command += [f"--config.{key}={value}" for key, value in options.items()]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("XLA_FLAGS", "WANDB_PROJECT") and not name.startswith("CODERLLM_")
        }
        # What a command sets before it starts itself anew; set here, it starts once.
        environment |= {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        return Running(self, workdir, command, environment | (env or {}), is_read=is_read)

    def launch_pair(
        self,
        name: str,
        *,
        faults: tuple[str, str] = ("", ""),
        each: Any = ({}, {}),
        **settings: Any,
    ) -> tuple[Running, Running]:
        """Two processes of one run; `each` holds settings that only one of them gets."""
        address = f"127.0.0.1:{free_port()}"
        first, second = (
            self.launch(
                name,
                faults=faults[rank],
                distributed__coordinator=address,
                distributed__num_processes=2,
                distributed__process_id=rank,
                distributed__timeout_s=60,
                **settings,
                **each[rank],
            )
            for rank in (0, 1)
        )
        return first, second

    def close(self) -> None:
        """Ends what a failed test has left."""
        for each in self.started:
            if not each.is_over:
                each.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ------------------------------------------------------------------------------ what is left


def figures(workdir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what a clock or the machine says."""
    return [
        {name: value for name, value in row.items() if name not in _MEASURED}
        for row in read_rows(workdir / "metrics" / "metrics.jsonl")
    ]


def losses(workdir: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in figures(workdir) if "loss" in row}


def evaluations(workdir: Path) -> dict[int, float]:
    return {row["step"]: row["eval_loss"] for row in figures(workdir) if "eval_loss" in row}


def adapter_bytes(workdir: Path) -> dict[str, bytes]:
    tensors = load_adapter(workdir / "adapter").tensors
    return {
        f"{name}/{part}": array.tobytes()
        for name, parts in tensors.items()
        for part, array in parts.items()
    }


def checkpoints(workdir: Path) -> list[int]:
    """The finished steps."""
    places = (workdir / "checkpoints").glob("*/integrity.json")
    return sorted(int(place.parent.name) for place in places)


def events(workdir: Path) -> list[dict[str, Any]]:
    return Journal(workdir / "journal.jsonl").read()


def summary(workdir: Path) -> dict[str, Any]:
    return read_json(workdir / "report" / "summary.json")


def given(*files: Path) -> dict[int, set[str]]:
    """The rows of every step, over all files: each step as it was given last."""
    steps: dict[int, set[str]] = {}
    for file in files:
        last = {row["step"]: row["rows"] for row in read_rows(file)}
        for step, rows in last.items():
            steps.setdefault(step, set()).update(rows)
    return steps
