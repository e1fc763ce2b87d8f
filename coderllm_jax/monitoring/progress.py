"""One line that says how far a run is: loss, rate, and the time left in steps alone.

    step  37/60  62% │ loss 2.914 │ 4,312 tokens/s │ 1.9 s/step │ 0:44 left
    step  40/60      │ evaluation loss 2.871, perplexity 17.7, token accuracy 0.447

On a terminal the line is rewritten in place. Elsewhere (a log file, CI) about twenty lines are
written over the whole run. The time left counts steps, not compilation and evaluation, of which
nobody can tell how they go on.
"""

from __future__ import annotations

import shutil
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TextIO

from coderllm_jax.records import Sample
from coderllm_jax.redaction import redact

_LINES_WITHOUT_TERMINAL = 20
_RECENT = 16


class ProgressWriter:
    """Shows rows as they come; a Writer that owns the terminal's current line."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._in_place = self._stream.isatty()
        self._num_steps = self._every = 1
        self._step_times_s: deque[float] = deque(maxlen=_RECENT)
        self._shown_width = 0
        self._shown_step = -1

    def begin(self, *, num_steps: int, step: int) -> None:
        """Says how long the run is, and from which step it goes on."""
        self._num_steps = num_steps
        self._every = 1 if self._in_place else max(1, num_steps // _LINES_WITHOUT_TERMINAL)
        if step:
            self._show(f"going on from step {step}", keep=True)

    def note(self, text: str) -> None:
        """A line about what is going on now; the next line takes its place on a terminal."""
        self._show(f"{redact(text)} …", keep=not self._in_place)

    def write(self, row: Mapping[str, Any]) -> None:
        """Shows the row, if it is one of those to be shown."""
        if "eval_loss" in row:
            self._show(self.evaluation_line(row), keep=True)
            return
        self._step_times_s.append(row["step_time_s"])
        passed = row["step"] // self._every > self._shown_step // self._every
        if passed or row["step"] == self._num_steps:
            self._shown_step = row["step"]
            self._show(self.step_line(row), keep=not self._in_place)

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Samples are for the page; the terminal shows figures."""

    def close(self) -> None:
        """Leaves the terminal at the beginning of an empty line."""
        if self._in_place:
            self._show("", keep=False)

    def step_line(self, row: Mapping[str, Any]) -> str:
        """One training row in words."""
        step, total = row["step"], self._num_steps
        left_s = (total - step) * median(self._step_times_s or [row["step_time_s"]])
        return (
            f"step {step:>{len(str(total))}}/{total} {step / total:>4.0%} │ "
            f"loss {row['loss']:.3f} │ {row['tokens_per_s']:,.0f} tokens/s │ "
            f"{row['step_time_s']:.2f} s/step │ {clock(left_s)} left"
        )

    def evaluation_line(self, row: Mapping[str, Any]) -> str:
        """One evaluation in words."""
        step, total = row["step"], self._num_steps
        few_shot = row.get("few_shot_loss")
        return (
            f"step {step:>{len(str(total))}}/{total}      │ "
            f"evaluation loss {row['eval_loss']:.3f}, perplexity {row['perplexity']:,.1f}, "
            f"token accuracy {row['token_accuracy']:.3f}"
            + (f" (few-shot prompt: loss {few_shot:.3f})" if few_shot is not None else "")
        )

    def _show(self, text: str, *, keep: bool) -> None:
        if self._quiet:
            return
        try:
            self._put(text, keep=keep)
        except (OSError, ValueError):  # whoever read this has gone: the run goes on unseen
            self._quiet = True

    def _put(self, text: str, *, keep: bool) -> None:
        if self._in_place:
            # A line that wraps could not be taken back by a carriage return.
            text = text if keep else text[: shutil.get_terminal_size().columns - 1]
            padding = " " * max(0, self._shown_width - len(text))
            self._stream.write(f"\r{text}{padding}" + ("\n" if keep else "\r" if not text else ""))
            self._shown_width = 0 if keep else len(text)
        elif text:
            self._stream.write(text + "\n")
        self._stream.flush()


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
