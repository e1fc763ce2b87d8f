"""One request log as it is watched: rates, latencies, and what drifts.

    line → Request ─┬─ window      the last minutes: rates, counts, percentiles of those that were
                    │              not turned away (a refusal takes a millisecond)
                    ├─ buckets     one row of series every 30 s, by the requests' own times: what a
                    │              log holds already is drawn as if it had been watched
                    └─ per arm     DriftBank: a detector for each figure, and the usual latency

Arms (base, trained, rag …) differ from each other in every figure; each has a reference of its own,
or a change of what people ask for would look like a change of the answers. It is of one version of
the arm, and begins anew after a rollout (monitoring.drift_bank). A reference is kept in
the monitor's state, so that a restart compares with the same one, and reads what was rotated away
since; deleting its file begins anew.

A request from more than five minutes ahead of this machine's clock is a bad line: no window would
ever let it go, and everything after it would look as if it had been judged.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.config.monitoring import DriftSection
from coderllm_jax.monitoring.columns import Columns
from coderllm_jax.monitoring.discovery import identify
from coderllm_jax.monitoring.drift_bank import FIGURES, DriftBank, no_sources
from coderllm_jax.monitoring.request_fields import Request, RequestReader
from coderllm_jax.monitoring.tailing import LogTail
from coderllm_jax.monitoring.views import DriftView, Percentiles, TrafficView

BUCKET_S = 30.0
_MAX_WINDOW = 50_000
_MAX_ARMS = 8
# Clocks differ by seconds; more than this is a wrong scale, or a line that is damaged.
_MAX_AHEAD_S = 300.0
# Requests of the window that are summed up in a second; more of them are summed up less often.
_SUMMARIES_PER_S = 4000.0
# Fewer requests than these say nothing about a rate or a median.
_LEAST_FOR_LATENCY = 30
_LEAST_FOR_RATE = 10
# Of a normal distribution; one side, 1 in 1,000.
_Z = 3.09
_TIMES = ("total_s", "ttft_s", "time_per_token_s", "queue_s")


def log_id(path: Path) -> str:
    """Stable over restarts and safe in a URL."""
    return identify(f"{path.parent.name}-{path.stem}", path)


@dataclasses.dataclass(frozen=True)
class _Summary:
    """The window at one moment."""

    time: float
    num_requests: int
    figures: Mapping[str, float | None]
    times: Mapping[str, Percentiles | None]
    prompt_tokens_per_s: float | None
    completion_tokens_per_s: float | None
    by_arm: Mapping[str, int]
    by_finish: Mapping[str, int]
    by_version: Mapping[str, int]


class TrafficWatch:
    """One log; `state` holds what a restart must know."""

    def __init__(
        self,
        path: Path,
        *,
        reader: RequestReader,
        window_s: float,
        drift: DriftSection,
        max_rows: int,
        state: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.id = log_id(path)
        self.name = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
        self.revision = 0
        self.columns = Columns(max_rows=max_rows)
        self._reader, self._window_s, self._drift = reader, window_s, drift
        self._window: deque[Request] = deque(maxlen=_MAX_WINDOW)
        self._bucket: list[Request] = []
        self._bucket_start: float | None = None
        self._num_total = self._num_bad = 0
        self._updated: float | None = None
        self._banks: dict[str, DriftBank] = {}
        self._saved_at = 0
        self._summarized: _Summary | None = None
        until = state.get("judged_until")
        self._judged_until = -math.inf if until is None else float(until)
        # The first time a log is watched, what was rotated away before is nobody's concern.
        self._tail = LogTail(path, since=None if until is None else self._judged_until)
        for arm, values in state.get("arms", {}).items():
            self._banks[arm] = DriftBank(drift)
            self._banks[arm].restore(values)

    def poll(self, now: float) -> bool:
        """Reads what is new; whether there is more to read at once."""
        self._judged_until = min(self._judged_until, now)  # whatever the state says
        found = self._tail.read()
        if found.lines:
            requests = [self._reader.read(line) for line in found.lines if line.strip()]
            good = [each for each in requests if each and each.time <= now + _MAX_AHEAD_S]
            self._num_bad += len(requests) - len(good)
            self.add(good)
        if (
            not found.more
        ):  # what is read in pieces is of the past: its buckets end by its own times
            self.tick(now)
        return found.more

    def add(self, requests: Sequence[Request]) -> None:
        """Requests in the order of the log."""
        for request in requests:
            self._num_total += 1
            self._updated = max(self._updated or -math.inf, request.time)
            self._put_into_bucket(request)
        self._window.extend(requests)
        arms: dict[str, list[Request]] = {}
        for request in requests:
            if request.is_answered:
                arms.setdefault(request.arm, []).append(request)
        for arm, part in arms.items():
            if arm not in self._banks and len(self._banks) < _MAX_ARMS:
                self._banks[arm] = DriftBank(self._drift)
            if arm in self._banks:
                self._banks[arm].add(
                    part, num_arms=len(self._banks), judged_until=self._judged_until
                )

    def tick(self, now: float) -> None:
        """Time passes: old requests leave the window, and a bucket of the series ends."""
        self._close_bucket(now)
        while self._window and self._window[0].time < now - self._window_s:
            self._window.popleft()

    def has_news(self) -> bool:
        """Whether requests came since this was last asked."""
        before, self._saved_at = self._saved_at, self._num_total
        return self._num_total != before

    def state(self) -> dict[str, Any]:
        """What a restart must know: how far requests were judged, and what is usual."""
        until = max(self._updated or -math.inf, self._judged_until)
        return {
            "judged_until": until if math.isfinite(until) else None,
            "arms": {arm: bank.to_json() for arm, bank in self._banks.items()},
        }

    def close(self) -> None:
        """Lets go of the file."""
        self._tail.close()

    @property
    def updated(self) -> float | None:
        """When the latest request came."""
        return self._updated

    def figures(self, now: float) -> Mapping[str, float | None]:
        """What rules refer to."""
        return self._summary(now).figures

    def drifts(self) -> list[DriftView]:
        """Every detector that has seen a value."""
        return [view for arm, bank in self._banks.items() for view in bank.views(arm)]

    def view(self, now: float) -> TrafficView:
        """What is shown of it."""
        summary = self._summary(now)
        figures = summary.figures
        return TrafficView(
            id=self.id,
            name=self.name,
            path=str(self.path),
            updated=self._updated,
            window_s=self._window_s,
            num_requests=summary.num_requests,
            num_total=self._num_total,
            requests_per_s=figures["requests_per_s"],
            error_rate=figures["error_rate"],
            refusal_rate=figures["refusal_rate"],
            no_source_rate=figures["no_source_rate"],
            prompt_tokens_per_s=summary.prompt_tokens_per_s,
            completion_tokens_per_s=summary.completion_tokens_per_s,
            total_s=summary.times["total_s"],
            ttft_s=summary.times["ttft_s"],
            time_per_token_s=summary.times["time_per_token_s"],
            queue_s=summary.times["queue_s"],
            by_arm=summary.by_arm,
            by_finish=summary.by_finish,
            by_version=summary.by_version,
            num_bad_lines=self._num_bad,
            drift=self.drifts(),
            series=self.columns.names,
            revision=self.revision,
        )

    def _summary(self, now: float) -> _Summary:
        """The window in figures; of a busy log not at every look, or sorting would cost a core."""
        last = self._summarized
        if last is None or not 0 <= now - last.time < last.num_requests / _SUMMARIES_PER_S:
            last = self._summarized = self._summarize(now)
        return last

    def _summarize(self, now: float) -> _Summary:
        window = self._current(now)
        answered = [each for each in window if each.is_answered]
        times = {name: _percentiles(window, name) for name in _TIMES}
        figures: dict[str, float | None] = {
            "num_requests": float(len(window)),
            "requests_per_s": len(window) / self._window_s,
            "error_rate": _rate(each.is_error for each in window),
            "error_rate_low": _rate_low(each.is_error for each in window),
            "rejection_rate": _rate(each.is_rejected for each in window),
            "rejection_rate_low": _rate_low(each.is_rejected for each in window),
            "refusal_rate": _rate(each.refused for each in answered if each.refused is not None),
            "no_source_rate": _rate(no_sources(answered)),
            "latency_ratio": self._latency_ratio(answered),
            "bad_line_rate": self._num_bad / max(1, self._num_bad + self._num_total),
        }
        for name, found in times.items():
            figures |= _named(name, found)
        return _Summary(
            time=now,
            num_requests=len(window),
            figures=figures,
            times=times,
            prompt_tokens_per_s=_sum_rate(window, "prompt_tokens", self._window_s),
            completion_tokens_per_s=_sum_rate(window, "completion_tokens", self._window_s),
            by_arm=dict(Counter(each.arm for each in window)),
            by_finish=dict(Counter(each.finish for each in window)),
            by_version=dict(Counter(each.model_version for each in window)),
        )

    def _current(self, now: float) -> list[Request]:
        return [each for each in self._window if each.time >= now - self._window_s]

    def _latency_ratio(self, answered: Sequence[Request]) -> float | None:
        """The window's median time over the usual one, at the least; the worst arm's.

        At the least: the order statistic that the median is above in 999 of 1,000 windows, so that
        a few slow requests at night raise nothing.
        """
        ratios = []
        for arm, bank in self._banks.items():
            times = sorted(
                each.total_s
                for each in answered
                if each.arm == arm and bank.is_of(each) and each.total_s is not None
            )
            if bank.usual_total_s and len(times) >= _LEAST_FOR_LATENCY:
                rank = max(0, math.floor(len(times) / 2 - _Z * math.sqrt(len(times)) / 2))
                ratios.append(times[rank] / bank.usual_total_s)
        return max(ratios, default=None)

    def _put_into_bucket(self, request: Request) -> None:
        start = request.time // BUCKET_S * BUCKET_S
        if self._bucket_start is None:
            self._bucket_start = start
        if start > self._bucket_start:
            self._flush_bucket()
            self._bucket_start = start
        self._bucket.append(request)  # one that ended late counts where it is read

    def _close_bucket(self, now: float) -> None:
        if self._bucket_start is None:
            return
        if now >= self._bucket_start + 2 * BUCKET_S:
            self._flush_bucket()
            self._bucket_start = now // BUCKET_S * BUCKET_S

    def _flush_bucket(self) -> None:
        assert self._bucket_start is not None
        requests, self._bucket = self._bucket, []
        answered = [each for each in requests if each.is_answered]
        figures: dict[str, float | None] = {
            "requests_per_s": len(requests) / BUCKET_S,
            "completion_tokens_per_s": _sum_rate(requests, "completion_tokens", BUCKET_S),
        }
        if requests:
            figures |= {
                "error_rate": _rate(each.is_error for each in requests),
                "rejection_rate": _rate(each.is_rejected for each in requests),
                "refusal_rate": _rate(
                    each.refused for each in answered if each.refused is not None
                ),
                "no_source_rate": _rate(no_sources(answered)),
                **{f"{name}_mean": _mean(answered, name) for name in FIGURES},
            }
            for name in _TIMES:
                figures |= _named(name, _percentiles(requests, name))
        known = {name: value for name, value in figures.items() if value is not None}
        self.columns.append(int(self._bucket_start // BUCKET_S), self._bucket_start, known)


def _rate(flags: Iterable[bool | None]) -> float | None:
    values = list(flags)
    return sum(map(bool, values)) / len(values) if values else None


def _rate_low(flags: Iterable[bool]) -> float | None:
    """Lower end of Wilson's interval (1 in 1,000 lie below); None of a handful."""
    values = list(flags)
    count = len(values)
    if count < _LEAST_FOR_RATE:
        return None
    rate, z2 = sum(values) / count, _Z * _Z
    spread = _Z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count))
    return max(0.0, (rate + z2 / (2 * count) - spread) / (1 + z2 / count))


def _values(requests: Sequence[Request], name: str) -> list[float]:
    return [value for each in requests if (value := getattr(each, name)) is not None]


def _mean(requests: Sequence[Request], name: str) -> float | None:
    values = _values(requests, name)
    return sum(values) / len(values) if values else None


def _sum_rate(requests: Sequence[Request], name: str, seconds: float) -> float | None:
    values = _values(requests, name)
    return sum(values) / seconds if values else None


def _named(name: str, found: Percentiles | None) -> dict[str, float | None]:
    """Percentiles as rules and series call them."""
    values = (None, None, None) if found is None else (found.p50, found.p95, found.p99)
    return {
        f"{name}_p{percent}": value for percent, value in zip((50, 95, 99), values, strict=True)
    }


def _percentiles(requests: Sequence[Request], name: str) -> Percentiles | None:
    """Observed ones, never interpolated: each is the time of some request that was taken on."""
    values = sorted(_values([each for each in requests if not each.is_turned_away], name))
    if not values:
        return None
    p50, p95, p99 = (values[math.ceil(len(values) * share) - 1] for share in (0.5, 0.95, 0.99))
    return Percentiles(p50, p95, p99)
