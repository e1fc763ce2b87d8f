"""Where a run's time and tokens go: one clock, one record, one row of figures a logged step.

    mark ──────────────────────────────► now
      │ data wait │ dispatch │ step runs │        counted as a step
      │ compile, evaluation, checkpoint, sampling │   pushes the mark forward instead

Everything before the mark has been accounted for. A section that is not training moves the mark
by its own length, so the time of the step around it stays that step's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Literal

from coderllm_jax.records import Writer
from coderllm_jax.training.record import RunRecord

Section = Literal["compile_s", "checkpoint_wait_s", "evaluation_s", "sampling_s"]


class Meter:
    """Keeps `record` up to date and writes a row every `every_steps` steps (set by the loop)."""

    def __init__(self, record: RunRecord, writer: Writer, *, every_steps: int = 1) -> None:
        self._record, self._writer, self.every_steps = record, writer, every_steps
        self._mark = time.perf_counter()
        self._wall_origin = self._mark - record.wall_s
        self._seen: set[Hashable] = set()
        self._interval = _Interval()

    @contextlib.contextmanager
    def apart(self, section: Section) -> Iterator[None]:
        """Times something that is not training. Sections must not lie in one another."""
        start = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            setattr(self._record, section, getattr(self._record, section) + now - start)
            self._mark += now - start
            self._record.wall_s = now - self._wall_origin

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        """Times waiting for a batch, which is a part of the step's time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._record.data_wait_s += seconds
            self._interval.data_wait_s += seconds

    def first(self, key: Hashable) -> bool:
        """Whether this is the first call for `key`: the one that traces and compiles."""
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def finish_step(self, step: int, metrics: Mapping[str, float], *, skipped: bool) -> None:
        """Counts a step whose metrics have arrived; writes the row when one is due.

        Of a batch that was skipped the time counts, and its tokens do not: nothing was learnt.
        """
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        record = self._record
        record.step = step
        record.wall_s = now - self._wall_origin
        if not skipped:
            record.tokens += int(metrics["tokens"])
            record.loss_tokens += int(metrics["loss_tokens"])
        record.add_step(seconds)
        self._interval.add(seconds, metrics, skipped=skipped)
        if step % self.every_steps == 0:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered since the last row, if anything has."""
        if self._interval.steps:
            self._writer.write(
                {"step": self._record.step, "time": time.time(), **self._interval.row()}
            )
            self._interval = _Interval()


class _Interval:
    """The steps since the last row."""

    def __init__(self) -> None:
        self.steps = self.skipped = 0
        self.seconds = self.data_wait_s = 0.0
        self.loss_sum = 0.0
        self.tokens = self.loss_tokens = 0
        self.latest: Mapping[str, float] = {}

    def add(self, seconds: float, metrics: Mapping[str, float], *, skipped: bool) -> None:
        self.steps += 1
        self.seconds += seconds
        self.latest = metrics
        if skipped:
            self.skipped += 1
            return
        self.tokens += int(metrics["tokens"])
        self.loss_tokens += int(metrics["loss_tokens"])
        self.loss_sum += float(metrics["loss"]) * int(metrics["loss_tokens"])

    def row(self) -> dict[str, Any]:
        """Loss is the mean over the interval's supervised tokens, as if it were one batch.

        Of an interval in which all batches were skipped it is that of the last one.
        """
        all_skipped = self.skipped == self.steps
        loss = self.latest["loss"] if all_skipped else self.loss_sum / max(self.loss_tokens, 1)
        return {
            "loss": float(loss),
            "learning_rate": float(self.latest["learning_rate"]),
            "grad_norm": float(self.latest["grad_norm"]),
            "tokens_per_s": self.tokens / self.seconds,
            "loss_tokens_per_s": self.loss_tokens / self.seconds,
            "step_time_s": self.seconds / self.steps,
            "data_wait_s": self.data_wait_s,
            "tokens": self.tokens,
            "loss_tokens": self.loss_tokens,
            **({"skipped": self.skipped} if self.skipped else {}),
        }
