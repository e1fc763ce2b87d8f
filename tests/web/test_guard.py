"""Who is let in: each check alone, then what an answer carries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.web.guard import POLICY, Access, guarded, is_loopback

TOKEN = "canary-token-0123456789"
OPEN = Access(("localhost", "127.0.0.1", "::1"), None, max_body_bytes=100, body_timeout_s=5)
CLOSED = Access(("localhost",), TOKEN, 100, 5, open_paths=("/health",))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the method, the path and the body; notes that it was reached."""
    message = await receive()
    body = f"{scope['method']} {scope['path']} ".encode() + message["body"]
    headers = [(b"content-type", b"text/plain"), (b"X-Frame-Options", b"ALLOWALL")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ask(
    access: Access,
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "localhost:8000",
    content: Any = None,
    **headers: str,
) -> httpx.Response:
    """One request; header names are written with underscores."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=guarded(echo, access))
        named = {"host": host} | {key.replace("_", "-"): value for key, value in headers.items()}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=named, content=content)

    return asyncio.run(send())


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"]
)
def test_known_hosts_are_let_in(host: str) -> None:
    assert ask(OPEN, host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "localhost.",
        "evil.example@localhost",
        "localhost/x",
        "localhost:80:80",
        "localhost:",
        "localhost, evil.example",
        "127.0.0.2",
        "[::2]",
        "",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert ask(OPEN, host=host).status_code == 421
    assert ask(CLOSED, "/health", host=host, authorization=f"Bearer {TOKEN}").status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://evil.example", 403),
        ("http://localhost:9999", 403),  # another program's page on the same machine
        ("http://127.0.0.1:8000", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:8000.evil.example", 403),
        ("http://localhost:x", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_only_our_own_pages_may_ask(origin: str, status: int, method: str) -> None:
    answer = ask(OPEN, method=method, origin=origin)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_default_ports_are_understood_behind_a_proxy() -> None:
    assert ask(OPEN, host="localhost", origin="https://localhost").status_code == 200
    assert ask(OPEN, host="localhost:443", origin="https://localhost").status_code == 200
    assert ask(OPEN, host="localhost:443", origin="http://localhost").status_code == 403


def test_a_link_elsewhere_may_lead_here_but_not_embed_us() -> None:
    assert ask(OPEN, sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200
    assert ask(OPEN, sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status_code == 403
    assert ask(OPEN, sec_fetch_site="same-origin", sec_fetch_mode="cors").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-token-0123456789"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"cookie": f"coderllm_00000000={TOKEN}"},
        {"cookie": ";;;=\x01"},
    ],
)
def test_without_the_token_nothing_is_told(headers: dict[str, str]) -> None:
    answer = ask(CLOSED, "/secret", **headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_token"
    assert TOKEN not in answer.text
    assert "secret" not in answer.text


def test_the_token_lets_in() -> None:
    assert ask(CLOSED, authorization=f"Bearer {TOKEN}").status_code == 200
    assert ask(CLOSED, authorization=f"bearer {TOKEN}").status_code == 200
    assert ask(CLOSED, "/health").status_code == 200
    assert ask(CLOSED, "/health/x").status_code == 401
    assert ask(CLOSED, "//health").status_code == 401


def test_a_browser_is_let_in_once_by_a_link_and_then_by_its_cookie() -> None:
    answer = ask(CLOSED, f"/run?token={TOKEN}&name=a%20b")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/run?name=a+b"
    kept = answer.headers["set-cookie"]
    assert "HttpOnly" in kept
    assert "SameSite=Lax" in kept
    assert TOKEN not in kept
    assert ask(CLOSED, "/run", cookie=kept.partition(";")[0]).status_code == 200
    name, _, value = kept.partition(";")[0].partition("=")
    for wrong in (value[:-1] + "g", value[:-1], "", TOKEN):
        assert ask(CLOSED, "/run", cookie=f"{name}={wrong}").status_code == 401
    # Another server's cookie, or the same one after the token was changed, is none.
    other = Access(("localhost",), TOKEN + "x", 100, 5)
    assert ask(other, "/run", cookie=kept.partition(";")[0]).status_code == 401


def test_the_link_leads_nowhere_else() -> None:
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example"):
        place = ask(CLOSED, f"http://localhost{path}?token={TOKEN}").headers["location"]
        assert place.startswith("/")
        assert not place.startswith(("//", "/\\")), place
    assert "\n" not in ask(CLOSED, f"/a%0d%0ax:y?token={TOKEN}").headers["location"]


def test_a_wrong_link_is_refused_even_with_the_header() -> None:
    assert ask(CLOSED, "/?token=wrong").status_code == 401
    assert ask(CLOSED, f"/?token={TOKEN}", method="POST").status_code == 401


@pytest.mark.parametrize("token", ["", "short", "fifteen-charact", "with spaces in it", "é" * 20])
def test_a_weak_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="expected 16 or more, ASCII") as caught:
        Access(("localhost",), token, 1, 1)
    assert not token or token not in str(caught.value)


async def chunks(sizes: Iterable[int]) -> Any:
    for size in sizes:
        yield b"x" * size


def test_a_body_of_the_limit_passes_whole() -> None:
    assert ask(OPEN, method="POST", content=b"x" * 100).content == b"POST / " + b"x" * 100
    assert ask(OPEN, method="POST", content=chunks([50, 50])).content == b"POST / " + b"x" * 100


@pytest.mark.parametrize("content", [b"x" * 101, chunks([50, 51]), chunks([101])])
def test_a_larger_body_is_refused(content: Any) -> None:
    answer = ask(OPEN, method="POST", content=content)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def messages(access: Access, received: list[Any], headers: list[Any]) -> list[Any]:
    """What is sent to a client that sends these messages, then nothing more."""
    sent: list[Any] = []

    async def receive() -> Any:
        if received:
            return received.pop(0)
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "scheme": "http"}
    scope["headers"] = [(b"host", b"localhost"), *headers]
    asyncio.run(guarded(echo, access)(scope, receive, send))
    return sent


def test_a_body_that_says_less_than_it_is_is_refused() -> None:
    body = {"type": "http.request", "body": b"x" * 101, "more_body": False}
    assert messages(OPEN, [body], [(b"content-length", b"3")])[0]["status"] == 413


def test_a_slow_body_is_refused() -> None:
    slow = Access(("localhost",), None, max_body_bytes=100, body_timeout_s=0.05)
    first = {"type": "http.request", "body": b"x", "more_body": True}
    assert messages(slow, [first], [])[0]["status"] == 408


def test_a_client_that_left_is_told_nothing() -> None:
    assert messages(OPEN, [{"type": "http.disconnect"}], []) == []


@pytest.mark.parametrize("access", [OPEN, CLOSED])
def test_every_answer_carries_the_headers(access: Access) -> None:
    answer = ask(access)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guarded(echo, OPEN)({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.1", "localhost.example"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
