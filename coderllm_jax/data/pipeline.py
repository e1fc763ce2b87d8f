"""Packed batches as a function of one number, the step; Grain prefetches them.

    step             0         1         2    |    3         4         5    |    6  ...
    epoch            0                        |    1                        |    2
    global row    0 1 2 3   4 5 6 7   8 9 . . |  12 ...                     |
    rows 0 to 2   0 1       4 5       8 9     |                                  batch_size 4
    rows 2 to 4       2 3       6 7       . . |                                  .  an empty row

Every epoch begins a step: its last batch is filled up with empty rows (weights and segments 0). A
batch therefore depends on the data, the seed and its step alone, not on how long the run is to be,
nor on how many hosts make it: starting at step s gives what running to s would have given, also
after epochs were added, and also where each host then makes another part of every batch.

Owns the order of batches, each host's part of them, and the Grain iterator. The plan of an epoch
is made when it is first needed, and at most two are kept.
"""

from __future__ import annotations

import bisect
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self, cast

import grain
import numpy as np
import numpy.typing as npt
from absl import flags

from coderllm_jax.data.packing import RowPlan, fill_row, plan_rows
from coderllm_jax.data.tokenized import TokenizedExamples
from coderllm_jax.errors import DataError
from coderllm_jax.records import PackedBatch

# Rows go on for as many epochs as are asked for; Grain wants a length all the same.
_ENDLESS_STEPS = 2**40


class Batches(Iterator[PackedBatch], Protocol):
    """Batches in order; to be closed after use."""

    def close(self) -> None:
        """Ends what makes them."""


class BatchPart(NamedTuple):
    """Which rows of every batch a host makes; those past the batch's size are empty ones.

    A host that holds every device makes them all, and so does each of several whose devices split
    nothing but the weights.
    """

    start: int
    stop: int


class PackedRows:
    """Packed rows of all epochs by global row number: PackedBatch with fields [L].

    Holds no position and no lock: caches are replaced as a whole, so that threads may share it and
    worker processes may be given a copy.
    """

    def __init__(
        self,
        examples: TokenizedExamples,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int | None = 0,
        packing: bool = True,
    ) -> None:
        """`batch_size` is over all hosts; `seed` None keeps the given order (evaluation)."""
        if not len(examples):
            raise DataError("there are no examples to make batches of; expected at least one")
        self.examples = examples
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.packing = packing
        self._plans: dict[int, RowPlan] = {}
        self._first_steps: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return _ENDLESS_STEPS * self.batch_size

    def __getitem__(self, row: int) -> PackedBatch:
        members = [self.examples[example] for example in self._members(int(row))]
        return fill_row(
            [member.ids for member in members],
            [member.supervised for member in members],
            sequence_length=self.sequence_length,
        )

    def __repr__(self) -> str:
        # Grain writes its sources into logs: not with all their tokens.
        return f"PackedRows({len(self.examples)} examples, {self.sequence_length} positions)"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_plans": {}}

    def num_steps(self, epochs: int) -> int:
        """Steps that `epochs` epochs take."""
        first_steps = self._first_steps
        while len(first_steps) <= epochs:
            num_rows = len(self.plan(len(first_steps) - 1))
            first_steps = (*first_steps, first_steps[-1] + -(-num_rows // self.batch_size))
            self._first_steps = first_steps
        return first_steps[epochs]

    def epoch_of_step(self, step: int) -> int:
        """The epoch, from 0, that step `step` is in."""
        epoch = bisect.bisect_right(self._first_steps, step) - 1
        while self.num_steps(epoch + 1) <= step:
            epoch += 1
        return epoch

    def examples_in_step(self, step: int) -> npt.NDArray[np.int64]:
        """Which examples the whole batch of a step holds, as places in the list tokenized.

        `SourceReport.locate` turns each into a file and a line, so that a bad batch can be named.
        """
        rows = range(step * self.batch_size, (step + 1) * self.batch_size)
        return self.examples.sources[np.concatenate([self._members(row) for row in rows])]

    def plan(self, epoch: int) -> RowPlan:
        """The packing plan of one epoch."""
        plan = self._plans.get(epoch)
        if plan is None:
            plan = plan_rows(
                self.examples.lengths,
                self.sequence_length,
                seed=self.seed,
                epoch=epoch,
                packing=self.packing,
            )
            # Around an epoch's end, prefetching and naming a batch ask for two by turns.
            newest = list(self._plans.items())[-1:]
            self._plans = dict([*newest, (epoch, plan)])
        return plan

    def part_of_step(self, step: int, part: BatchPart) -> PackedBatch:
        """The `part`'s rows [stop - start, L] of the batch of `step` (from 0)."""
        first = step * self.batch_size
        empty = fill_row([], [], sequence_length=self.sequence_length)
        rows = [
            self[first + place] if place < self.batch_size else empty
            for place in range(part.start, part.stop)
        ]
        return PackedBatch(*map(np.stack, zip(*rows, strict=True)))

    def _members(self, row: int) -> npt.NDArray[np.int64]:
        """Examples of a global row; none for a row that only fills up a batch."""
        epoch = self.epoch_of_step(row // self.batch_size)
        plan = self.plan(epoch)
        row -= self.num_steps(epoch) * self.batch_size
        return plan[row] if row < len(plan) else np.zeros(0, np.int64)


def make_train_iterator(
    rows: PackedRows,
    *,
    start_step: int = 0,
    stop_step: int | None = None,
    workers: int = 0,
    prefetch: int = 4,
    part: BatchPart | None = None,
) -> Batches:
    """This host's part (None: all) of every batch from `start_step` on, fields [rows, L].

    `prefetch` batches are made ahead, by a thread of this process or by `workers` processes; both
    give the same batches. Without `stop_step` it never ends. Close it after use.
    """
    source = _BatchSource(rows, part or BatchPart(0, rows.batch_size))
    steps = grain.MapDataset.source(source)[
        start_step : _ENDLESS_STEPS if stop_step is None else stop_step
    ]
    per_process = max(1, prefetch // max(1, workers))
    # One thread: rows are made under the interpreter's lock, and more would only contend for it.
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=per_process)
    dataset = steps.to_iter_dataset(reading)
    if workers:
        # Grain asks absl for its own flags, which only exist parsed where absl started the program.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_process),
            worker_init_fn=_begin_worker,
        )
        # Copied through a pipe: for batches of token ids as fast as shared memory (measured), the
        # arrays are ordinary ones, and nothing is left in /dev/shm by a process that was killed.
        dataset = grain.experimental.WithOptionsIterDataset(
            dataset, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        )
    batches = cast("grain.DatasetIterator[PackedBatch]", iter(dataset))
    return _WithoutMain(batches, starts=workers) if workers else batches


class _WithoutMain:
    """Batches whose worker processes start without the program's main module.

    A spawned process imports that first: a script without a `__main__` guard would run again in
    every worker, and train in the same folder. For that moment no thread of this process sees the
    main module. Workers need nothing of it. They start with the
    first batches, and all are there once each has given one.
    """

    def __init__(self, batches: grain.DatasetIterator[PackedBatch], *, starts: int) -> None:
        self._batches = batches
        self._starts = starts

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PackedBatch:
        if not self._starts:
            return next(self._batches)
        self._starts -= 1
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return next(self._batches)
        finally:
            sys.modules["__main__"] = main

    def close(self) -> None:
        """Ends the workers."""
        self._batches.close()


def evaluation_batches(
    examples: TokenizedExamples,
    *,
    sequence_length: int,
    batch_size: int,
    part: BatchPart | None = None,
) -> list[PackedBatch]:
    """Every example once, packed in a fixed order: this host's part (None: all) of each batch."""
    rows = PackedRows(examples, sequence_length=sequence_length, batch_size=batch_size, seed=None)
    part = part or BatchPart(0, batch_size)
    return [rows.part_of_step(step, part) for step in range(rows.num_steps(1))]


class _BatchSource:
    """Batches by step: a Grain random-access source."""

    def __init__(self, rows: PackedRows, part: BatchPart) -> None:
        self._rows, self._part = rows, part

    def __len__(self) -> int:
        return _ENDLESS_STEPS

    def __getitem__(self, step: int) -> PackedBatch:
        return self._rows.part_of_step(int(step), self._part)

    def __repr__(self) -> str:
        # Grain writes its sources into logs: not with all their tokens.
        return f"batches of {self._rows}"


def _begin_worker(index: int, count: int) -> None:
    """A worker lives as long as the process that reads it, no shorter and no longer.

    Ctrl-C and most schedulers signal all processes of a run. A worker that obeyed would die with
    the queue's lock in its hand, and the run, which saves first, would wait for that lock. Of a
    reader that was killed nobody tells its workers.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_reader, name="leave-with-reader", daemon=True).start()


def _leave_with_reader() -> None:
    if reader := multiprocessing.parent_process():
        reader.join()
        os._exit(1)
