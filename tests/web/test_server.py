"""A served application over real sockets: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import Any

import httpx
import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.web import server as server_module
from coderllm_jax.web.guard import Access, guarded
from coderllm_jax.web.server import HttpServer
from tests.web.served import served, wait_until

ACCESS = Access(("127.0.0.1", "localhost", "::1"), None, max_body_bytes=1000, body_timeout_s=0.3)
PROGRAM = """
import asyncio, sys
from coderllm_jax.web.server import serve
async def app(scope, receive, send):
    if scope["path"] == "/bug":
        raise RuntimeError("canary-0123456789abcdef")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hi"})
async def drain():
    print("draining", flush=True)
    await asyncio.sleep(float(sys.argv[1]))
serve(app, host="127.0.0.1", port=0, name="page", on_drain=drain, drain_s=60)
print("ended", flush=True)
"""


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Says hello; on /slow, bit by bit for as long as the client listens."""
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"bit ", "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def url() -> Any:
    with served(guarded(answer, ACCESS)) as server:
        yield server.url


def connect(url: str) -> socket.socket:
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def exchange(url: str, *pieces: bytes, pause_s: float = 0) -> bytes:
    """What comes back, up to the end of the connection."""
    with connect(url) as client:
        got = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                got += data
        return got


def test_it_answers_and_does_not_say_what_it_is(url: str) -> None:
    got = httpx.get(url)
    assert got.text == "hello"
    assert "server" not in got.headers


def test_a_taken_port_is_one_clear_line(url: str) -> None:
    port = urllib.parse.urlsplit(url).port
    with pytest.raises(ConfigError, match=f"^127.0.0.1:{port} is in use; stop what .*set port"):
        HttpServer(answer, host="127.0.0.1", port=port or 0)


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0: .*; set host to an address of this"):
        HttpServer(answer, host="192.0.2.1", port=0)
    with pytest.raises(ConfigError, match="'no such host', which is no address"):
        HttpServer(answer, host="no such host", port=0)


def test_the_line_names_what_a_browser_can_open() -> None:
    with served(guarded(answer, ACCESS), host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert httpx.get(server.url).text == "hello"


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def test_a_large_body_is_refused_before_it_has_come(url: str) -> None:
    got = exchange(url, HEAD + b"Content-Length: 1000000000\r\n\r\n", b"x" * 100)
    assert got.startswith(b"HTTP/1.1 413")


def test_a_large_body_in_chunks_is_refused(url: str) -> None:
    chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
    got = exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
    assert got.startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_too_much_still_reads_why(url: str) -> None:
    for content in (b"x" * 300_000, iter([b"x" * 100_000] * 3)):
        got = httpx.post(url, content=content)
        assert got.status_code == 413
        assert got.json()["error"]["code"] == "body_too_large"


def test_a_body_longer_than_it_said_does_not_reach_the_application(url: str) -> None:
    got = exchange(url, HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n" + b"x" * 5000)
    assert got.count(b"HTTP/1.1") == 1


def test_a_slow_body_is_refused(url: str) -> None:
    got = exchange(url, HEAD + b"Content-Length: 5\r\n\r\n", *[b"x"] * 4, pause_s=0.15)
    assert got.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000,
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
        HEAD + b"Content-Length: -3\r\n\r\n",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    ],
)
def test_malformed_heads_are_refused(url: str, head: bytes) -> None:
    got = exchange(url, head)
    assert got.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert b"hello" not in got


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, url: str, start: bytes
) -> None:
    monkeypatch.setattr(server_module, "_HEAD_TIMEOUT_S", 0.2)
    assert exchange(url, start) == b""


def test_so_is_one_that_follows_an_answered_request(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(server_module, "_HEAD_TIMEOUT_S", 0.4)
    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got = exchange(url, whole, whole, b"GET", pause_s=0.1)
    assert got.count(b"hello") == 2


def test_a_stream_is_let_finish_and_then_nothing_listens() -> None:
    is_over = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        if scope["path"] == "/slow":
            await is_over.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def drain() -> None:
        is_over.set()

    with served(stream, on_drain=drain) as server, httpx.stream("GET", server.url + "slow") as got:
        pieces = got.iter_bytes()
        assert next(pieces) == b"first "
        server.stop()
        assert b"".join(pieces) == b"last"
        wait_until(lambda: not is_listening(server.url))


def is_listening(url: str) -> bool:
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return False
    return True


def test_requests_are_answered_while_it_drains() -> None:
    asked = threading.Event()

    async def drain() -> None:
        while not asked.is_set():
            await asyncio.sleep(0.01)

    with served(answer, on_drain=drain, drain_s=30) as server:
        server.stop()
        assert httpx.get(server.url).text == "hello"
        asked.set()


def test_what_does_not_end_is_cut() -> None:
    async def drain() -> None:
        await asyncio.sleep(60)

    started_s = time.monotonic()
    with served(answer, on_drain=drain, drain_s=0.2) as server:
        with httpx.stream("GET", server.url + "slow") as got:
            pieces = got.iter_bytes()
            next(pieces)
            server.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                b"".join(pieces)
        wait_until(lambda: not is_listening(server.url))
    assert time.monotonic() - started_s < 20


def start(drain_s: float) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"API_TOKEN": "canary-0123456789abcdef", "PATH": "/usr/bin:/bin"},
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.startswith("page: http://127.0.0.1:"), line
    return process, line.removeprefix("page: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    process, url = start(0.1)
    assert httpx.get(url).text == "hi"
    assert httpx.get(url + "bug").status_code == 500
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "draining\nended\n")
    # The bug is told, and what it quotes of the environment is not.
    assert "RuntimeError" in errors
    assert "canary" not in errors


def test_a_second_signal_ends_it_at_once() -> None:
    process, url = start(50)
    assert httpx.get(url).text == "hi"
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="uvicorn.error")
