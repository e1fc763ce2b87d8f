"""Figures that say whether a training goes well, kept up to date row by row; rules refer to them.

    not_finite          1 while a loss or gradient norm of the last rows is NaN or infinite
    loss_rise           how far the loss has risen above its lowest level, as a part of that level
    overfitting         how far the evaluation loss has risen above its best, as a part of it,
                        while the training loss went on falling
    evals_without_gain  evaluations since one was better than all before by more than 0.5 %
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
from statistics import median
from typing import Any

# Rows whose median is a level of the loss.
_LEVEL_ROWS = 20
# The lowest of many medians lies some of their spreads too low by chance alone; a rise counts
# from this many on (the spread of a median of n is 1.25 sd / sqrt(n)).
_SPREADS = 8.0
_FRESH_ROWS = 5
_GAIN = 0.005
_MUST_BE_FINITE = ("loss", "eval_loss", "grad_norm")


class RunHealth:
    """Of one run's rows."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_LEVEL_ROWS)
        self._lowest_level: float | None = None
        self._rows_since_not_finite: int | None = None
        self._is_not_finite_unseen = False
        self._times: deque[tuple[float, float]] = deque(maxlen=_LEVEL_ROWS)
        self._skips: deque[tuple[int, int]] = deque(maxlen=_LEVEL_ROWS)
        self._evaluations: list[float] = []
        self.best: tuple[int, float] | None = None
        self._level_at_best: float | None = None
        self._last_gain = 0
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
            "evals_without_gain": float(len(self._evaluations) - self._last_gain)
            if self._evaluations
            else None,
            "data_wait_fraction": sum(wait for wait, _ in self._times) / took_s
            if enough and took_s > 0
            else None,
            "skipped_fraction": sum(skipped for skipped, _ in self._skips)
            / sum(count for _, count in self._skips)
            if len(self._skips) == _LEVEL_ROWS
            else None,
        }

    def _add_loss(self, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) == _LEVEL_ROWS:
            level = median(self._losses)
            if self._lowest_level is None or level < self._lowest_level:
                self._lowest_level = level

    def _add_evaluation(self, step: int, loss: float) -> None:
        self._evaluations.append(loss)
        best_before = self.best[1] if self.best else math.inf
        if loss < best_before:
            self.best = (step, loss)
            self._level_at_best = median(self._losses) if self._losses else None
        if loss < best_before - _GAIN * abs(best_before) or math.isinf(best_before):
            self._last_gain = len(self._evaluations)

    def _loss_rise(self) -> float | None:
        if self._lowest_level is None:
            return None
        losses = list(self._losses)
        rise = median(losses) - self._lowest_level
        # From differences of neighbours, which a slow trend leaves alone; 0.954 = 1.349 / sqrt(2).
        steps = sorted(abs(b - a) for a, b in itertools.pairwise(losses))
        noise = steps[len(steps) // 2] / 0.954
        if rise <= _SPREADS * 1.25 * noise / math.sqrt(len(losses)):
            return 0.0
        return rise / max(abs(self._lowest_level), 1e-12)

    def _overfitting(self) -> float | None:
        if self.best is None or len(self._evaluations) < 3:
            return None
        level = median(self._losses) if self._losses else None
        if level is None or self._level_at_best is None or level >= self._level_at_best:
            return 0.0
        # Two in a row: one bad evaluation is chance.
        rise = min(self._evaluations[-2:]) - self.best[1]
        return max(0.0, rise / max(abs(self.best[1]), 1e-12))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
