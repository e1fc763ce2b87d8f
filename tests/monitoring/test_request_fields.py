"""Lines of our own log and of other servers' by a field map."""

from __future__ import annotations

import json

import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.monitoring.request_fields import RequestReader
from coderllm_jax.serving.request_log import RequestRecord
from tests.monitoring.watched import request


def read(values, fields=()):
    return RequestReader(fields).read(json.dumps(values).encode())


def test_a_line_that_our_server_wrote():
    record = RequestRecord(
        time=10.5, id="x", arm="rag", completion_tokens=7, total_s=2.0, num_sources=3, top_score=0.5
    )
    found = RequestReader(()).read(record.as_line())
    assert (found.time, found.arm, found.completion_tokens) == (10.5, "rag", 7.0)
    assert (found.total_s, found.ttft_s, found.top_score) == (2.0, None, 0.5)
    assert (found.is_answered, found.is_error, found.is_rejected, found.refused) == (
        True,
        False,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("changes", "answered", "error", "rejected"),
    [
        ({}, True, False, False),
        ({"status": 500}, False, True, False),
        ({"status": 504, "finish": "deadline"}, False, True, False),
        ({"status": 429}, False, False, True),
        ({"status": 400}, False, False, False),
        ({"status": 499, "finish": "cancelled"}, False, False, False),
        ({"status": 200, "finish": "error"}, False, True, False),
        ({"status": 200, "finish": "cancelled"}, False, False, False),
        ({"status": None, "error": "boom"}, False, True, False),
        ({"status": None, "error": ""}, True, False, False),
        ({"status": "503"}, False, True, False),
    ],
)
def test_whose_fault_it_was(changes, answered, error, rejected):
    found = read(request(1.0, **changes))
    assert (found.is_answered, found.is_error, found.is_rejected) == (answered, error, rejected)


@pytest.mark.parametrize(
    ("changes", "turned_away"),
    [
        ({}, False),
        ({"status": 429, "finish": ""}, True),
        ({"status": 400, "finish": ""}, True),
        ({"status": 503, "finish": ""}, True),
        ({"status": 503, "finish": "cancelled"}, False),
        ({"status": 499, "finish": "cancelled"}, False),
        ({"status": 504, "finish": ""}, False),
        ({"status": 500, "finish": "error"}, False),
        ({"status": None, "error": "boom"}, False),
    ],
)
def test_who_was_turned_away(changes, turned_away):
    assert read(request(1.0, **changes)).is_turned_away == turned_away


def test_another_servers_log():
    fields = (
        "time=ts",
        "total_s = timing.latency_ms * 0.001",
        "status=http.code",
        "completion_tokens=usage.completion_tokens",
    )
    found = read(
        {
            "ts": "2026-11-26T10:00:00.5Z",
            "timing": {"latency_ms": 2200},
            "http": {"code": 200},
            "usage": {"completion_tokens": 5},
        },
        fields,
    )
    assert found.time == 1795687200.5
    assert found.total_s == pytest.approx(2.2)
    assert found.completion_tokens == 5.0
    assert found.is_answered
    assert found.refused is None


@pytest.mark.parametrize(
    ("value", "scale", "seconds"),
    [(1795687200500, "*0.001", 1795687200.5), ("2026-11-26T10:00:00+01:00", "", 1795683600.0)],
)
def test_times(value, scale, seconds):
    assert read({"time": value}, (f"time=time{scale}",)).time == pytest.approx(seconds)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no",
        b"[]",
        b"3",
        b"{}",
        b'{"time": null}',
        b'{"time": "soon"}',
        b'{"time": true}',
        b'{"time": 1e999}',
        b'{"time": NaN}',
        b"[" * 100_000,
        b'{"time": 1',
    ],
)
def test_what_is_no_request(line):
    assert RequestReader(()).read(line) is None


def test_figures_of_other_types_are_not_known():
    found = read({"time": 1, "total_s": "fast", "prompt_tokens": True, "ttft_s": [], "arm": {}})
    assert (found.total_s, found.prompt_tokens, found.ttft_s, found.arm) == (None, None, None, "")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("total_s", "expected ours=theirs"),
        ("totl_s=x", "did you mean 'total_s'"),
        ("total_s=x*1.2.3", "expected a number after '*'"),
    ],
)
def test_a_wrong_map_ends_in_one_line(entry, message):
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        RequestReader((entry,))
