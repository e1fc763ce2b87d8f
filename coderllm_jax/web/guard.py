"""Who may speak to a page or an endpoint, and how much: one ASGI layer around the application.

    request ──► Host known? ──► Origin ours? ──► token right? ──► body small, and in time? ──► app
                  421             403              401              413, 408
    answer  ◄── security headers on every answer, refusals included ◄──────────────────────────┘

A browser is let in once by `/?token=...`: the answer puts a cookie in the token's place and sends
the browser on to the same address without it. The cookie is a digest of the token, so it outlives
a restart of the server and does not tell the token.

Covers: DNS rebinding (a foreign name in Host), requests that other sites' pages make (Origin),
missing and wrong tokens, bodies that are too large, too slow, or chunked so as not to say their
length, other sites framing or reading the page, and scripts that are not files of ours.
Does not cover: encryption (put a TLS proxy in front), several users with different rights, floods
of connections, and slow request heads, which are `web.server`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import ipaddress
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, NamedTuple

from coderllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# Only files of our own run, and style: nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened at
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?")
_SHORTEST_TOKEN = 16
# A client that is still sending would miss the refusal if its connection were cut at once.
_DRAIN_S = 1.0
# A week; the cookie means nothing once the token is another.
_COOKIE_AGE_S = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Access:
    """What is let in.

    hosts: names that Host may carry, without a port (`localhost`, `::1`, `box.example.com`).
    token: what requests must carry; None lets everyone in who reaches the port.
    max_body_bytes, body_timeout_s: of one request's body, from its first byte to its last.
    open_paths: need no token, such as a health check; Host and Origin are looked at all the same.
    """

    hosts: tuple[str, ...]
    token: str | None
    max_body_bytes: int
    body_timeout_s: float
    open_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is None or re.fullmatch(f"[!-~]{{{_SHORTEST_TOKEN},}}", self.token):
            return
        raise ConfigError(
            f"the token has {len(self.token)} characters; expected {_SHORTEST_TOKEN} or more, "
            'ASCII without spaces; make one: python -c "import secrets; '
            'print(secrets.token_urlsafe())"'
        )


def access_of(
    *,
    host: str,
    hosts: Sequence[str],
    token_variable: str,
    section: str = "",
    max_body_bytes: int,
    body_timeout_s: float,
    open_paths: tuple[str, ...],
) -> Access:
    """Who may ask what listens at `host`: anybody on this machine, or whoever has the token.

    `token_variable` names the environment's variable; `section` is put before the options' names.
    Raises ConfigError where others could ask without a token, or could not ask at all.
    """
    token = os.environ.get(token_variable, "").strip() or None
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"{section}host is {host!r}, which others can reach, and there is no token; set the "
            f"variable {token_variable} to one of {_SHORTEST_TOKEN} characters or more, or "
            f"{section}host=127.0.0.1"
        )
    if host in _EVERYWHERE and not hosts:
        raise ConfigError(
            f"{section}host is {host!r} and {section}hosts is empty; set {section}hosts to the "
            "names and addresses that clients call this server by"
        )
    named = () if host in _EVERYWHERE else (host,)
    return Access(
        (*LOOPBACK_NAMES, *named, *hosts), token, max_body_bytes, body_timeout_s, open_paths
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """The application behind the checks that this module's first lines draw.

    A request's body is read to its end before the application sees it, so no length is taken on
    trust. Refusals are JSON: `{"error": {"message", "type", "param", "code"}}`.
    """
    hosts = frozenset(name.lower().strip("[]") for name in access.hosts)
    cookie = _Cookie.of(access.token) if access.token is not None else None

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":  # no page of ours speaks anything else
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        headers = _headers(scope)
        refusal = _check_host(headers, hosts) or _check_origin(headers)
        if refusal is None and cookie is not None and scope["path"] not in access.open_paths:
            if token := _token_in_query(scope):
                if scope["method"] == "GET" and _are_equal(token, access.token or ""):
                    await _exchange(scope, send, cookie)
                    return
                refusal = _UNAUTHORIZED
            elif not _is_known(headers, access.token or "", cookie):
                refusal = _UNAUTHORIZED
        if refusal is None:
            body = await _read_body(headers, receive, access)
            if isinstance(body, bytes):
                await app(scope, _replay(body, receive), send)
                return
            refusal = body
        if refusal.status:
            await _refuse(refusal, receive, send)

    return guard


class _Refusal(NamedTuple):
    """Why a request goes no further. Status 0: the client is gone, there is nobody to tell."""

    status: int
    message: str
    code: str


_UNAUTHORIZED = _Refusal(
    401,
    "the token is missing or wrong; send 'Authorization: Bearer TOKEN', "
    "or open this page once with ?token=TOKEN",
    "invalid_token",
)
_GONE = _Refusal(0, "", "")


class _Cookie(NamedTuple):
    """What stands for the token in a browser; named by it, for servers that share a host."""

    name: str
    value: str

    @classmethod
    def of(cls, token: str) -> _Cookie:
        digest = hmac.digest(token.encode(), b"coderllm cookie", hashlib.sha256).hex()
        return cls(f"coderllm_{digest[:8]}", digest[8:])


def _check_host(headers: Mapping[str, str], hosts: frozenset[str]) -> _Refusal | None:
    # A page elsewhere may point its own name at this address; its name then stands in Host.
    said = _HOST.fullmatch(headers.get("host", "").lower())
    if said is not None and said["name"].strip("[]") in hosts:
        return None
    return _Refusal(
        421,
        "this host name is not served here; use one that is, or add it to the server's hosts",
        "unknown_host",
    )


def _check_origin(headers: Mapping[str, str]) -> _Refusal | None:
    # Browsers say where a request comes from; programs that say nothing act for their user.
    origin = headers.get("origin")
    if origin is not None:
        scheme = origin.partition("://")[0]
        place = _place(origin)
        is_ours = place is not None and place == _place(f"{scheme}://{headers.get('host', '')}")
    else:  # a link elsewhere may lead here; an image or a script there may not come from here
        is_led_here = headers.get("sec-fetch-mode") == "navigate"
        is_ours = is_led_here or headers.get("sec-fetch-site") != "cross-site"
    if is_ours:
        return None
    return _Refusal(403, "requests from other sites' pages are not answered", "foreign_origin")


def _place(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None


def _token_in_query(scope: Scope) -> str:
    query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return query.get("token", [""])[0]


def _is_known(headers: Mapping[str, str], token: str, cookie: _Cookie) -> bool:
    scheme, _, said = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _are_equal(said.strip(), token):
        return True
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(cookie.name)
    except CookieError:
        return False
    return morsel is not None and _are_equal(morsel.value, cookie.value)


def _are_equal(said: str, expected: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return hmac.compare_digest(said.encode(), expected.encode())


async def _exchange(scope: Scope, send: Send, cookie: _Cookie) -> None:
    query = [
        pair
        for pair in urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"))
        if pair[0] != "token"
    ]
    # Two slashes at the front would be read as another host's name.
    path = "/" + urllib.parse.quote(scope["path"].lstrip("/\\"))
    place = f"{path}?{urllib.parse.urlencode(query)}" if query else path
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    kept = (
        f"{cookie.name}={cookie.value}; Path=/; Max-Age={_COOKIE_AGE_S}; HttpOnly; "
        f"SameSite=Lax{secure}"
    )
    await _answer(send, 303, b"", {"location": place, "set-cookie": kept})


async def _read_body(
    headers: Mapping[str, str], receive: Receive, access: Access
) -> bytes | _Refusal:
    too_large = _Refusal(
        413,
        f"the body is larger than {access.max_body_bytes} bytes; send less",
        "body_too_large",
    )
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > access.max_body_bytes:
        return too_large
    body = bytearray()
    try:
        async with asyncio.timeout(access.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return _GONE
                body += message.get("body", b"")
                if len(body) > access.max_body_bytes:
                    return too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return _Refusal(
            408, f"the body did not arrive within {access.body_timeout_s:g} s", "body_too_slow"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()  # what comes after a body is that the client leaves
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(refusal: _Refusal, receive: Receive, send: Send) -> None:
    said = {
        "message": refusal.message,
        "type": "authentication_error" if refusal.status == 401 else "invalid_request_error",
        "param": None,
        "code": refusal.code,
    }
    extra = {"connection": "close", "content-type": "application/json"}
    if refusal.status == 401:
        extra["www-authenticate"] = "Bearer"
    body = json.dumps({"error": said}).encode()
    if refusal.status != 413:
        await _answer(send, refusal.status, body, extra)
        return
    await _answer(send, refusal.status, body, extra, is_all=False)
    await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def _answer(
    send: Send, status: int, body: bytes, headers: Mapping[str, str], *, is_all: bool = True
) -> None:
    headers = {"content-length": str(len(body))} | dict(headers)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": not is_all})


def _with_headers(send: Send) -> Send:
    """Adds our headers to an answer; only how long it may be kept is left to the application."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            theirs = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.lower().decode("latin-1") not in _HEADERS
            ]
            ours = dict(_HEADERS)
            if not any(name.lower() == b"cache-control" for name, _ in theirs):
                ours["cache-control"] = "no-store"
            raw = [(name.encode(), value.encode()) for name, value in ours.items()]
            message = {**message, "headers": [*theirs, *raw]}
        await send(message)

    return send_with_headers


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name. What is said twice is joined as HTTP does, so it equals neither."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
