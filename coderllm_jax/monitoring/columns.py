"""Series of a run or a log as numpy columns that grow, and what of them a chart needs.

    step      0    1    2    2      one row as it was written: training and evaluation rows mix
    loss      4.7  5.2  5.5  NaN    NaN: the row has no such figure; inf: it has one, not finite
    eval_loss NaN  NaN  NaN  5.1

100,000 rows of ten figures take 6 MB. Values are float32: enough for charts and rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

_FIRST_CAPACITY = 1024
# Other people's event files may hold a tag for every layer; those after the first are left out.
MAX_NAMES = 128
_NOT_FINITE = np.float32(np.inf)


class Points(NamedTuple):
    """One series, oldest first; values that were not finite are inf."""

    steps: np.ndarray
    times: np.ndarray
    values: np.ndarray


class Columns:
    """Rows of named figures. Past `max_rows` the older half thins out, and its extremes stay."""

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._values: dict[str, np.ndarray] = {}
        self.num_left_out = 0
        self.clear()

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> list[str]:
        """Every figure that any row has."""
        return list(self._values)

    @property
    def first_time(self) -> float | None:
        """When the oldest row was written."""
        return float(self._times[0]) if self._length else None

    @property
    def last_time(self) -> float | None:
        """When the newest row was written."""
        return float(self._times[self._length - 1]) if self._length else None

    def append(self, step: int, time: float, figures: Mapping[str, float | None]) -> None:
        """One row; None stands for a figure that was not finite."""
        if self._length == len(self._steps):
            self._grow()
        i = self._length
        self._steps[i], self._times[i] = step, time
        for name, value in figures.items():
            column_of_name = self._column(name)
            if column_of_name is not None:
                finite = value is not None and abs(value) < 3.4e38  # NaN fails this, too
                column_of_name[i] = value if finite else _NOT_FINITE
        self._length += 1

    def clear(self) -> None:
        """Forgets all rows."""
        self._length = 0
        self._steps = np.empty(_FIRST_CAPACITY, np.int64)
        self._times = np.empty(_FIRST_CAPACITY, np.float64)
        self._values.clear()

    def cut(self, step: int) -> bool:
        """Forgets the rows of `step` and those after it; whether there were any."""
        length = int(np.searchsorted(self._steps[: self._length], step))
        was_longer = self._length > length
        self._shorten(length)
        return was_longer

    def points(self, name: str, *, since_step: int | None = None) -> Points:
        """The rows that have the figure, those after `since_step`; empty where none has it."""
        column = self._values.get(name)
        if column is None:
            return Points(self._steps[:0], self._times[:0], np.empty(0, np.float32))
        first = 0 if since_step is None else self._first_after(since_step)
        span = slice(first, self._length)
        has = ~np.isnan(column[span])
        return Points(self._steps[span][has], self._times[span][has], column[span][has])

    def latest(self) -> dict[str, float]:
        """The newest finite value of every figure that has one."""
        found = {}
        for name, column in self._values.items():
            # Nearly always within the last few rows; a whole column is looked at otherwise.
            for first in (max(0, self._length - 64), 0):
                (where,) = np.nonzero(np.isfinite(column[first : self._length]))
                if len(where):
                    found[name] = float(column[first + where[-1]])
                    break
        return found

    def _first_after(self, step: int) -> int:
        # Steps rise within one file, so the rows after a step are its tail.
        return int(np.searchsorted(self._steps[: self._length], step, side="right"))

    def _column(self, name: str) -> np.ndarray | None:
        column = self._values.get(name)
        if column is None:
            if len(self._values) >= MAX_NAMES:
                self.num_left_out += 1
                return None
            column = self._values[name] = np.full(len(self._steps), np.nan, np.float32)
        return column

    def _grow(self) -> None:
        if self._length >= self._max_rows:
            self._thin()
            return
        more = len(self._steps)
        self._steps = np.concatenate([self._steps, np.empty(more, np.int64)])
        self._times = np.concatenate([self._times, np.empty(more, np.float64)])
        for name, column in self._values.items():
            self._values[name] = np.concatenate([column, np.full(more, np.nan, np.float32)])

    def _thin(self) -> None:
        """Of every four rows of the older half two are left, with each figure's extremes."""
        num_quads = self._length // 8
        old, kept = 4 * num_quads, 2 * num_quads
        length = kept + self._length - old
        for name in ("_steps", "_times"):
            column = getattr(self, name)
            column[:kept] = column[:old].reshape(-1, 4)[:, [0, 3]].ravel()
            column[kept:length] = column[old : self._length]
        for column in self._values.values():
            column[:kept] = _extremes_of_quads(column[:old].reshape(-1, 4))
            column[kept:length] = column[old : self._length]
        self._shorten(length)

    def _shorten(self, length: int) -> None:
        """Beyond the last row every figure is NaN: a row writes only those that it has."""
        for column in self._values.values():
            column[length : self._length] = np.nan
        self._length = length


class ColumnsByName:
    """Series that have steps of their own each: a loss by steps beside an accuracy by epochs.

    Answers what `Columns` does; 100,000 points of one series take 2 MB.
    """

    def __init__(self, *, max_rows: int) -> None:
        """`max_rows`: of each series."""
        self._max_rows = max_rows
        self._series: dict[str, Columns] = {}

    def __len__(self) -> int:
        """Points of the longest series."""
        return max(map(len, self._series.values()), default=0)

    @property
    def names(self) -> list[str]:
        """Every series."""
        return list(self._series)

    @property
    def first_time(self) -> float | None:
        """When the oldest point was written."""
        return min((series.first_time or 0.0 for series in self._long), default=None)

    @property
    def last_time(self) -> float | None:
        """When the newest point was written."""
        return max((series.last_time or 0.0 for series in self._long), default=None)

    def append(self, name: str, step: int, time: float, value: float | None) -> None:
        """One point; None where it was not finite. A name that is new begins a series."""
        if name not in self._series:
            self._series[name] = Columns(max_rows=self._max_rows)
        self._series[name].append(step, time, {name: value})

    def cut(self, step: int, names: Iterable[str]) -> bool:
        """Forgets the points of `step` and those after it, of these; whether there were any."""
        return sum(self._series[name].cut(step) for name in names) > 0

    def points(self, name: str, *, since_step: int | None = None) -> Points:
        """The points of one series after `since_step`; none where it is not there."""
        series = self._series.get(name) or Columns(max_rows=self._max_rows)
        return series.points(name, since_step=since_step)

    def latest(self) -> dict[str, float]:
        """The newest finite value of every series that has one."""
        return {name: v for each in self._series.values() for name, v in each.latest().items()}

    @property
    def _long(self) -> list[Columns]:
        return [series for series in self._series.values() if len(series)]


def _extremes_of_quads(quads: np.ndarray) -> np.ndarray:
    """Smallest and largest of each four, in the order they came; NaN where there is no second."""
    low = np.argmin(np.where(np.isnan(quads), np.inf, quads), axis=1)
    high = np.argmax(np.where(np.isnan(quads), -np.inf, quads), axis=1)
    rows = np.arange(len(quads))
    pair = np.stack([quads[rows, np.minimum(low, high)], quads[rows, np.maximum(low, high)]], 1)
    pair[low == high, 1] = np.nan
    return pair.ravel()


def decimate(points: Points, max_points: int) -> Points:
    """At most about `max_points`: the smallest and the largest of every stretch, in their order.

    The first and the last point stay, so that a curve that grows is not seen to jump. What is not
    finite stands for itself: one such point of every stretch stays, too.
    """
    steps, times, values = points
    length = len(values)
    if length <= max_points:
        return points
    num_stretches = max(1, (max_points - 2) // 2)
    width = -(-length // num_stretches)
    padding = -length % width
    padded = np.pad(values, (0, padding), mode="edge").reshape(-1, width)
    finite = np.isfinite(padded)
    starts = np.arange(len(padded)) * width
    chosen = [
        starts + np.argmin(np.where(finite, padded, np.inf), axis=1),
        starts + np.argmax(np.where(finite, padded, -np.inf), axis=1),
        (starts + np.argmin(finite, axis=1))[~finite.all(axis=1)],
        [0, length - 1],
    ]
    where = np.unique(np.minimum(np.concatenate(chosen), length - 1)).astype(np.int64)
    return Points(steps[where], times[where], values[where])
