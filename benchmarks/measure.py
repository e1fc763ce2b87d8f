"""How one arm is timed: a process of its own, every batch several times, memory before and after.

    arm's process    import ── RSS ── load, compile ── warm-up ── pass 1 ── pass 2 ── pass 3
                               before                  b0 b1 ...  b0 b1 ..  b0 b1 ..
    measurement      seconds of a batch = median over its passes;   rate = counts / seconds,
                     summed over batches

Warm-up takes every batch once, so that whatever is compiled for a shape is compiled outside the
timed passes. The loss of the very first step is that of the untouched model: arms that are given
the same batch must agree about it.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.records import PackedBatch

OnStep = Callable[[float], None]
# Trains on the batches in turn and calls back with each step's loss once the step is done.
Train = Callable[[Sequence[PackedBatch], OnStep], None]


class Counts(NamedTuple):
    """What batches hold. Tokens are the positions that are not padding."""

    positions: int
    tokens: int
    supervised: int


def count(batch: PackedBatch) -> Counts:
    """The counts of one batch."""
    return Counts(
        positions=batch.inputs.size,
        tokens=int((batch.segments > 0).sum()),
        supervised=int((batch.weights > 0).sum()),
    )


class Job(NamedTuple):
    """What a process is asked to measure."""

    batches: str
    steps: int  # timed steps, at least
    model_name: str
    huggingface: str
    attention: str
    output: str
    dtype: str = ""  # of a peer's weights; empty: as that arm says


class Measurement(NamedTuple):
    """What it found. Seconds are those of one pass over the arm's batches, each its median."""

    seconds: float
    num_batches: int
    num_timed_steps: int
    counts: Counts
    processor_s: float  # as seconds, on all cores together: hardly moved by other programs
    first_loss: float
    setup_s: float
    memory_before_bytes: int
    memory_peak_bytes: int

    @property
    def supervised_per_s(self) -> float:
        """Supervised tokens a second: what the arms are compared by."""
        return self.counts.supervised / self.seconds

    @property
    def cores(self) -> float:
        """Cores at work on average; below what the machine has, others may be in the way."""
        return self.processor_s / self.seconds

    @property
    def memory_added_bytes(self) -> int:
        """The peak above what the process held with its libraries imported and nothing loaded."""
        return self.memory_peak_bytes - self.memory_before_bytes


def run_job(import_libraries: Callable[[], None], load: Callable[[Job], Train]) -> None:
    """The body of an arm's process: measures what its one argument asks for, writes the result."""
    from benchmarks.train_inputs import load_batches

    started = time.perf_counter()
    job = Job(**json.loads(sys.argv[1]))
    batches = load_batches(Path(job.batches))
    import_libraries()
    memory_before_bytes = resident_bytes()
    train = load(job)
    ends: list[float] = []
    losses: list[float] = []
    processor_s: list[float] = []

    def on_step(loss: float) -> None:
        ends.append(time.perf_counter())
        processor_s.append(time.process_time())
        losses.append(loss)

    number = len(batches)
    passes = num_passes(job.steps, number)
    train(batches * (1 + passes), on_step)
    assert len(ends) == number * (1 + passes), "a step did not report"
    measurement = Measurement(
        seconds=sum(median_by_batch(_timed(ends, number), number)),
        processor_s=sum(median_by_batch(_timed(processor_s, number), number)),
        num_batches=number,
        num_timed_steps=number * passes,
        counts=Counts(*map(sum, zip(*map(count, batches), strict=True))),
        first_loss=losses[0],
        setup_s=ends[number - 1] - started,
        memory_before_bytes=memory_before_bytes,
        memory_peak_bytes=peak_memory_bytes(),
    )
    Path(job.output).write_text(json.dumps(measurement._asdict()))


def num_passes(steps: int, num_batches: int) -> int:
    """Passes that make at least `steps` steps; three or more, so that a median means something."""
    return max(min(3, steps), -(-steps // num_batches))


def _timed(ends: Sequence[float], num_batches: int) -> list[float]:
    """What each step after the warm-up took, from the ends of all steps."""
    return [ends[i] - ends[i - 1] for i in range(num_batches, len(ends))]


def median_by_batch(steps: Sequence[float], num_batches: int) -> list[float]:
    """Each batch's median over the passes: batches b0 b1 b0 b1 ... → [b0, b1]."""
    return [statistics.median(steps[batch::num_batches]) for batch in range(num_batches)]


def resident_bytes() -> int:
    """This process's resident set."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory_bytes() -> int:
    """This process's largest resident set."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_measurement(fields: dict[str, Any]) -> Measurement:
    """A measurement from its JSON."""
    return Measurement(**fields | {"counts": Counts(*fields["counts"])})


def run_module(
    module: str, *arguments: str, environment: Mapping[str, str], python: str = sys.executable
) -> str:
    """Runs a module in a fresh process; '' if it ended well, else why not, in one line."""
    done = subprocess.run(
        [python, "-m", module, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode} (too little memory?)"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
