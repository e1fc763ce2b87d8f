"""What the monitor's benchmark watches, and with what: long runs, a training, the command itself.

write_long_run(runs/long-0, 100,000 rows)          rows as a training writes them
with Training(runs/tiny, steps=600): ...           python -m coderllm_jax.train
with Monitor(runs, state) as monitor: ...          python -m coderllm_jax.monitor
    monitor.overview(), monitor.pause(), monitor.resume(), monitor.processor_s()
    with monitor.followed(): ...                   its stream is read, as by a page elsewhere
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

_NOISE = 997
# What a page does without drawing, as a process of its own.
_READ = "import sys, urllib.request; [None for _ in urllib.request.urlopen(sys.argv[1])]"


class Row(NamedTuple):
    """One logged step of a training: when it was logged, and the seconds that it took itself."""

    step: int
    time: float
    seconds: float


def write_long_run(run: Path, num_rows: int, *, seed: int) -> None:
    """A run's metrics.jsonl of so many steps, a second apart, the last one now."""
    noise = np.random.default_rng(seed).normal(0, 0.1, _NOISE).tolist()
    (run / "metrics").mkdir(parents=True)
    first = time.time() - num_rows
    with (run / "metrics" / "metrics.jsonl").open("w") as file:
        for step in range(1, num_rows + 1):
            file.write(row_of(step, first + step, noise[step % _NOISE], num_rows))


def row_of(step: int, at: float, noise: float, num_rows: int) -> str:
    """One line, with the fields of ours; every thousandth step is also evaluated."""
    row = {
        "step": step,
        "time": at,
        "loss": 2.6 + 3 * math.exp(-5 * step / num_rows) + noise,
        "learning_rate": 1e-3 * (1 - step / (2 * num_rows)),
        "grad_norm": math.exp(noise),
        "tokens_per_s": 600 + 50 * noise,
        "data_wait_s": abs(noise) / 10,
        "step_time_s": 1 + noise / 10,
    }
    text = json.dumps(row) + "\n"
    if step % 1000 == 0:
        text += json.dumps({"step": step, "time": at, "eval_loss": row["loss"] + 0.1}) + "\n"
    return text


class Training:
    """`tiny` being trained, as a process of its own."""

    def __init__(self, run: Path, *settings: str, steps: int) -> None:
        self.run, self.steps = run, steps
        self._log = run.with_suffix(".log").open("w")
        self._process = psutil.Popen(
            [
                *(sys.executable, "-m", "coderllm_jax.train", "--config=configs/tiny.py"),
                *(f"--config.workdir={run}", f"--config.steps={steps}"),
                *settings,
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self._process.terminate()
        self._process.wait(120)
        self._log.close()

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def processor_s(self) -> float:
        """Processor seconds so far."""
        return processor_s(self._process)

    def steps_done(self) -> list[Row]:
        """Every logged step so far."""
        return [
            Row(row["step"], row["time"], row["step_time_s"])
            for row in self._rows()
            if "loss" in row
        ]

    def num_points(self) -> int:
        """Losses written so far, evaluations' included."""
        return sum(("loss" in row) + ("eval_loss" in row) for row in self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        path = self.run / "metrics" / "metrics.jsonl"
        if not path.is_file():
            return []
        # The last line may still be being written.
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]


class Monitor:
    """The command over one folder of runs."""

    def __init__(self, runs: Path, state: Path, *, port: int = 0) -> None:
        self._process = psutil.Popen(
            [
                *(sys.executable, "-m", "coderllm_jax.monitor", f"--config.runs={runs}"),
                *(f"--config.state_dir={state}", f"--config.page.port={port}"),
                f"--config.traffic.logs={runs / 'requests.jsonl'}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        found = re.search(r"http://\S+", self._process.stdout.readline())
        if found is None:
            raise SystemExit("error: the monitor did not start; see what it said above")
        self.url = found[0]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            self._process.wait(60)
            self._process.stdout.close()

    def overview(self) -> dict[str, Any]:
        """Everything at this moment."""
        return self._get("api/overview")

    def pause(self) -> None:
        """Stops the process where it is: it costs nothing now."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Somebody elsewhere looks at the runs: the stream is read, and nothing is drawn here."""
        want = {run["id"]: ["loss", "grad_norm"] for run in self.overview()["runs"]}
        query = urllib.parse.urlencode({"points": 400, "want": json.dumps(want)})
        reader = subprocess.Popen(
            [sys.executable, "-c", _READ, f"{self.url}events?{query}"], stdout=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            reader.terminate()
            reader.wait(60)

    def processor_s(self) -> float:
        """Processor seconds so far."""
        return processor_s(self._process)

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(self._process.memory_info().rss)

    def memory_peak_bytes(self) -> int:
        """The most that it ever was."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else self.memory_bytes()

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:  # noqa: S310 - ours
            return json.load(answer)


def processor_s(process: psutil.Process) -> float:
    """User and system seconds of a process, its threads included."""
    times = process.cpu_times()
    return float(times.user + times.system)


def wait_until(is_so: Callable[[], bool], *, timeout_s: float, every_s: float = 0.1) -> float:
    """Waits until it is so and returns how long that took; ends the benchmark when it never is."""
    started_s = time.monotonic()
    while not is_so():
        if time.monotonic() - started_s > timeout_s:
            raise SystemExit(f"error: waited {timeout_s:.0f} s in vain; is the machine busy?")
        time.sleep(every_s)
    return time.monotonic() - started_s
