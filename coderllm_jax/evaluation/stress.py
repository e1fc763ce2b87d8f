"""A bounded run of everything at once, which must end with memory where it began.

    request 0 1 2 3 4 5 6 7 │ 0 1 2 ...    questions and answers short and long in turn;
              ^       ^   ^                 some are cancelled, while they wait or are answered,
              cancelled   too long          and some are refused

    warm-up ─► reading ─► first half ─► reading ─► second half ─► reading

The warm-up holds a request of every kind, so that what is compiled and allocated once is there
before the first reading. A reading is the median of several, each after a garbage collection.

Covers: memory of this process and of its devices, threads, descriptors, and requests that are lost
or end twice. Does not cover: a remote server's memory, of which only the client's side is seen, and
leaks that are smaller than what an allocator keeps for itself (ALLOWED_GROWTH).
"""

from __future__ import annotations

import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psutil

from coderllm_jax.evaluation.ledger import Ledger
from coderllm_jax.records import Answerer, Query

# What memory may grow by and still count as where it began: the larger of both.
ALLOWED_GROWTH_BYTES = 32 << 20
ALLOWED_GROWTH_FRACTION = 0.02
_PERIOD = 16  # requests after which the mixture repeats; also the warm-up
_CANCELLED = {3: 0, 7: 1, 10: 6}  # place in the period → polls after which it is cancelled
_TOO_LONG = (5, 14)
_MOST_GOING = 32
_READINGS, _READING_PAUSE_S = 5, 0.02


class Reading(NamedTuple):
    """What this process holds: bytes in memory and on its fullest device, threads, descriptors."""

    memory_bytes: int
    device_bytes: int
    threads: int
    descriptors: int


@dataclasses.dataclass(frozen=True)
class StressReport:
    """What was asked, how it ended and what it left behind.

    readings: after the warm-up, at half time, at the end. num_submitted counts the refused.
    """

    num_submitted: int
    num_answered: int
    num_cancelled: int
    num_refused: int
    faults: tuple[str, ...]
    readings: tuple[Reading, Reading, Reading]
    is_cut: bool
    wall_s: float

    @property
    def num_at_fault(self) -> int:
        """Requests that were lost, ended twice or ended wrongly."""
        return min(self.num_submitted, len({fault.partition(": ")[0] for fault in self.faults}))

    @property
    def memory_growth_bytes(self) -> int:
        """From the warm-up's end to the end: this process and its fullest device together."""
        return _memory(self.readings[2]) - _memory(self.readings[0])

    @property
    def leaks(self) -> bool:
        """Whether memory grew beyond what is allowed, and went on growing in the second half."""
        allowed = max(ALLOWED_GROWTH_BYTES, ALLOWED_GROWTH_FRACTION * _memory(self.readings[0]))
        second_half = _memory(self.readings[2]) - _memory(self.readings[1])
        return self.memory_growth_bytes > allowed and second_half > allowed / 4

    def growth(self, name: str) -> int:
        """By how much a field of the readings grew from the first to the last."""
        return getattr(self.readings[2], name) - getattr(self.readings[0], name)

    def to_json(self) -> dict[str, Any]:
        """For the results' details."""
        return {
            **{
                name: getattr(self, name)
                for name in ("num_submitted", "num_answered", "num_cancelled", "num_refused")
            },
            "faults": list(self.faults[:20]),
            "num_faults": len(self.faults),
            "readings": [reading._asdict() for reading in self.readings],
            "memory_growth_bytes": self.memory_growth_bytes,
            "leaks": self.leaks,
            "ended_early": self.is_cut,
            "wall_s": round(self.wall_s, 3),
        }


def run_stress(
    answerer: Answerer,
    *,
    requests: int,
    seconds: float,
    max_length: int,
    max_new_tokens: int,
    patience_s: float,
    read: Callable[[], Reading],
    seed: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> StressReport:
    """Runs the warm-up and then `requests` requests, for `seconds` at most.

    When time is up, what is going is cancelled; that must end, too. `max_length`: tokens of prompt
    and answer that the answerer has room for.
    """
    begun_s = now()
    ledger = Ledger(answerer, patience_s=patience_s, now=now)
    mixture = _mixture(max_length=max_length, max_new_tokens=max_new_tokens, seed=seed)
    traffic = _Traffic(ledger, mixture, is_over=lambda: now() - begun_s > seconds)
    readings = []
    for count in (_PERIOD, requests - requests // 2, requests // 2):
        traffic.run(count)
        readings.append(read())
    ended = [answer.finish for answer in ledger.answers.values()]
    return StressReport(
        num_submitted=traffic.num_submitted,
        num_answered=sum(finish in ("stop", "length") for finish in ended),
        num_cancelled=ended.count("cancelled"),
        num_refused=ended.count("error"),
        faults=tuple(ledger.faults),
        readings=(readings[0], readings[1], readings[2]),
        is_cut=traffic.is_cut,
        wall_s=now() - begun_s,
    )


def read_process(*, devices: bool) -> Reading:
    """What this process holds now. `devices`: whether jax's devices are asked as well."""
    readings = []
    for _ in range(_READINGS):
        gc.collect()
        readings.append(_read_once(devices=devices))
        time.sleep(_READING_PAUSE_S)
    return Reading(*(int(statistics.median(values)) for values in zip(*readings, strict=True)))


def _read_once(*, devices: bool) -> Reading:
    process = psutil.Process()
    device_bytes = 0
    if devices:
        import jax

        device_bytes = max(
            (device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.local_devices()
        )
    descriptors = process.num_fds() if hasattr(process, "num_fds") else 0
    return Reading(process.memory_info().rss, device_bytes, process.num_threads(), descriptors)


def _memory(reading: Reading) -> int:
    return reading.memory_bytes + reading.device_bytes


class _Traffic:
    """Submits the mixture, as many at a time as keeps every slot busy and some waiting."""

    def __init__(
        self,
        ledger: Ledger,
        mixture: Iterator[tuple[Query, int | None]],
        *,
        is_over: Callable[[], bool],
    ) -> None:
        self.num_submitted = 0
        self.is_cut = False
        self._ledger, self._mixture, self._is_over = ledger, mixture, is_over
        self._to_cancel: dict[str, int] = {}  # id → polls left

    def run(self, count: int) -> None:
        """The next `count` requests to their end; fewer where the time is up."""
        last = self.num_submitted + count
        while self._has_more(last) or self._ledger.num_going:
            while self._has_more(last) and self._ledger.num_going < _MOST_GOING:
                self._submit()
            self._cancel_due()
            if not self.is_cut and self._is_over():
                self._stop()
            self._ledger.poll()
            if self._ledger.crash:
                return

    def _has_more(self, last: int) -> bool:
        return self.num_submitted < last and not self.is_cut

    def _submit(self) -> None:
        query, cancel_after = next(self._mixture)
        self.num_submitted += 1
        if self._ledger.submit(query) and cancel_after is not None:
            self._to_cancel[query.id] = cancel_after

    def _cancel_due(self) -> None:
        for going, polls in list(self._to_cancel.items()):
            if polls and self._ledger.is_going(going):
                self._to_cancel[going] = polls - 1
            else:
                # Also where it has ended: the answerer must say that it was not going.
                del self._to_cancel[going]
                self._ledger.cancel(going)

    def _stop(self) -> None:
        self.is_cut = True
        for going in self._ledger.going():
            self._ledger.cancel(going)


def _mixture(
    *, max_length: int, max_new_tokens: int, seed: int
) -> Iterator[tuple[Query, int | None]]:
    """Queries without end, and after how many polls each is cancelled, if it is."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    # A word and its blank are four tokens at most: the longest prompts fill half of the room.
    longest = max(1, max_length // 8)
    lengths = [max(1, longest * step // (_PERIOD - 1)) for step in range(_PERIOD)]
    chance.shuffle(lengths)
    number = 0
    while True:
        place = number % _PERIOD
        num_words = 2 * max_length if place in _TOO_LONG else lengths[place]
        words = " ".join(f"w{chance.randrange(100)}" for _ in range(num_words))
        query = Query.from_question(
            f"stress/{number}",
            f"What does {words} do?",
            max_new_tokens=chance.randint(1, max_new_tokens),
        )
        yield query, _CANCELLED.get(place)
        number += 1
