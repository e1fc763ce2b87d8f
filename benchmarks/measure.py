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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.train_inputs import Counts, count, load_batches
from coderllm_jax.records import PackedBatch

OnStep = Callable[[float], None]
# Trains on the batches in turn and calls back with each step's loss once the step is done.
Train = Callable[[Sequence[PackedBatch], OnStep], None]


class Job(NamedTuple):
    """What a process is asked to measure."""

    batches: str
    passes: int
    model_name: str
    huggingface: str
    attention: str
    output: str


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
    started = time.perf_counter()
    job = Job(**json.loads(sys.argv[1]))
    batches = load_batches(Path(job.batches))
    import_libraries()
    memory_before_bytes = psutil.Process().memory_info().rss
    train = load(job)
    ends: list[float] = []
    losses: list[float] = []
    processor_s: list[float] = []

    def on_step(loss: float) -> None:
        ends.append(time.perf_counter())
        processor_s.append(time.process_time())
        losses.append(loss)

    train(batches * (1 + job.passes), on_step)
    number = len(batches)
    assert len(ends) == number * (1 + job.passes), "a step did not report"
    measurement = Measurement(
        seconds=sum(median_by_batch(_timed(ends, number), number)),
        processor_s=sum(median_by_batch(_timed(processor_s, number), number)),
        num_batches=number,
        num_timed_steps=number * job.passes,
        counts=Counts(*map(sum, zip(*map(count, batches), strict=True))),
        first_loss=losses[0],
        setup_s=ends[number - 1] - started,
        memory_before_bytes=memory_before_bytes,
        memory_peak_bytes=peak_memory_bytes(),
    )
    Path(job.output).write_text(json.dumps(measurement._asdict()))


def _timed(ends: Sequence[float], num_batches: int) -> list[float]:
    """What each step after the warm-up took, from the ends of all steps."""
    return [ends[i] - ends[i - 1] for i in range(num_batches, len(ends))]


def median_by_batch(steps: Sequence[float], num_batches: int) -> list[float]:
    """Each batch's median over the passes: batches b0 b1 b0 b1 ... → [b0, b1]."""
    return [statistics.median(steps[batch::num_batches]) for batch in range(num_batches)]


def peak_memory_bytes() -> int:
    """This process's largest resident set."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_measurement(fields: dict[str, Any]) -> Measurement:
    """A measurement from its JSON."""
    return Measurement(**fields | {"counts": Counts(*fields["counts"])})


def run_module(module: str, *arguments: str) -> str:
    """Runs a module in a fresh process; '' if it ended well, else why not, in one line."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
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
