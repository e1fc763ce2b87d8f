"""A card that does things to the run it configures, at named places: `card.py:WORD,WORD,...`

    slow                      every step takes a moment, so that a signal from outside meets one
    SIGTERM=training@7        the process sends itself a signal where the run says "training", 7
    SIGTERM=training@7+0.1    the same, 0.1 s later, from another thread
    stuck=training@7          a deadlock in C that no signal wakes
    live=30:TEXT              TEXT is in live.yaml before step 30 ("|" for a line's end)
    nan=30   spike=90         the batch of that step has weights that are NaN, or other targets
    other-rows                the rows read are not those that lie there
    given=FILE                what the loop was given, a line a step: its number, hashes of its rows

Places are what `Watchdog.beat` hears. A card is a program in the run's own process: the command and
every line of the package are the ones that users run.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from coderllm_jax.config import TrainingConfig
from coderllm_jax.records import PackedBatch
from coderllm_jax.training import run
from coderllm_jax.training.inputs import Inputs
from coderllm_jax.training.watchdog import Watchdog


def get_config(words: str = "") -> ml_collections.ConfigDict:
    """The tiny model's configuration; the faults are in place when it is returned."""
    faults = [word.partition("=")[::2] for word in words.split(",") if word]
    at_beat: list[Callable[[Watchdog, str, int], None]] = []
    changes: list[Callable[[int, PackedBatch], PackedBatch]] = []
    for name, value in faults:
        if name == "slow":
            at_beat.append(_slow)
        elif name == "other-rows":
            _read_other_rows()
        elif name == "live":
            step, _, text = value.partition(":")
            at_beat.append(functools.partial(_write_live, int(step), text.replace("|", "\n")))
        elif name == "given":
            changes.append(functools.partial(_note_down, Path(value)))
        elif name in ("nan", "spike"):
            first, _, last = value.partition("-")
            change = _not_a_number if name == "nan" else _other_targets
            changes.append(functools.partial(change, range(int(first), int(last or first) + 1)))
        else:
            phase, _, at = value.partition("@")
            step, _, delay = at.partition("+")
            at_beat.append(_Act(name, phase, int(step), float(delay or 0)))
    if at_beat:
        _listen(at_beat)
    if changes:
        _stand_between(changes)
    return _configuration()


def _configuration() -> ml_collections.ConfigDict:
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.learning_rate = 2e-2
    config.steps = 100
    # Sums of bfloat16 depend on how many devices there are by more than a loss may differ.
    config.step.precision = "float32"
    config.data.sequence_length = 64
    config.evaluation.every_steps = 25
    config.evaluation.max_items = 4
    config.evaluation.samples = 0
    config.checkpoint.every_steps = 25
    config.logging.clu = False
    config.logging.progress = False
    return config


# ------------------------------------------------------------------------------- at a place


def _listen(at_beat: list[Callable[[Watchdog, str, int], None]]) -> None:
    heard = Watchdog.beat

    def beat(watchdog: Watchdog, phase: str, step: int) -> None:
        heard(watchdog, phase, step)
        for act in at_beat:
            act(watchdog, phase, step)

    Watchdog.beat = beat


def _slow(watchdog: Watchdog, phase: str, step: int) -> None:
    if phase == "training":
        time.sleep(0.05)


def _write_live(at: int, text: str, watchdog: Watchdog, phase: str, step: int) -> None:
    if (phase, step) == ("training", at):
        (watchdog._folder.parent / "live.yaml").write_text(text)


@dataclasses.dataclass
class _Act:
    """Does it once: an evaluation beats for each of its batches."""

    what: str
    phase: str
    step: int
    delay_s: float
    is_done: bool = False

    def __call__(self, watchdog: Watchdog, phase: str, step: int) -> None:
        if self.is_done or (phase, step) != (self.phase, self.step):
            return
        self.is_done = True
        if self.what == "stuck":
            _deadlock()
        number = signal.Signals[self.what]
        if self.delay_s:
            threading.Timer(self.delay_s, os.kill, (os.getpid(), number)).start()
        else:
            os.kill(os.getpid(), number)


def _deadlock() -> None:
    """A mutex locked twice: waits as for a collective that nobody answers, and lets Python run."""
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


# ---------------------------------------------------------------------------- to the data


def _read_other_rows() -> None:
    """As on a host whose copy of the data is older."""
    read = run.read_rows

    def read_rows(config: TrainingConfig) -> Any:
        examples, report = read(config)
        return [*examples[:-1], examples[0]], report

    run.read_rows = read_rows


def _stand_between(changes: list[Callable[[int, PackedBatch], PackedBatch]]) -> None:
    made = Inputs.batches

    class Changed:
        def __init__(self, batches: Any, first_step: int) -> None:
            self._batches, self._step = batches, first_step

        def __iter__(self) -> Iterator[PackedBatch]:
            return self

        def __next__(self) -> PackedBatch:
            batch = next(self._batches)
            for change in changes:
                batch = change(self._step, batch)
            self._step += 1
            return batch

        def close(self) -> None:
            self._batches.close()

    def batches(inputs: Inputs, config: Any, *, start_step: int, stop_step: int) -> Changed:
        return Changed(
            made(inputs, config, start_step=start_step, stop_step=stop_step), start_step + 1
        )

    Inputs.batches = batches


def _note_down(path: Path, step: int, batch: PackedBatch) -> PackedBatch:
    rows = [
        hashlib.sha256(row.tobytes()).hexdigest()[:12]
        for row, segments in zip(batch.inputs, batch.segments, strict=True)
        if segments.any()  # not those that only fill up a batch
    ]
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "rows": rows}) + "\n")
    return batch


def _not_a_number(steps: range, step: int, batch: PackedBatch) -> PackedBatch:
    if step not in steps:
        return batch
    return batch._replace(weights=np.full_like(batch.weights, np.nan))


def _other_targets(steps: range, step: int, batch: PackedBatch) -> PackedBatch:
    if step not in steps:
        return batch
    return batch._replace(targets=np.roll(batch.targets, 1, axis=-1))
