"""One line of a request log, whoever wrote it, as a Request.

    ours                {"time": 1.7e9, "arm": "rag", "status": 200, "total_s": 2.2, …}
    another server's    {"ts": "2026-11-26T10:00:00Z", "timing": {"latency_ms": 2200}, "code": 200}
                        fields = ("time=ts", "total_s=timing.latency_ms*0.001", "status=code")

Fields that the map does not name are looked for under our own names. What is missing or of another
type is None: not known, and counted nowhere.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.config.monitoring import REQUEST_FIELDS
from coderllm_jax.errors import ConfigError
from coderllm_jax.monitoring.json_files import number

_ENTRY = re.compile(r"\s*(\w+)\s*=\s*([^\s*]+)\s*(?:\*\s*([0-9.eE+-]+)\s*)?")
_MAX_WORD = 80


class Request(NamedTuple):
    """One request. `is_error`: the server's fault; `is_rejected`: turned away, as full.

    is_turned_away: told no before it was begun, for whatever reason; its times are nobody's wait.
    """

    time: float
    arm: str
    model_version: str
    finish: str
    is_answered: bool
    is_error: bool
    is_rejected: bool
    is_turned_away: bool
    prompt_tokens: float | None
    completion_tokens: float | None
    queue_s: float | None
    ttft_s: float | None
    time_per_token_s: float | None
    total_s: float | None
    num_sources: float | None
    retrieval_s: float | None
    top_score: float | None
    mean_logprob: float | None
    refused: bool | None
    judged_score: float | None


class _Place(NamedTuple):
    """Where a field lies, and what its number is multiplied by."""

    keys: tuple[str, ...]
    scale: float


class RequestReader:
    """Reads lines by a field map; raises ConfigError where the map is wrong."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._places = {name: _Place((name,), 1.0) for name in REQUEST_FIELDS}
        for entry in fields:
            name, place = _parse_entry(entry)
            self._places[name] = place

    def read(self, line: bytes) -> Request | None:
        """The request; None where the line is none: no JSON object, or no time in it."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return None
        time = _moment(self._raw(values, "time"), self._places["time"].scale)
        if not isinstance(values, dict) or time is None:
            return None
        status = self._number(values, "status")
        error = self._raw(values, "error")
        finish = self._word(values, "finish")
        is_rejected = status == 429
        is_answered = 200 <= status < 300 if status is not None else not error
        is_error = status >= 500 if status is not None else bool(error)
        if finish in ("error", "deadline"):  # a stream had begun, with the status of a success
            is_answered, is_error = False, True
        elif finish == "cancelled":
            is_answered = False
        refused = self._raw(values, "refused")
        return Request(
            time=time,
            arm=self._word(values, "arm"),
            model_version=self._word(values, "model_version"),
            finish=finish,
            is_answered=is_answered,
            is_error=is_error,
            is_rejected=is_rejected,
            is_turned_away=_is_turned_away(status, finish),
            prompt_tokens=self._number(values, "prompt_tokens"),
            completion_tokens=self._number(values, "completion_tokens"),
            queue_s=self._number(values, "queue_s"),
            ttft_s=self._number(values, "ttft_s"),
            time_per_token_s=self._number(values, "time_per_token_s"),
            total_s=self._number(values, "total_s"),
            num_sources=self._number(values, "num_sources"),
            retrieval_s=self._number(values, "retrieval_s"),
            top_score=self._number(values, "top_score"),
            mean_logprob=self._number(values, "mean_logprob"),
            refused=refused if isinstance(refused, bool) else None,
            judged_score=self._number(values, "judged_score"),
        )

    def _raw(self, values: Any, name: str) -> Any:
        for key in self._places[name].keys:
            values = values.get(key) if isinstance(values, dict) else None
        return values

    def _number(self, values: Any, name: str) -> float | None:
        value = self._raw(values, name)
        if isinstance(value, str):  # some servers write "200"
            try:
                value = float(value)
            except ValueError:
                return None
        known = number(value)
        return None if known is None else number(known * self._places[name].scale)

    def _word(self, values: Any, name: str) -> str:
        value = self._raw(values, name)
        return str(value)[:_MAX_WORD] if isinstance(value, str | int) else ""


def _is_turned_away(status: float | None, finish: str) -> bool:
    """By its status: 499 is a client that left, and 503 may also end what was begun."""
    if status is None:
        return False
    return (400 <= status < 500 and status != 499) or (status == 503 and not finish)


def _parse_entry(entry: str) -> tuple[str, _Place]:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ConfigError(
            f"traffic.fields has {entry!r}; expected ours=theirs, as in total_s=latency_ms*0.001"
        )
    name, keys, scale = match.groups()
    if name not in REQUEST_FIELDS:
        raise ConfigError(
            f"traffic.fields has {entry!r}, and {name!r} is no field of a request"
            f"{did_you_mean(name, REQUEST_FIELDS, default='')}"
        )
    try:
        return name, _Place(tuple(keys.split(".")), float(scale or 1))
    except ValueError:
        raise ConfigError(
            f"traffic.fields has {entry!r}; expected a number after '*', not {scale!r}"
        ) from None


def _moment(value: Any, scale: float) -> float | None:
    """Unix seconds from a number or from ISO 8601; without a zone it is taken as UTC."""
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return moment.timestamp()
    moment_s = number(value)
    return None if moment_s is None else number(moment_s * scale)
