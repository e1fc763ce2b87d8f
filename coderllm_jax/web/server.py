"""Serves one ASGI application until it is told to stop, and then lets it finish.

    bind ──► "NAME: http://127.0.0.1:8000/" ──► requests ──► SIGTERM or Ctrl-C
                                                               │ on_drain(): the application turns
                                                               │ new work away, ends what it streams
                                                               ▼ at most drain_s
                                               sockets closed ──► return; a second signal: at once

Who may speak to it is `web.guard`'s; what is answered is the application's.

Covers: a port that is taken, forbidden or free to choose (0), connections that never finish
saying what they want, more connections than are good.
Does not cover: TLS and HTTP/2, which a proxy in front brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from coderllm_jax.errors import ConfigError
from coderllm_jax.redaction import redact

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# From a connection's first byte, or the last answer on it, to the end of the next request's head.
_HEAD_TIMEOUT_S = 10.0
_MAX_HEAD_BYTES = 32 * 1024
_MAX_CONNECTIONS = 512


class HttpServer(uvicorn.Server):
    """A bound server: it holds its port from the start and answers once `run` is called.

    url: where it listens, as a browser on this machine writes it.
    on_drain: awaited after the first signal, while requests are still taken; when it returns, or
    after `drain_s`, no more are.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        drain_s: float = 5.0,
        on_drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._socket = _bind(host, port)
        self.url = _url(self._socket)
        self._drain_s = drain_s
        self._on_drain = on_drain
        self._is_draining = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=_PatientProtocol,
                ws="none",
                lifespan="auto",
                log_config=None,  # whoever uses us says where lines go
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nobody in front was asked for
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers until a signal or `stop`, then drains and returns."""
        super().run(sockets or [self._socket])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As `run`, in a loop that is there already."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets or [self._socket])

    def stop(self) -> None:
        """Drains as a signal would; from any thread. Said again: ends at once."""
        if self._is_draining.is_set():
            self.should_exit = self.force_exit = True
            return
        self._is_draining.set()
        if self._loop is None or self._on_drain is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._start_draining)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals while it serves, and does not raise them again when it has ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start_draining(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        assert self._on_drain is not None
        try:
            with contextlib.suppress(TimeoutError):  # what then still goes on is cut
                async with asyncio.timeout(self._drain_s):
                    await self._on_drain()
        finally:
            self.should_exit = True


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    name: str,
    drain_s: float = 5.0,
    on_drain: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Prints one line, `NAME: URL`, once the port is held, and serves until a signal.

    Raises ConfigError where the address cannot be used.
    """
    server = HttpServer(app, host=host, port=port, drain_s=drain_s, on_drain=on_drain)
    show_bugs()
    print(f"{name}: {server.url}", flush=True)
    server.run()


def show_bugs(clean: Callable[[str], str] = redact) -> None:
    """Our own mistakes go to stderr, `clean`ed; that somebody spoke no HTTP is nobody's news.

    For whoever runs an HttpServer as its process's business: loggers are the process's.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Clean(clean))
    logger = logging.getLogger("uvicorn.error")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.ERROR)
    logger.propagate = False


class _Clean(logging.Formatter):
    """A traceback may quote what was configured, or what was sent."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__("%(message)s")
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        return self._clean(super().format(record))


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"host is {host!r}, which is no address of this machine; use 127.0.0.1"
        ) from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        # A server that has just ended leaves its port in TIME_WAIT.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Taken here, so that two who start at once do not both think that they hold it.
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ConfigError(_why_not(error, host, port)) from error
    bound.setblocking(False)
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not a bind
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _why_not(error: OSError, host: str, port: int) -> str:
    place = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use; stop what listens there, or set port (0: any that is free)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{place} is not allowed to this user; set port to 1024 or above"
    return f"{place}: {error.strerror}; set host to an address of this machine, such as 127.0.0.1"


class _PatientProtocol(H11Protocol):
    """uvicorn's protocol with an end to its patience: a request's head must arrive in time."""

    _head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        is_waiting = self.conn.their_state is h11.IDLE
        if is_waiting and self._head_deadline is None:
            self._head_deadline = self.loop.call_later(_HEAD_TIMEOUT_S, self._give_up)
        elif not is_waiting and self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _give_up(self) -> None:
        self._head_deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
