"""What `benchmarks.gpu` measures: models, rows, the work they owe, and how arms speak to it.

    cell   a model and a batch of packed rows    4b, 4 x 2,048 ...
    arm    a program on a cell                   ours, fused attention; PEFT; ...
    Job    ──argv──> an arm's process ──a JSON file──> its result

A row is examples end to end, each of 64 to 1,024 tokens (uniformly, seeded), the later half of
which is its answer and supervised; the last one is cut where the row ends. Tokens are random and
so are weights: what a step costs does not hang on their values.

Imports neither jax nor torch: the parent and every arm read it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Counts, count
from coderllm_jax.data.packing import fill_row
from coderllm_jax.model.architecture import GEMMA3_270M, Architecture
from coderllm_jax.records import PackedBatch
from coderllm_jax.training.devices import rated_flops

# KerasHub's presets gemma3_1b and gemma3_4b_text: 999,885,952 and 3,880,099,328 weights.
GEMMA3_1B = Architecture(
    family="gemma3",
    num_layers=26,
    vocabulary=262_144,
    width=1152,
    feed_forward=6912,
    num_heads=4,
    num_kv_heads=1,
    head_size=256,
    window=512,
    global_every=6,
    query_scale=256**-0.5,
)
GEMMA3_4B = Architecture(
    family="gemma3",
    num_layers=34,
    vocabulary=262_144,
    width=2560,
    feed_forward=10_240,
    num_heads=8,
    num_kv_heads=4,
    head_size=256,
    window=1024,
    global_every=6,
    query_scale=256**-0.5,
    rope_global_scaling=8.0,
)
# As small as the kernels allow, for walking through every line.
SMALL = Architecture(
    family="gemma3",
    num_layers=3,
    vocabulary=512,
    width=64,
    feed_forward=128,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    window=32,
    global_every=3,
    query_scale=16**-0.5,
)
MODELS: Mapping[str, Architecture] = {
    "small": SMALL,
    "270m": GEMMA3_270M,
    "1b": GEMMA3_1B,
    "4b": GEMMA3_4B,
}
_SHORTEST, _LONGEST = 64, 1024
_FIRST_TOKEN = 16  # those below are control pieces


class Cell(NamedTuple):
    """A model and the shape of its batch."""

    model: str
    rows: int
    length: int

    @property
    def name(self) -> str:
        """As arms are called by."""
        return f"{self.model}-{self.length}"

    @property
    def title(self) -> str:
        """As a reader is told."""
        return f"Gemma 3 {self.model.upper()}, {self.rows} x {self.length:,}"


class Job(NamedTuple):
    """What an arm's process is asked for. `options` are the arm's own."""

    cell: Cell
    options: dict[str, Any]
    platform: str  # gpu or cpu
    rank: int
    steps: int
    seconds: float  # after which no further step is begun
    output: str


class Timing(NamedTuple):
    """What a training arm found. Bytes are the device's; None where it does not count them."""

    step_s: float
    steps_s: list[float]
    first_loss: float
    last_loss: float
    compile_s: float  # the first step
    setup_s: float  # from the go to the first step
    setup_peak_bytes: int | None
    peak_bytes: int | None
    notes: dict[str, Any]


# --- batches and their work ---------------------------------------------------------------------


def packed_batch(cell: Cell, *, seed: int = 0) -> PackedBatch:
    """The cell's batch: full rows, a function of cell and seed alone."""
    generator = np.random.default_rng([seed, cell.rows, cell.length])
    rows = [_packed_row(cell, generator) for _ in range(cell.rows)]
    return PackedBatch(*(np.stack(field) for field in zip(*rows, strict=True)))


def _packed_row(cell: Cell, generator: np.random.Generator) -> PackedBatch:
    ids, answers = [], []
    for size in _example_lengths(cell.length, generator):
        tokens = generator.integers(_FIRST_TOKEN, MODELS[cell.model].vocabulary, size + 1)
        ids.append(tokens.astype(np.int32))
        answers.append(np.arange(size + 1) > size // 2)
    return fill_row(ids, answers, sequence_length=cell.length)


def _example_lengths(length: int, generator: np.random.Generator) -> Iterator[int]:
    left = length
    while left:
        size = min(left, int(generator.integers(_SHORTEST, _LONGEST + 1)))
        left -= size
        yield size


def needed_flops(architecture: Architecture, counts: Counts) -> float:
    """Matrix FLOPs that a LoRA step on such a batch owes, whoever computes it.

    Two a weight and token forward and two for the inputs' gradient, in the blocks for every token
    and in the head for supervised ones. Adapters, attention's own products and whatever a program
    recomputes or computes for nothing are not counted. (As `training.step` counts.)
    """
    matrices = sum(
        int(np.prod(shape)) for shape in architecture.block_shapes().values() if len(shape) > 1
    )
    blocks = matrices * architecture.num_layers
    head = architecture.vocabulary * architecture.width
    return 4.0 * (blocks * counts.tokens + head * counts.supervised)


def rates(timing: Mapping[str, Any], cell: Cell, *, device: str) -> dict[str, Any]:
    """A step's time in tokens and FLOPs."""
    counts = count(packed_batch(cell))
    seconds, peak = timing["step_s"], rated_flops(device)
    flops_per_s = needed_flops(MODELS[cell.model], counts) / seconds
    return {
        "tokens": counts.tokens,
        "supervised": counts.supervised,
        "tokens_per_s": counts.tokens / seconds,
        "supervised_tokens_per_s": counts.supervised / seconds,
        "flops_per_s": flops_per_s,
        "mfu": flops_per_s / peak if peak else None,
    }


# --- an arm's process ---------------------------------------------------------------------------


def run_arm(import_libraries: Callable[[Job], None], measure: Callable[[Job], Any]) -> None:
    """The body of an arm's process.

    Imports while the arm before is still at work, and touches the device once it is told to go:
    by a line of JSON, which may name another cell, other options and flags for XLA.
    """
    fields = json.loads(sys.argv[1])
    job = Job(**fields | {"cell": Cell(*fields["cell"])})
    import_libraries(job)
    line = sys.stdin.readline()
    if not line:
        return  # whoever started this is gone
    orders = json.loads(line)
    # Read when a device is first touched, not at the import.
    os.environ["XLA_FLAGS"] = orders.get("xla_flags", "")
    job = job._replace(
        cell=Cell(*orders.get("cell", job.cell)), options=orders.get("options", job.options)
    )
    found = measure(job)
    write_result(job, found._asdict() if isinstance(found, Timing) else found)


def write_result(job: Job, found: Mapping[str, Any]) -> None:
    """Hands over what was found so far; whole or not at all, because the parent may look any time.

    An arm of several parts calls this after each: if it is cut short, what it had counts.
    """
    partial = Path(job.output).with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(job.output)


def time_steps(
    step: Callable[[], float],
    job: Job,
    *,
    started: float,
    peak_bytes: Callable[[], int | None],
    notes: dict[str, Any],
) -> Timing:
    """Times `step`, which ends when the device does and gives its loss, after two for warming up.

    started: `time.perf_counter()` when the arm was told to go.
    """
    setup_peak_bytes = peak_bytes()
    ready = time.perf_counter()
    losses = [step()]
    compiled = time.perf_counter()
    losses.append(step())
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < job.steps:
        before = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - before)
        if time.perf_counter() - begin > job.seconds:
            break
    return Timing(
        step_s=statistics.median(seconds),
        steps_s=seconds,
        first_loss=losses[0],
        last_loss=losses[-1],
        compile_s=compiled - ready,
        setup_s=ready - started,
        setup_peak_bytes=setup_peak_bytes,
        peak_bytes=peak_bytes(),
        notes=notes,
    )


def choose_jax_platform(job: Job) -> None:
    """Must be called before jax is imported."""
    # The CPU beside a GPU is what the first check compares with.
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if job.platform == "gpu" else "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
