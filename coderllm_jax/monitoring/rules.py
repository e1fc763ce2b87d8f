"""Rules about figures, as YAML: what is a fault, for how long, how bad, and when it is over.

    slow_answers:                          the rule's name; a built-in one of that name is changed
      signal: traffic.total_s_p95          of what (see SIGNALS), and which figure of it
      above: 5.0                           a fault above this; or below: …
      recover: 4.0                         over when not above this any more (default: the limit)
      for: 60s                             how long it must be so (default: at once)
      recover_for: 60s                     how long it must be well (default: as `for`)
      severity: critical                   info, warning (default) or critical
      only: "serving/*"                    of those whose name is like this
      says: answers are slow               a sentence, for people
    loss_explodes:
      signal: run.grad_norm
      rises_by: 100                        rate: so much more (or falls_by) …
      within: 5m                           … than at any time in the last five minutes
    silence:
      signal: traffic.num_requests
      absent: 10m                          absence: nothing new for so long
    answers_drift:
      signal: drift.drifted
      drifts: true                         drift: as a detector says (monitoring.drift)
    plateau:
      enabled: false                       a built-in rule that is not wanted

A file that holds anything else ends in one line that names its line and key.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from coderllm_jax.config.documents import Entry, parse_yaml, read_document
from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.config.layers import shown
from coderllm_jax.errors import ConfigError
from coderllm_jax.monitoring.views import RuleView, Severity

Kind = Literal["threshold", "rate", "absence", "drift"]

# What rules may be about. None: any figure, because a run's are whatever its rows hold.
SIGNALS: Mapping[str, tuple[str, ...] | None] = {
    "run": None,
    "traffic": (
        "num_requests",
        "requests_per_s",
        "error_rate",
        "error_rate_low",
        "rejection_rate",
        "rejection_rate_low",
        "refusal_rate",
        "no_source_rate",
        "latency_ratio",
        "bad_line_rate",
        *(
            f"{name}_p{percent}"
            for name in ("total_s", "ttft_s", "time_per_token_s", "queue_s")
            for percent in (50, 95, 99)
        ),
    ),
    "drift": ("drifted", "psi", "ks"),
    "machine": (
        "cpu_fraction",
        "load_1min",
        "memory_used_fraction",
        "swap_used_bytes",
        "temperature_c",
        "own_memory_bytes",
        "own_cpu_fraction",
    ),
    "disk": ("used_fraction", "free_bytes"),
    "accelerator": (
        "use_fraction",
        "memory_used_fraction",
        "temperature_c",
        "power_w",
        "throttled",
    ),
}
_KEYS = (
    "signal",
    "above",
    "below",
    "rises_by",
    "falls_by",
    "within",
    "absent",
    "drifts",
    "recover",
    "for",
    "recover_for",
    "severity",
    "only",
    "says",
    "enabled",
)
_NUMBERS = ("above", "below", "rises_by", "falls_by", "recover")
_DURATIONS = ("within", "absent", "for", "recover_for")
_WORDS = ("signal", "only", "says", "severity")
_FLAGS = ("drifts", "enabled")
# Which key makes a rule what it is.
_KIND_OF: Mapping[str, Kind] = {
    "above": "threshold",
    "below": "threshold",
    "rises_by": "rate",
    "falls_by": "rate",
    "absent": "absence",
    "drifts": "drift",
}
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)\s*(ms|s|m|h|d)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_BUILT_IN = Path(__file__).with_name("built_in_rules.yaml")
BUILT_IN = "built in"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule. sign: 1 where more is worse, -1 where less is.

    limit, recover_limit: of the figure, its change within `within_s`, or the seconds without news.
    """

    name: str
    subject: str
    figure: str
    kind: Kind
    sign: int
    limit: float
    recover_limit: float
    within_s: float
    for_s: float
    recover_for_s: float
    severity: Severity
    only: str
    says: str
    origin: str

    def matches(self, subject_name: str) -> bool:
        """Whether the rule is about something of that name."""
        return fnmatch.fnmatchcase(subject_name, self.only)

    def is_bad(self, value: float) -> bool:
        """Whether the value is a fault."""
        return self.sign * value > self.sign * self.limit

    def is_well(self, value: float) -> bool:
        """Whether the value ends a fault; between the two limits a fault goes on."""
        return self.sign * value <= self.sign * self.recover_limit

    def view(self, num_firing: int) -> RuleView:
        """What is shown of it."""
        return RuleView(
            self.name, self.kind, self.severity, self.description(), self.origin, num_firing
        )

    def description(self) -> str:
        """The rule in words."""
        more = "above" if self.sign > 0 else "below"
        signal = f"{self.subject}.{self.figure}"
        text = {
            "threshold": f"{signal} {more} {self.limit:g}",
            "rate": f"{signal} {'rises' if self.sign > 0 else 'falls'} by {self.limit:g} within "
            f"{self.within_s:g} s",
            "absence": f"nothing new of {signal} for {self.limit:g} s",
            "drift": f"{signal} says so",
        }[self.kind]
        if self.for_s:
            text += f" for {self.for_s:g} s"
        if self.recover_limit != self.limit:
            text += f", until {self.recover_limit:g}"
        return f"{self.says} ({text})" if self.says else text


def load_rules(file: str) -> list[Rule]:
    """The built-in rules, and those of `file` ("": none), which join or change them.

    Raises ConfigError, naming the file, its line and the key, at the first mistake.
    """
    merged = _group(parse_yaml(_BUILT_IN.read_text(encoding="utf-8"), name=BUILT_IN))
    origins = dict.fromkeys(merged, BUILT_IN)
    if file:
        path = Path(file).expanduser()
        place = shown(path)
        for name, entries in _group(read_document(path, name=place)).items():
            merged[name] = _override(merged.get(name, {}), entries)
            origins[name] = place
    rules = [_build(name, entries, origins[name]) for name, entries in merged.items()]
    return [rule for rule in rules if rule is not None]


def _group(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """Entries by rule and key, each checked by itself."""
    rules: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        name, _, key = entry.path.partition(".")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{entry.place}: {name!r} is no name of a rule; use letters, digits, _ and -"
            )
        if not key:
            raise ConfigError(f"{entry.place}: rule {name} is {entry.value!r}; expected keys below")
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS, default=f"; a rule has {', '.join(_KEYS)}")
            raise ConfigError(f"{entry.place}: {entry.path}: no such key{hint}")
        rules.setdefault(name, {})[key] = entry._replace(value=_value(key, entry))
    return rules


def _value(key: str, entry: Entry) -> Any:
    value, where = entry.value, f"{entry.place}: {entry.path} is {entry.value!r}"
    if key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ConfigError(f"{where}; expected a number")
        return float(value)
    if key in _DURATIONS:
        return _seconds(value, where)
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise ConfigError(f"{where}; expected true or false")
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{where}; expected words")
    if key == "severity" and value not in get_args(Severity):
        raise ConfigError(
            f"{where}; expected {', '.join(get_args(Severity))}"
            f"{did_you_mean(value, get_args(Severity), default='')}"
        )
    if key == "signal":
        _check_signal(value, where)
    return value


def _seconds(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f"{where}; expected a time such as 90s, 10m or 2h")
    return float(match[1]) * _UNITS_S[match[2]]


def _check_signal(value: str, where: str) -> None:
    subject, _, figure = value.partition(".")
    if subject not in SIGNALS or not figure:
        raise ConfigError(
            f"{where}; expected one of {', '.join(f'{name}.…' for name in SIGNALS)}"
            f"{did_you_mean(subject, SIGNALS, default='')}"
        )
    figures = SIGNALS[subject]
    if figures is not None and figure not in figures:
        hint = did_you_mean(figure, figures, default=f"; {subject} has {', '.join(figures)}")
        raise ConfigError(f"{where}, and there is no such figure{hint}")


def _override(before: Mapping[str, Entry], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """A built-in rule's keys under those of the file; another kind takes the limits' place."""
    limits = {key for key in entries if key in _KIND_OF}
    kept = {
        key: entry
        for key, entry in before.items()
        if not (limits and (key in _KIND_OF or key in ("recover", "within")))
    }
    return {**kept, **entries}


def _build(name: str, entries: Mapping[str, Entry], origin: str) -> Rule | None:
    """The rule; None where it is switched off. What keys say about each other is checked here."""
    values = {key: entry.value for key, entry in entries.items()}
    place = list(entries.values())[-1].place
    if values.get("enabled") is False:
        return None
    kinds = [key for key in _KIND_OF if key in values and values[key] is not False]
    if "signal" not in values:
        raise ConfigError(f"{place}: rule {name} has no signal; add one, as in signal: run.loss")
    if len(kinds) != 1:
        found = f"has {' and '.join(kinds)}" if kinds else "says nothing about its signal"
        raise ConfigError(
            f"{entries[kinds[1]].place if kinds else place}: rule {name} {found}; "
            f"give exactly one of {', '.join(_KIND_OF)}"
        )
    (key,) = kinds
    kind = _KIND_OF[key]
    if (kind == "rate") != ("within" in values):
        where = entries["within"].place if "within" in values else place
        raise ConfigError(
            f"{where}: rule {name}: `within` goes with rises_by or falls_by, and they with it"
        )
    subject, _, figure = values["signal"].partition(".")
    if (kind == "drift") != (values["signal"] == "drift.drifted"):
        raise ConfigError(f"{place}: rule {name}: `drifts: true` goes with signal: drift.drifted")
    limit = 0.5 if kind == "drift" else values[key]
    sign = -1 if key in ("below", "falls_by") else 1
    if key == "falls_by":
        limit = -limit
    recover = values.get("recover", limit / 2 if kind == "rate" else limit)
    if sign * recover > sign * limit:
        raise ConfigError(
            f"{entries['recover'].place}: {name}.recover is {recover:g}, on the wrong side of "
            f"{key}: {abs(limit) if kind == 'rate' else limit:g}; a fault would never begin or end"
        )
    for_s = values.get("for", 0.0)
    return Rule(
        name=name,
        subject=subject,
        figure=figure,
        kind=kind,
        sign=sign,
        limit=limit,
        recover_limit=recover,
        within_s=values.get("within", 0.0),
        for_s=for_s,
        recover_for_s=values.get("recover_for", for_s),
        severity=values.get("severity", "warning"),
        only=values.get("only", "*"),
        says=values.get("says", ""),
        origin=origin,
    )
