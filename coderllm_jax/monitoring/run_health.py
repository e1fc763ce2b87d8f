"""Figures that say whether a training goes well, kept up to date row by row; rules refer to them.

    not_finite          1 while a loss or gradient norm of the last rows is NaN or infinite
    loss_rise           how far the loss has risen above its lowest level, as a part of that level,
                        at the least: less what noise may have done
    overfitting         how far the evaluation loss has risen above its best, as a part of it,
                        while the training loss did not rise with it
    plateau_fraction    the part of the run, in evaluations, since five of them together were better
                        than any five before by more than 0.5 %; 0 before there are eight
    data_wait_fraction  the part of recent steps' time that was spent waiting for batches
    skipped_fraction    the part of recent steps whose batch the run's guard would not learn from

Covers: rows as they are written; a figure is None where there are not enough of them to tell.
Does not cover: a loss that is bad from the first step, which has no level to rise from.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

# Rows whose median is the loss now, and those whose median may become its lowest level.
_LEVEL_ROWS = 20
_LOWEST_ROWS = 100
_LOWEST_EVERY = 10
# The lowest of thousands of medians lies some of their spreads too low by chance alone, and the
# highest too high: a rise counts from this many on (a median of n spreads by 1.25 sd / sqrt(n)).
_SPREADS = 8.0
# Once it has risen by a tenth for sure, it is as high as it looks until it is back within these.
_RISEN = 0.1
_BACK_SPREADS = 3.0
_NOISE_ROWS = 100.0
_LEAST_PLATEAU = 8
_SMOOTHED = 5
_FRESH_ROWS = 5
_GAIN = 0.005
_MUST_BE_FINITE = ("loss", "eval_loss", "grad_norm")


class RunHealth:
    """Of one run's rows."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_LOWEST_ROWS)
        self._num_losses = 0
        self._mean_change: float | None = None
        self._has_risen = False
        self._lowest_level: float | None = None
        self._rows_since_not_finite: int | None = None
        self._is_not_finite_unseen = False
        self._times: deque[tuple[float, float]] = deque(maxlen=_LEVEL_ROWS)
        self._skips: deque[tuple[int, int]] = deque(maxlen=_LEVEL_ROWS)
        self._evaluations: list[float] = []
        self.best: tuple[int, float] | None = None
        self._level_at_best: float | None = None
        self._last_gain = 0
        self._best_level = math.inf
        self._last_step = 0

    def add(self, row: Mapping[str, Any], *, is_fresh: bool) -> None:
        """One row; `is_fresh` where it was written just now, not long before somebody watched."""
        bad = [name for name in _MUST_BE_FINITE if name in row and not _finite(row[name])]
        if bad:
            self._rows_since_not_finite = 0
            self._is_not_finite_unseen |= is_fresh
        elif self._rows_since_not_finite is not None:
            self._rows_since_not_finite += 1
        if "eval_loss" in row:
            if _finite(row["eval_loss"]):
                self._add_evaluation(row["step"], float(row["eval_loss"]))
            return
        count = max(1, row["step"] - self._last_step)
        self._last_step = row["step"]
        if _finite(row.get("loss")):
            self._add_loss(float(row["loss"]))
        self._skips.append((int(row.get("skipped") or 0), count))
        if _finite(row.get("step_time_s")):
            self._times.append((float(row.get("data_wait_s") or 0.0), count * row["step_time_s"]))

    def figures(self) -> dict[str, float | None]:
        """All of them, now. A row that was not finite is told of at least once."""
        since = self._rows_since_not_finite
        not_finite = self._is_not_finite_unseen or (since is not None and since < _FRESH_ROWS)
        self._is_not_finite_unseen = False
        enough = len(self._times) >= _LEVEL_ROWS // 2
        took_s = sum(total for _, total in self._times)
        return {
            "not_finite": float(not_finite),
            "loss_rise": self._loss_rise(),
            "overfitting": self._overfitting(),
            "plateau_fraction": self._plateau_fraction(),
            "data_wait_fraction": sum(wait for wait, _ in self._times) / took_s
            if enough and took_s > 0
            else None,
            "skipped_fraction": sum(skipped for skipped, _ in self._skips)
            / sum(count for _, count in self._skips)
            if len(self._skips) == _LEVEL_ROWS
            else None,
        }

    def _add_loss(self, loss: float) -> None:
        if self._losses:
            change = abs(loss - self._losses[-1])
            usual = self._mean_change
            # One jump is no noise: it counts as five times what is usual at most.
            part = 1 / min(_NOISE_ROWS, self._num_losses)
            self._mean_change = (
                change if usual is None else usual + part * (min(change, 5 * usual) - usual)
            )
        self._losses.append(loss)
        self._num_losses += 1
        if self._num_losses >= _LEVEL_ROWS and self._num_losses % _LOWEST_EVERY == 0:
            level = median(self._losses)
            if self._lowest_level is None or level < self._lowest_level:
                self._lowest_level = level

    def _level(self) -> float | None:
        """The loss now."""
        recent = itertools.islice(reversed(self._losses), _LEVEL_ROWS)
        return median(recent) if self._losses else None

    def _add_evaluation(self, step: int, loss: float) -> None:
        self._evaluations.append(loss)
        best_before = self.best[1] if self.best else math.inf
        if loss < best_before:
            self.best = (step, loss)
            self._level_at_best = self._level()
        # One lucky evaluation would make all that follow look like none.
        level = mean(self._evaluations[-_SMOOTHED:])
        if level < self._best_level - _GAIN * abs(level):
            self._best_level, self._last_gain = level, len(self._evaluations)

    def _plateau_fraction(self) -> float | None:
        if not self._evaluations:
            return None
        without = len(self._evaluations) - self._last_gain
        return without / len(self._evaluations) if without >= _LEAST_PLATEAU else 0.0

    def _spread(self) -> float:
        """Of the difference between the loss now and its lowest level, by noise alone."""
        # Neighbours differ by 2 sd / sqrt(pi) in the mean, and a slow trend leaves that alone.
        noise = (self._mean_change or 0.0) * math.sqrt(math.pi) / 2
        return 1.25 * noise * math.sqrt(1 / _LEVEL_ROWS + 1 / _LOWEST_ROWS)

    def _loss_rise(self) -> float | None:
        level = self._level()
        if self._lowest_level is None or level is None:
            return None
        rise, spread = level - self._lowest_level, self._spread()
        scale = max(abs(self._lowest_level), 1e-12)
        if self._has_risen and rise > _BACK_SPREADS * spread:
            return rise / scale
        surely = max(0.0, rise - _SPREADS * spread) / scale
        self._has_risen = surely > _RISEN
        return surely

    def _overfitting(self) -> float | None:
        if self.best is None or len(self._evaluations) < 3:
            return None
        level = self._level()
        if level is None or self._level_at_best is None:
            return 0.0
        if level > self._level_at_best + _BACK_SPREADS * self._spread():
            return 0.0  # both rise: that is divergence
        # Two in a row: one bad evaluation is chance.
        rise = min(self._evaluations[-2:]) - self.best[1]
        return max(0.0, rise / max(abs(self.best[1]), 1e-12))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
