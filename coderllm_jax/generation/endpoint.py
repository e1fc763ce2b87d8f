"""A remote model as an Answerer: any server that speaks OpenAI's streaming protocol.

    caller's thread                   one thread with an event loop
    submit ───────────► start ──────► task: slot ─► POST ─► event, event, ... ─► end
    poll   ◄─── queue ◄── Delta ◄──────────────────────┘ stamped as it is read
    cancel ───────────► cancel ─────► the stream is closed

Queries with turns go to `/chat/completions`, those with `continues` to `/completions`. Requests
that are sent again stay one query: their waiting is part of its times. What the bytes mean is in
`openai_protocol`.

Covers: HTTP errors, refused and cut connections, time-outs, replies that are no such protocol; each
ends in an answer with finish `error` and one line without credentials.
Does not cover: a server that cuts no stop texts, or whose own defaults (vLLM takes the model's)
set top_k, min_p or a repetition penalty where a query leaves them off.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import logging
import queue
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from coderllm_jax.errors import ConfigError, DataError
from coderllm_jax.generation.openai_protocol import ProtocolError, Reply, request_body
from coderllm_jax.records import Delta, Query
from coderllm_jax.redaction import BLOT, redact

CONNECT_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 5.0
# What passes by itself: too many requests, and a server that is starting or full.
_PASSING = frozenset({429, 503})
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 8.0
# Servers that do not know a field of the body.
_REFUSING = frozenset({400, 422})
_LONGEST_ERROR = 300


class Endpoint:
    """The Answerer over a URL such as `http://localhost:8000/v1`.

    Single-threaded for its caller. timeout_s bounds one query from when it is sent, with all that
    is sent again; retries, how often a 429 or a 503 is. The key is the caller's to read (from a
    variable of the environment); it is neither in `identity` nor in errors.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str | None = None,
        name: str = "endpoint",
        max_in_flight: int = 16,
        timeout_s: float = 300.0,
        retries: int = 4,
    ) -> None:
        """Raises ConfigError for a URL or key that cannot be meant, and without the client."""
        if max_in_flight < 1 or timeout_s <= 0 or retries < 0:
            raise ConfigError(
                f"max_in_flight is {max_in_flight}, timeout_s {timeout_s:g}, retries {retries}; "
                "expected at least 1, more than 0 and at least 0"
            )
        self._url, self._model, self._name = _checked_url(url), model, name
        self._key = _checked_key(api_key)
        self._max_in_flight, self._timeout_s, self._retries = max_in_flight, timeout_s, retries
        self._client = _open_client(self._url, self._key, timeout_s)
        self._slots = asyncio.Semaphore(max_in_flight)
        # Whether the server counts tokens in every chunk when asked; None until it has said.
        self._counts_on_the_way: bool | None = None
        self._deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self._going: dict[str, _Going] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"endpoint-{name}", daemon=True
        )
        self._thread.start()

    @property
    def name(self) -> str:
        """A word for tables and logs."""
        return self._name

    @property
    def identity(self) -> Mapping[str, Any]:
        """URL, model, and how many queries a server may batch, which changes its rounding."""
        return {"url": self._url, "model": self._model, "max_in_flight": self._max_in_flight}

    @property
    def is_idle(self) -> bool:
        """Whether every query's answer has been told."""
        return not self._going

    def submit(self, query: Query) -> None:
        """Takes a query; at most `max_in_flight` are with the server, the others wait in order."""
        assert self._thread.is_alive(), "the endpoint is closed"
        if not query.turns and not query.continues:
            raise DataError(f"query {query.id!r} has neither turns nor a text to be continued")
        if query.id in self._going:
            raise DataError(f"query {query.id!r} is being answered already; give each its own id")
        try:
            "".join(
                [query.continues, *query.stop, *(turn.content for turn in query.turns)]
            ).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"query {query.id!r} has half a surrogate pair, which no text has"
            ) from None
        going = self._going[query.id] = _Going(Reply(query, submitted_s=time.perf_counter()))
        self._loop.call_soon_threadsafe(self._start, going)

    def cancel(self, id: str) -> bool:
        """Closes a query's stream; what it has said so far stays."""
        going = self._going.get(id)
        if going is None or going.reply.finish:
            return False
        self._loop.call_soon_threadsafe(going.cancel)
        return True

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        """What has come since; waits for it up to `timeout_s` while anything is going on."""
        deltas = []
        try:
            if timeout_s > 0 and self._going:
                deltas.append(self._deltas.get(timeout=timeout_s))
            while True:
                deltas.append(self._deltas.get_nowait())
        except queue.Empty:
            pass
        for delta in deltas:
            if delta.answer is not None:
                del self._going[delta.id]
        return deltas

    def close(self) -> None:
        """Cancels what is going on and closes every connection; answers can still be polled."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ----------------------------------------------------------------- in the loop's thread

    def _start(self, going: _Going) -> None:
        going.task = self._loop.create_task(self._ask(going.reply))
        going.task.add_done_callback(lambda task: self._end(going.reply, task))

    async def _ask(self, reply: Reply) -> None:
        async with self._slots:
            reply.started_s = time.perf_counter()
            async with asyncio.timeout(self._timeout_s):
                stream = await self._open_stream(reply)
                async with stream:
                    async for event in stream:
                        if text := reply.read(event, time.perf_counter()):
                            self._deltas.put(Delta(reply.query.id, text))
        try:
            reply.end()
        except ProtocolError as error:
            kind = stream.response.headers.get("content-type", "nothing")
            raise ProtocolError(f"{error} (its type is {kind})") from None

    async def _open_stream(self, reply: Reply) -> Any:
        """The server's event stream for a query, asked for as often as it takes."""
        import openai

        counts = self._counts_on_the_way is not False
        waits = _retry_waits(self._retries)
        while True:
            try:
                stream = await self._post(reply.query, counts_on_the_way=counts)
            except openai.APIStatusError as error:
                if error.status_code in _REFUSING and counts and self._counts_on_the_way is None:
                    counts = False
                    continue
                wait_s = next(waits, None) if error.status_code in _PASSING else None
                if wait_s is None:
                    raise
                wait_s = max(wait_s, _retry_after_s(error.response.headers))
                if time.perf_counter() + wait_s > reply.started_s + self._timeout_s:
                    raise _WaitError(error, wait_s) from None
                await asyncio.sleep(wait_s)
            else:
                self._counts_on_the_way = counts
                return stream

    async def _post(self, query: Query, *, counts_on_the_way: bool) -> Any:
        import openai

        body = request_body(query, self._model, counts_on_the_way=counts_on_the_way)
        # The typed calls of the client make an object of every event, for twice the time.
        return await self._client.post(
            "/completions" if query.continues else "/chat/completions",
            body=body,
            options={"headers": _headers(self._key)},
            cast_to=object,
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )

    def _end(self, reply: Reply, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            reply.break_off("cancelled")
        elif error := task.exception():
            reply.break_off("error", self._line(error))
        self._deltas.put(Delta(reply.query.id, "", reply.answer()))

    def _line(self, error: BaseException) -> str:
        """One line about an error, without credentials, whatever the server put into it."""
        said = redact(f"{self._url}: {_describe(error, self._timeout_s)}")
        if self._key:
            said = said.replace(self._key, BLOT)
        said = " ".join(said.split())
        return said if len(said) <= _LONGEST_ERROR else said[: _LONGEST_ERROR - 1] + "…"

    async def _shut(self) -> None:
        tasks = [going.task for going in self._going.values() if going.task is not None]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._client.close()
                await self._loop.shutdown_asyncgens()


@dataclasses.dataclass
class _Going:
    reply: Reply  # written in the loop's thread only
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        assert self.task is not None, "started by an earlier call of the same loop"
        self.task.cancel()


class _WaitError(Exception):
    """The server asks for more patience than is left of the query's time."""

    def __init__(self, error: Any, wait_s: float) -> None:
        super().__init__(
            f"HTTP {error.status_code}: {_message(error)}; it is to be asked again after "
            f"{wait_s:g} s, which is beyond timeout_s"
        )


def _checked_url(url: str) -> str:
    """The URL without a slash at its end. What may be secret in it is not repeated."""
    expected = "expected http(s)://HOST[:PORT]/v1"
    try:
        parts = urllib.parse.urlsplit(url)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ConfigError(f"the endpoint's url cannot be read; {expected}") from None
    if parts.scheme not in ("http", "https") or not has_host:
        raise ConfigError(f"the endpoint's url has no scheme or host; {expected}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the endpoint's url holds a user, a password or a query; {expected}, and the key in a "
            "variable of the environment"
        )
    return url.rstrip("/")


def _checked_key(key: str | None) -> str:
    key = (key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            "the endpoint's key has characters that no HTTP header carries; expected printable "
            "ASCII without spaces; look at the variable it comes from"
        )
    return key


def _open_client(url: str, key: str, timeout_s: float) -> Any:
    """OpenAI's client, kept from what it would read in the environment by itself."""
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "the package openai is not installed; remote endpoints are asked through it; "
            "pip install openai"
        ) from None
    # It logs a line a request, and at its finest the headers.
    for name in ("openai", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        timeout=openai.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        max_retries=0,
    )


def _headers(key: str) -> dict[str, Any]:
    """Who asks. Left alone the client sends OPENAI_API_KEY and the like to whatever url it has."""
    import openai

    return {
        "Authorization": f"Bearer {key}" if key else openai.Omit(),
        "OpenAI-Organization": openai.Omit(),
        "OpenAI-Project": openai.Omit(),
    }


def _retry_waits(retries: int) -> Iterator[float]:
    for attempt in range(retries):
        yield min(_FIRST_RETRY_S * 2**attempt, _LONGEST_RETRY_S)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """What the server asks for, in seconds or as a date; 0 where it does not."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _describe(error: BaseException, timeout_s: float) -> str:
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return f"no whole answer within {timeout_s:g} s"
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {_message(error)}"
    if isinstance(error, openai.APIConnectionError):
        return f"the connection failed: {_root(error)}; is a server running there?"
    if isinstance(error, openai.APIError):
        return f"the server says: {error.message}"
    if isinstance(error, ProtocolError | _WaitError):
        return str(error)
    return f"the reply is not OpenAI's protocol: {type(error).__name__}: {error}"


def _message(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return str(body or error.message)


def _root(error: BaseException) -> str:
    """What it was in the end: clients wrap the system's error several times."""
    said = str(error)
    cause: BaseException | None = error
    while cause is not None:
        said = str(cause) or said
        cause = cause.__cause__ or cause.__context__
    return said
