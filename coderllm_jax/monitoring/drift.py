"""Whether requests are still like those of a reference: one figure at a time.

    reference   the first 2,000 requests           │ then, request by request:
    CUSUM       Σ (score - 0.5 sd), never below 0  │ raises on a shift of the mean within some 100
    PSI, KS     latest 300 against the reference   │ raises on a change of shape; every 50 requests

`tolerance` is half of the smallest shift that is anybody's concern (0.5 sd: 0.25 sd). Shifts up to
it count as usual: a daily rhythm moves every mean a little, and a test of "nothing at all has
changed" rejects that on any busy day.

Scores. A value is replaced by its normal score, Φ⁻¹(rank in the reference): detectors need no
distribution then, lengths with long tails included. A shift of one standard deviation of a normal
figure is 1. Binary figures (refused, without sources) are counted as they are.

CUSUM (Page 1954) of the log-likelihood ratio of shift 1.5 · smallest against the tolerance.
Whatever the figure, the expected number of requests to a false alarm is at least e^h (Lorden
1971), from which the limit h follows. Page-Hinkley's test is the same sum written otherwise.

PSI: Σ (p - q) ln(p / q) over ten bins of equal reference mass. 0.25, the usual "major shift", is
what a shift of half a standard deviation gives. Its own noise is a scaled noncentral χ² under a
shift by the tolerance; the limit is a quantile of it (Sankaran 1963), and never below smallest².
KS: the two-sample statistic less what a shift by the tolerance gives, p-value by Smirnov's limit.

Dependence. Requests come in bursts that are alike. The reference's long-run variance (batch means)
over its variance, between 1 and 6, divides all sample sizes and multiplies h.

Multiple tests. `false_alarms` is split evenly over figures, sides, and the two mechanisms;
of the windowed ones over all looks, too (Bonferroni).

Covers: shifts and changes of shape of single figures; several figures at once; autocorrelation that
the reference shows. Does not cover: changes of how figures go together, shifts below the tolerance,
a rhythm that is stronger than the tolerance, and a reference that was itself taken on a bad day.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np

_NORMAL = NormalDist()
_BINS = 10
_LOOK_EVERY = 50
_MAX_SCORE = 3.0
_MAX_DEPENDENCE = 6.0
_PER_REQUESTS = 10_000
# Rates below this are told from each other by hundreds of requests only.
_LEAST_RATE_RISE = 0.02

State = Literal["gathering", "steady", "drifted"]


@dataclasses.dataclass(frozen=True)
class DriftSettings:
    """How sensitive the detectors are.

    smallest: shift of concern, in standard deviations. false_alarms: expected in 10,000 requests,
    of all `num_figures` together.
    """

    num_reference: int
    num_window: int
    smallest: float
    false_alarms: float
    num_figures: int

    @property
    def tolerance(self) -> float:
        """The largest shift that counts as usual, in standard deviations."""
        return self.smallest / 2

    @property
    def cusum_limit(self) -> float:
        """h: ln of the expected requests to a false alarm of one side of one figure."""
        share = self.false_alarms / (4 * self.num_figures)
        return math.log(_PER_REQUESTS / share)

    @property
    def look_p_value(self) -> float:
        """What one look at one figure by one statistic may find by chance."""
        return self.false_alarms / (4 * self.num_figures) / (_PER_REQUESTS / _LOOK_EVERY)


class Reference:
    """What is usual for one figure: sorted values, their normal scores, bins, and dependence."""

    def __init__(self, values: np.ndarray, *, is_rate: bool) -> None:
        """`values` in the order they came; for a rate 0 and 1."""
        self.values = values
        self.is_rate = is_rate
        self.mean = float(values.mean())
        self._sorted = np.sort(values)
        length = len(values)
        self._scores = np.array(
            [_NORMAL.inv_cdf((rank + 0.5) / (length + 1)) for rank in range(length + 1)]
        )
        quantiles = np.quantile(values, np.arange(1, _BINS) / _BINS)
        self._edges = np.array([0.5]) if is_rate else np.unique(quantiles)
        self._shares = _shares(self._counts(values))
        self.dependence = _dependence(values if is_rate else self.scores(values))

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Normal scores by mid-rank, held within ±3: one absurd value is no drift."""
        low = np.searchsorted(self._sorted, values, side="left")
        high = np.searchsorted(self._sorted, values, side="right")
        scores = (self._scores[low] + self._scores[high]) / 2
        return np.clip(scores, -_MAX_SCORE, _MAX_SCORE)

    def psi(self, values: np.ndarray) -> float:
        """Population stability index of the values against this."""
        shares = _shares(self._counts(values))
        return float(np.sum((shares - self._shares) * np.log(shares / self._shares)))

    def psi_limit(self, num_values: int, settings: DriftSettings) -> float:
        """What PSI exceeds by chance with `look_p_value` under a shift by the tolerance."""
        size = self._effective_size(num_values)
        freedom = len(self._edges)
        excess = settings.tolerance**2 * size
        z = _NORMAL.inv_cdf(1 - settings.look_p_value)
        quantile = _noncentral_quantile(z, freedom, excess)
        return max(settings.smallest**2, quantile / size)

    def ks(self, values: np.ndarray) -> float:
        """Largest distance between the two distribution functions."""
        values = np.sort(values)
        at = np.concatenate([self._sorted, values])
        ours = np.searchsorted(self._sorted, at, side="right") / len(self._sorted)
        theirs = np.searchsorted(values, at, side="right") / len(values)
        return float(np.max(np.abs(ours - theirs)))

    def ks_p_value(self, ks: float, num_values: int, *, tolerance: float) -> float:
        """Chance of such a distance where the shift is the tolerance (normal) or less."""
        usual = 2 * _NORMAL.cdf(tolerance / 2) - 1
        root = math.sqrt(self._effective_size(num_values))
        return _smirnov((root + 0.12 + 0.11 / root) * max(0.0, ks - usual))

    def _effective_size(self, num_values: int) -> float:
        return 1 / (1 / num_values + 1 / len(self.values)) / self.dependence

    def _counts(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(
            np.searchsorted(self._edges, values, side="left"), minlength=len(self._edges) + 1
        )


class Detector:
    """One figure of one stream: gathers its reference, then watches.

    `update` takes values in order; `state`, `since` and the statistics are to be read. A drift is
    over when a whole window lies within the tolerance's neighbourhood again.
    """

    def __init__(self, *, is_rate: bool) -> None:
        self.is_rate = is_rate
        self.state: State = "gathering"
        self.since: float | None = None
        self.reason = ""
        self.psi: float | None = None
        self.ks: float | None = None
        self.p_value: float | None = None
        self.reference: Reference | None = None
        self._gathered: list[float] = []
        self._window = np.empty(0)
        self._sums = np.zeros(2)
        self._num_since_look = self._num_since_alarm = 0

    @property
    def num_reference(self) -> int:
        """Values of the reference, or those gathered for it."""
        return len(self.reference.values) if self.reference else len(self._gathered)

    @property
    def num_current(self) -> int:
        """Values in the window."""
        return len(self._window)

    @property
    def current_mean(self) -> float | None:
        """Of the window."""
        return float(self._window.mean()) if len(self._window) else None

    def update(
        self, values: Sequence[float], times: Sequence[float], settings: DriftSettings
    ) -> None:
        """Values and when they came, in order; stops at nothing, however many there are."""
        rest, when = np.asarray(values, float), np.asarray(times, float)
        while len(rest):
            if self.reference is None:
                taken = self._gather(rest, settings)
            else:
                taken = min(_LOOK_EVERY - self._num_since_look, len(rest))
                self._watch(self.reference, rest[:taken], when[:taken], settings)
            rest, when = rest[taken:], when[taken:]

    def remember(self, values: Sequence[float], settings: DriftSettings) -> None:
        """Values that were judged before this process: they fill the window, and raise nothing."""
        if self.reference is None:
            self.update(values, [0.0] * len(values), settings)
            return
        window = np.concatenate([self._window, np.asarray(values, float)])
        self._window = window[-settings.num_window :]

    def to_json(self) -> dict[str, Any]:
        """The reference and the state; {} before there is a reference."""
        if self.reference is None:
            return {}
        return {
            "values": [float(f"{value:.7g}") for value in self.reference.values],
            "state": self.state,
            "since": self.since,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, is_rate: bool) -> Self:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError where it is damaged."""
        detector = cls(is_rate=is_rate)
        if values:
            detector.reference = Reference(np.array(values["values"], float), is_rate=is_rate)
            detector.state = "drifted" if values["state"] == "drifted" else "steady"
            detector.since, detector.reason = values["since"], str(values["reason"])
        return detector

    def _gather(self, values: np.ndarray, settings: DriftSettings) -> int:
        taken = min(settings.num_reference - len(self._gathered), len(values))
        self._gathered += values[:taken].tolist()
        if len(self._gathered) >= settings.num_reference:
            self.reference = Reference(np.array(self._gathered), is_rate=self.is_rate)
            self._gathered = []
            self.state = "steady"
        return taken

    def _watch(
        self,
        reference: Reference,
        values: np.ndarray,
        times: np.ndarray,
        settings: DriftSettings,
    ) -> None:
        self._window = np.concatenate([self._window, values])[-settings.num_window :]
        if self.state == "steady":
            self._add_to_sums(reference, values, times, settings)
        else:
            self._num_since_alarm += len(values)
        self._num_since_look += len(values)
        if self._num_since_look >= _LOOK_EVERY:
            self._num_since_look = 0
            if len(self._window) >= settings.num_window:
                self._look(reference, float(times[-1]), settings)

    def _add_to_sums(
        self,
        reference: Reference,
        values: np.ndarray,
        times: np.ndarray,
        settings: DriftSettings,
    ) -> None:
        """Both sums over all of the values at once: S = C - min(0, min C) of the running sum C."""
        limit = settings.cusum_limit * reference.dependence
        for side, steps in enumerate(_log_ratios(reference, values, settings)):
            running = self._sums[side] + np.cumsum(steps)
            sums = running - np.minimum(0.0, np.minimum.accumulate(running))
            over = np.flatnonzero(sums > limit)
            self._sums[side] = sums[-1]
            if len(over) and self.state == "steady":
                word = ("rose", "fell")[side]
                self._raise(f"its mean {word} (CUSUM)", float(times[over[0]]))

    def _look(self, reference: Reference, time: float, settings: DriftSettings) -> None:
        window = self._window
        self.psi, self.ks = reference.psi(window), reference.ks(window)
        limit = reference.psi_limit(len(window), settings)
        if reference.is_rate:
            self.p_value = _rate_p_value(reference, window, settings)
        else:
            self.p_value = reference.ks_p_value(self.ks, len(window), tolerance=settings.tolerance)
        if self.state == "steady":
            if self.p_value < settings.look_p_value:
                self._raise("its distribution is another one (KS)", time)
            elif self.psi > limit and not reference.is_rate:
                self._raise("its distribution is another one (PSI)", time)
        elif self._num_since_alarm >= len(window) and self._is_back(reference, limit, settings):
            self.state, self.since, self.reason = "steady", None, ""
            self._sums[:] = 0.0

    def _is_back(self, reference: Reference, limit: float, settings: DriftSettings) -> bool:
        near = 1.4 * settings.tolerance
        if reference.is_rate:
            spread = math.sqrt(max(reference.mean * (1 - reference.mean), 1e-4))
            return abs(float(self._window.mean()) - reference.mean) < max(
                near * spread, _LEAST_RATE_RISE
            )
        shift = abs(float(reference.scores(self._window).mean()))
        return shift < near and self.psi is not None and self.psi < 0.7 * limit

    def _raise(self, reason: str, time: float) -> None:
        self.state, self.since, self.reason = "drifted", time, reason
        self._sums[:] = 0.0
        self._num_since_alarm = 0


def _log_ratios(
    reference: Reference, values: np.ndarray, settings: DriftSettings
) -> list[np.ndarray]:
    """Log-likelihood ratios of a shift of concern against the tolerance, upward and downward."""
    usual, other = settings.tolerance, 3 * settings.tolerance
    if not reference.is_rate:
        scores = reference.scores(values)
        middle = (usual + other) / 2
        return [(other - usual) * (sign * scores - middle) for sign in (1, -1)]
    length = len(reference.values)
    found = []
    for side, mean in ((values, reference.mean), (1 - values, 1 - reference.mean)):
        # Not the rate that was seen but the largest that might have been behind it.
        rate = (mean * length + 1) / (length + 2)
        rate = min(rate + 2 * math.sqrt(rate * (1 - rate) * reference.dependence / length), 1.0)
        spread = math.sqrt(rate * (1 - rate))
        low = rate + usual * spread
        high = max(rate + other * spread, low + _LEAST_RATE_RISE)
        if high >= 1:  # what is nearly always so cannot become much more so
            found.append(np.full(len(values), -1.0))
            continue
        found.append(np.where(side > 0, math.log(high / low), math.log((1 - high) / (1 - low))))
    return found


def _rate_p_value(reference: Reference, window: np.ndarray, settings: DriftSettings) -> float:
    """Two-sided, for rates that differ by more than the tolerance; normal approximation."""
    rate, length = float(window.mean()), len(reference.values)
    pooled = (rate * len(window) + reference.mean * length + 1) / (len(window) + length + 2)
    spread = math.sqrt(pooled * (1 - pooled))
    usual = max(settings.tolerance * spread, _LEAST_RATE_RISE)
    error = spread * math.sqrt((1 / len(window) + 1 / length) * reference.dependence)
    z = max(0.0, abs(rate - reference.mean) - usual) / error
    return 2 * (1 - _NORMAL.cdf(z))


def _noncentral_quantile(z: float, freedom: int, excess: float) -> float:
    """Of the noncentral χ², where a normal variable has `z`: a power of it is nearly normal.

    Sankaran (1963), Biometrika 50, approximation 3; within 1 % of the tail at 1e-6 here.
    """
    mean = freedom + excess
    power = 1 - 2 * mean * (freedom + 3 * excess) / (3 * (freedom + 2 * excess) ** 2)
    p = (freedom + 2 * excess) / mean**2
    m = (power - 1) * (1 - 3 * power)
    middle = 1 + power * p * (power - 1 - 0.5 * (2 - power) * m * p)
    spread = power * math.sqrt(2 * p) * (1 + 0.5 * m * p)
    return mean * (middle + z * spread) ** (1 / power)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Shares of bins, with half a count in each so that an empty one has a logarithm."""
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))


def _dependence(scores: np.ndarray) -> float:
    """Long-run variance over variance, by means of √n batches; one standard error on top."""
    variance = float(scores.var())
    size = max(2, math.isqrt(len(scores)))
    num_batches = len(scores) // size
    if variance <= 0 or num_batches < 4:
        return 1.0
    means = scores[: size * num_batches].reshape(num_batches, size).mean(axis=1)
    ratio = size * float(means.var(ddof=1)) / variance
    return float(np.clip(ratio * (1 + math.sqrt(2 / num_batches)), 1.0, _MAX_DEPENDENCE))


def _smirnov(x: float) -> float:
    """Tail of Kolmogorov's distribution: 2 Σ (-1)^(k-1) exp(-2 k² x²)."""
    if x < 0.2:
        return 1.0
    total = sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))
