"""One arm's figures that may drift, each with its detector, and the usual latency.

A bank is of one version of what answers: other weights or prompts have other lengths and times, and
a rollout is no drift. Once none of the arm's latest requests (drift.window_requests of them) was of
its version, it begins anew with the one that answers now. A version that answers beside it, as in a
trial with few users, is not compared with anything.

`no_sources` is a figure of requests that looked something up: they say how long it took, or they
have sources, or the refusal that stands for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from coderllm_jax.config.monitoring import DriftSection
from coderllm_jax.monitoring.drift import Detector, DriftSettings
from coderllm_jax.monitoring.request_fields import Request
from coderllm_jax.monitoring.views import DriftView

FIGURES = (
    "prompt_tokens",
    "completion_tokens",
    "top_score",
    "mean_logprob",
    "judged_score",
)
RATES = ("refused", "no_sources")


class DriftBank:
    """The detectors of one arm, and its usual latency.

    version: None until a request has come; usual_total_s: None until the reference is full.
    """

    def __init__(self, section: DriftSection) -> None:
        self._section = section
        self.version: str | None = None
        self._notice = ""
        self._begin()

    def _begin(self) -> None:
        self.detectors = {name: Detector(is_rate=name in RATES) for name in (*FIGURES, *RATES)}
        self._latencies: list[float] = []
        self.usual_total_s: float | None = None
        self._num_of_others = 0  # since the latest request of this version

    def settings(self, num_arms: int) -> DriftSettings:
        """Sensitivity, shared out over all figures of all arms."""
        return DriftSettings(
            num_reference=self._section.reference_requests,
            num_window=self._section.window_requests,
            smallest=self._section.smallest,
            false_alarms=self._section.false_alarms_per_10k,
            num_figures=num_arms * len(self.detectors),
        )

    def add(self, requests: Sequence[Request], *, num_arms: int, judged_until: float) -> None:
        """Answered requests of this arm, in order; those up to `judged_until` raise nothing."""
        self._judge(self._own(requests, judged_until), num_arms, judged_until)

    def is_of(self, request: Request) -> bool:
        """Whether the request was answered by this bank's version."""
        return self.version is None or request.model_version == self.version

    def _own(self, requests: Sequence[Request], judged_until: float) -> list[Request]:
        """Those of this bank's version; where it is gone, those of the one that the bank is of now.

        What was judged before is no news of a rollout: a restart reads the log from its beginning.
        """
        own: list[Request] = []
        for request in requests:
            is_new = request.time > judged_until
            if self.version is None and is_new:
                self.version = request.model_version
            if self.is_of(request):
                own.append(request)
                self._num_of_others = 0
            elif is_new:
                self._num_of_others += 1
                if self._num_of_others >= self._section.window_requests:
                    self._notice = f"version {request.model_version} in place of {self.version}"
                    self.version, own = request.model_version, []
                    self._begin()
        return own

    def _judge(self, requests: Sequence[Request], num_arms: int, judged_until: float) -> None:
        settings = self.settings(num_arms)
        for name, detector in self.detectors.items():
            pairs = [
                (value, request.time)
                for request in requests
                if (value := figure_of(request, name)) is not None
            ]
            old = [value for value, time in pairs if time <= judged_until]
            if old:
                detector.remember(old, settings)
            new = [pair for pair in pairs if pair[1] > judged_until]
            if new:
                values, times = zip(*new, strict=True)
                detector.update(values, times, settings)
        if self.usual_total_s is None:
            self._latencies += [each.total_s for each in requests if each.total_s is not None]
            if len(self._latencies) >= self._section.reference_requests:
                self.usual_total_s = float(np.median(self._latencies))
                self._latencies = []

    def views(self, arm: str) -> list[DriftView]:
        """Every detector that has seen a value."""
        return [
            _view(f"{arm}: {name}" if arm else name, detector, self._notice)
            for name, detector in self.detectors.items()
            if detector.num_reference
        ]

    def to_json(self) -> dict[str, Any]:
        """References and states."""
        return {
            "version": self.version,
            "usual_total_s": self.usual_total_s,
            "detectors": {name: detector.to_json() for name, detector in self.detectors.items()},
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """What `to_json` gave; figures that it lacks begin anew."""
        version = values.get("version")
        self.version = None if version is None else str(version)
        self.usual_total_s = values.get("usual_total_s")
        for name, kept in values.get("detectors", {}).items():
            if name in self.detectors:
                self.detectors[name] = Detector.from_json(kept, is_rate=name in RATES)


def figure_of(request: Request, name: str) -> float | None:
    """What a detector of that name sees of a request; None where it sees nothing."""
    if name == "refused":
        return None if request.refused is None else float(request.refused)
    if name == "no_sources":
        # Where nothing is looked up, having no sources is no news. A log without retrieval_s shows
        # by its sources and refusals that something was.
        looked_up = request.retrieval_s or request.num_sources or request.refused
        if request.num_sources is None or not looked_up:
            return None
        return float(request.num_sources == 0)
    value: float | None = getattr(request, name)
    return value


def no_sources(requests: Iterable[Request]) -> list[bool]:
    """Of each request that looked something up, whether it found nothing."""
    values = [figure_of(each, "no_sources") for each in requests]
    return [bool(value) for value in values if value is not None]


def _view(name: str, detector: Detector, notice: str) -> DriftView:
    return DriftView(
        name=name,
        state=detector.state,
        since=detector.since,
        reference_mean=detector.reference.mean if detector.reference else None,
        current_mean=detector.current_mean,
        psi=detector.psi,
        ks=detector.ks,
        p_value=detector.p_value,
        num_reference=detector.num_reference,
        num_current=detector.num_current,
        message=notice if detector.state == "gathering" else detector.reason,
    )
