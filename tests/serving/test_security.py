"""Who may not ask, what may not be sent, and what must be nowhere: raw sockets and canaries."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coderllm_jax.web.guard import LOOPBACK_NAMES, Access
from tests.serving.running import running
from tests.web.served import wait_until

TOKEN = "canary-token-0123456789abcdef"
KEY = "sk-" + "proj-4f9aB7cD2eF6gH8iJ0kL"
ACCESS = Access(LOOPBACK_NAMES, TOKEN, 4096, 0.5, ("/health", "/ready"))
GOOD = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SERVE_TOKEN", TOKEN)
    with running(folder=tmp_path_factory.mktemp("log"), access=ACCESS, keeps_text=True) as up:
        yield up
    patch.undo()


def ask(server: Any, content: str = "hi", **headers: str) -> httpx.Response:
    body = {"model": "base", "messages": [{"role": "user", "content": content}], "max_tokens": 2}
    return httpx.post(f"{server.url}v1/chat/completions", json=body, headers={**GOOD, **headers})


def test_who_has_the_token_and_the_right_host_is_answered(server: Any) -> None:
    assert ask(server).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer wrong-token-0123456789abcdef"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data"}, 415),
    ],
)
def test_who_is_turned_away(server: Any, headers: dict[str, str], status: int) -> None:
    answer = ask(server, **headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["v1/models", "metrics", "", "page.js", "v1/models/base"])
def test_everything_but_health_needs_the_token(server: Any, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 401
    assert httpx.get(server.url + path, headers=GOOD).status_code == 200
    for open_path in ("health", "ready"):
        assert httpx.get(server.url + open_path).status_code == 200


def test_large_bodies(server: Any) -> None:
    assert ask(server, "x" * 5000).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    answer = httpx.post(f"{server.url}v1/completions", content=chunks(), headers=GOOD)
    assert answer.status_code == 413


def test_a_slow_body_is_given_up_and_others_are_answered_meanwhile(server: Any) -> None:
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\n{head}"
            "content-length: 100\r\n\r\n{".encode()
        )
        assert ask(server).status_code == 200
        slow.settimeout(10)
        assert b" 408 " in slow.recv(4096)


def test_a_reader_that_stops_reading_holds_up_nobody(server: Any) -> None:
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    body = json.dumps({"model": "base", "prompt": "x", "max_tokens": 100, "stream": True, "n": 4})
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    with socket.create_connection((host, int(port))) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.sendall(
            f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\n{head}"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        started = time.monotonic()
        assert ask(server).status_code == 200
        assert time.monotonic() - started < 20
    wait_until(lambda: server.service.desk.is_idle)


def test_canaries_are_in_no_log_metric_error_or_page(
    server: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said = f"my key is {KEY} and my token {TOKEN}"
    seen: list[str] = []
    for answer in (
        ask(server, said),
        ask(server, said * 60),
        httpx.post(f"{server.url}v1/{KEY}", headers=GOOD),
        httpx.get(f"{server.url}v1/models/{KEY}", headers=GOOD),
        httpx.post(
            f"{server.url}v1/completions",
            headers=GOOD,
            json={"model": KEY, "prompt": said, KEY: 1, "stop": [3, TOKEN]},
        ),
        httpx.post(f"{server.url}v1/completions", headers=GOOD, json={"model": "base", KEY: TOKEN}),
        httpx.post(f"{server.url}v1/completions", headers=GOOD, content=said),
        httpx.get(f"{server.url}metrics", headers=GOOD),
        httpx.get(server.url, headers=GOOD),
        httpx.get(f"{server.url}?token={TOKEN}x"),
    ):
        # A model may repeat what it was asked; everything else may not.
        seen.append("" if answer.status_code == 200 and "choices" in answer.text else answer.text)
        seen.append(str(answer.headers))
    assert server.log is not None
    log: Path = server.log
    wait_until(lambda: "my key is ***" in log.read_text())
    captured = capfd.readouterr()
    for text in (*seen, log.read_text(), caplog.text, captured.out, captured.err):
        assert KEY not in text
        assert TOKEN not in text
        assert KEY[8:] not in text
