"""From figures and rules to faults: each is raised once, goes on as long as it must, and ends once.

    well ── bad ──► pending ── bad for `for` ──► FIRING ── well for `recover_for` ──► RESOLVED
              ▲         │                          │  ▲            │
              └─ well ──┘                          └──┴─ not well ─┘

A figure that is not known now changes nothing: a fault does not end because nobody can see it.
What is over (a run that finished, a log that is gone) ends its faults; a run that failed ends all
but that one. The history is handed out
and taken back as plain values, so that a restart goes on where it was: nothing is raised twice.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.monitoring.rules import Rule
from coderllm_jax.monitoring.views import AlertView, RuleView

_HISTORY = 1000
# Points of the past that a rate rule looks at; enough to find the extremes of its stretch.
_RATE_POINTS = 120


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something that rules are about: its figures now, and when anything was last heard of it.

    kind: the first part of a signal. figures: None where a figure is not known. sayings: words for
    a person about a figure, in place of its number. parent: the id that a page knows it by.
    is_over: it has no figures any more but these, and no faults of others.
    """

    kind: str
    id: str
    name: str
    figures: Mapping[str, float | None]
    updated: float | None = None
    sayings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parent: str = ""
    is_over: bool = False


@dataclasses.dataclass
class Alert:
    """One fault; plain values only."""

    id: str
    rule: str
    severity: str
    subject: str
    subject_name: str
    parent: str
    message: str
    value: float | None
    raised: float
    resolved: float | None = None
    ending: str = ""


@dataclasses.dataclass
class _Watchpoint:
    """One rule over one subject."""

    bad_since: float | None = None
    well_since: float | None = None
    alert: Alert | None = None
    past: deque[tuple[float, float]] = dataclasses.field(default_factory=deque)


class AlertBook:
    """Rules, what fires, and what has fired."""

    def __init__(self, rules: Sequence[Rule], state: Mapping[str, Any]) -> None:
        """`state` is what `state()` gave in an earlier process, or {}."""
        self.rules = list(rules)
        self._points: dict[tuple[str, str], _Watchpoint] = {}
        self._history: deque[Alert] = deque(maxlen=_HISTORY)
        for values in state.get("history", ()):
            self._history.append(Alert(**values))
        for values in state.get("firing", ()):
            alert = Alert(**values)
            self._points[alert.rule, alert.subject] = _Watchpoint(alert=alert)

    def evaluate(self, subjects: Sequence[Subject], now: float) -> list[Alert]:
        """Alerts that were raised or resolved by this look, in that order of things."""
        changed: list[Alert] = []
        seen = set()
        for rule in self.rules:
            for subject in subjects:
                is_gone = subject.is_over and rule.figure not in subject.figures
                if subject.kind == rule.subject and rule.matches(subject.name) and not is_gone:
                    seen.add((rule.name, subject.id))
                    changed += self._judge(rule, subject, now)
        for key, point in list(self._points.items()):
            if key not in seen:
                if point.alert is not None:
                    changed.append(self._end(point.alert, now, "it is over, or watched no more"))
                del self._points[key]
        return changed

    @property
    def firing(self) -> list[Alert]:
        """Faults that go on, the latest first."""
        alerts = [point.alert for point in self._points.values() if point.alert is not None]
        return sorted(alerts, key=lambda alert: -alert.raised)

    @property
    def history(self) -> list[Alert]:
        """Faults that are over, the latest first."""
        return list(reversed(self._history))

    def rule_views(self) -> list[RuleView]:
        """Every rule in words."""
        firing = self.firing
        return [rule.view(sum(alert.rule == rule.name for alert in firing)) for rule in self.rules]

    def state(self) -> dict[str, Any]:
        """Plain values that `AlertBook` takes back."""
        return {
            "firing": [dataclasses.asdict(alert) for alert in self.firing],
            "history": [dataclasses.asdict(alert) for alert in self._history],
        }

    def _judge(self, rule: Rule, subject: Subject, now: float) -> list[Alert]:
        point = self._points.setdefault((rule.name, subject.id), _Watchpoint())
        value = _measure(rule, subject, point, now)
        if point.alert is None:
            return self._judge_well(rule, subject, point, value, now)
        if value is None:
            return []
        if not rule.is_well(value):
            point.well_since = None
            return []
        # The earlier: a clock that was set back must not make it wait for what has passed.
        point.well_since = now if point.well_since is None else min(point.well_since, now)
        if now - point.well_since < rule.recover_for_s:
            return []
        alert, point.alert, point.bad_since, point.well_since = point.alert, None, None, None
        return [self._end(alert, now, _ending(rule, value))]

    def _judge_well(
        self, rule: Rule, subject: Subject, point: _Watchpoint, value: float | None, now: float
    ) -> list[Alert]:
        if value is None or not rule.is_bad(value):
            point.bad_since = None
            return []
        point.bad_since = now if point.bad_since is None else min(point.bad_since, now)
        if now - point.bad_since < rule.for_s:
            return []
        point.well_since = None
        point.alert = Alert(
            id=secrets.token_hex(8),
            rule=rule.name,
            severity=rule.severity,
            subject=subject.id,
            subject_name=subject.name,
            parent=subject.parent or subject.id,
            message=_message(rule, subject, value),
            value=value,
            raised=now,
        )
        return [dataclasses.replace(point.alert)]

    def _end(self, alert: Alert, now: float, ending: str) -> Alert:
        over = dataclasses.replace(alert, resolved=now, ending=ending)
        self._history.append(over)
        return over


def alert_view(alert: Alert, notified: str) -> AlertView:
    """What is shown of an alert."""
    message = f"{alert.message}; over: {alert.ending}" if alert.ending else alert.message
    return AlertView(
        id=alert.id,
        rule=alert.rule,
        severity=alert.severity,  # type: ignore[arg-type]
        subject=alert.parent,
        subject_name=alert.subject_name,
        message=message,
        value=alert.value,
        raised=alert.raised,
        resolved=alert.resolved,
        notified=notified,
    )


def _measure(rule: Rule, subject: Subject, point: _Watchpoint, now: float) -> float | None:
    """What the rule's limit is compared with; None where it is not known."""
    if rule.kind == "absence":
        return None if subject.updated is None else now - subject.updated
    value = subject.figures.get(rule.figure)
    if value is None or rule.kind != "rate":
        return value
    past = point.past
    if past and now < past[-1][0]:
        past.clear()
    if not past or now - past[-1][0] >= rule.within_s / _RATE_POINTS:
        past.append((now, value))
    while past[0][0] < now - rule.within_s:
        past.popleft()
    # So much more than at any time in the stretch: its lowest point (or highest, where falling).
    extreme = min(past_value * rule.sign for _, past_value in past) * rule.sign
    return value - extreme


def _message(rule: Rule, subject: Subject, value: float) -> str:
    said = subject.sayings.get(rule.figure)
    is_bound = rule.figure.endswith("_low")
    figure = rule.figure.removesuffix("_low").replace("_", " ") + " at least" * is_bound
    if not said:
        said = {
            "threshold": f"{figure} {_in_words(rule.figure, value)}",
            "rate": f"{figure} changed by {_in_words(rule.figure, value)} within "
            f"{rule.within_s:g} s",
            "absence": f"nothing new for {value:.0f} s",
            "drift": "drifted",
        }[rule.kind]
    text = f"{rule.says}: {said}" if rule.says else said
    return f"{subject.name}: {text}"


def _ending(rule: Rule, value: float) -> str:
    """Why a fault is over: its figure now, or words where that is no more than yes or no."""
    if rule.kind == "absence":
        return "something new came"
    if rule.kind == "drift" or value == 0:
        return "as before again"
    return _in_words(rule.figure, value)


def _in_words(figure: str, value: float) -> str:
    """A figure with the unit that its name says it has."""
    if figure.endswith(("_fraction", "_rate", "_rate_low")):
        return f"{value:.1%}"
    if figure.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    if figure.endswith("_c"):
        return f"{value:.0f} °C"
    if figure.endswith("_s") or "_s_p" in figure:
        return f"{value:.3g} s"
    return f"{value:.4g}"
