"""Stand-ins for what a test cannot have: a model behind a URL, an answerer, and time itself.

    ScriptedEndpoint   a real HTTP server on loopback that streams OpenAI's protocol from a script
    FakeAnswerer       an Answerer of the same scripts without a network, on a FakeClock
    FakeClock          time that passes only when somebody waits
    FakeNvml           pynvml with a card in it, some of whose figures a driver may not expose
    FakeTpuInfo        tpu_info with chips whose metrics service answers, fails or hangs
    run_unread         a program whose output and errors have lost their reader

A script is a Reply a request, in order; the last one goes on for ever. The chunks of a reply are
(seconds after its service began, text, tokens):

    Reply(chunks=((0.1, "a b", 2), (0.3, " c", 1)), service_s=0.5)

    arrival      service begins      0.1: 2 tokens      0.3: 1 token       0.5: free again
    │  waiting   │                   │                  │ and the end      │
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

from coderllm_jax.errors import DataError
from coderllm_jax.records import Answer, Delta, Finish, Query


class Chunk(NamedTuple):
    """One piece of an answer: when it is sent, its text, and how many tokens that is."""

    at_s: float
    text: str
    num_tokens: int = 1


Fault = Literal["", "cut", "early_end", "event", "html", "hang"]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What one request gets.

    service_s: how long it occupies its place; at least until the last chunk. status: other than
    200, nothing is streamed and `message` is the error. fault, after the chunks: `cut` drops the
    connection, `early_end` ends the stream in good order but unfinished, `event` sends `raw` as an
    event before that, `hang` sends nothing more; `html` is a page instead of a stream. usage: when
    the server counts tokens.
    """

    chunks: tuple[Chunk | tuple[float, str, int], ...] = (Chunk(0.0, "ok"),)
    service_s: float = 0.0
    finish: str = "stop"
    num_prompt_tokens: int = 7
    usage: Literal["", "final", "continuous"] = "continuous"
    status: int = 200
    message: str = "scripted"
    retry_after: str = ""
    fault: Fault = ""
    raw: str = ""

    @property
    def parts(self) -> list[Chunk]:
        """The chunks, named."""
        return [Chunk(*chunk) for chunk in self.chunks]

    @property
    def num_tokens(self) -> int:
        """All that are sent."""
        return sum(chunk.num_tokens for chunk in self.parts)

    @property
    def occupied_s(self) -> float:
        """From the beginning of service to the next one's."""
        return max([self.service_s, *(chunk.at_s for chunk in self.parts)])


Script = Reply | Sequence[Reply] | Callable[[Mapping[str, Any]], Reply]


class _Scripted:
    """Hands out replies in order."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._taken = 0

    def next(self, body: Mapping[str, Any]) -> Reply:
        if isinstance(self._script, Reply):
            return self._script
        if callable(self._script):
            return self._script(body)
        reply = self._script[min(self._taken, len(self._script) - 1)]
        self._taken += 1
        return reply


# ------------------------------------------------------------------------------ over HTTP


@dataclasses.dataclass
class Served:
    """What the server saw of one request. Times are perf_counter's; headers in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    arrived_s: float
    begun_s: float = 0.0
    sent_s: list[float] = dataclasses.field(default_factory=list)  # a chunk each
    ended_s: float = 0.0
    disconnected: bool = False


class ScriptedEndpoint:
    """Serves a script at `url` with `num_places` requests at a time; the others queue in order.

    A context manager. `requests` lists what came, as it came. Refuses fields of the body that are
    in `unknown_fields` with a 400, as strict servers do (dots go into objects).
    """

    def __init__(
        self, script: Script, *, num_places: int = 64, unknown_fields: Sequence[str] = ()
    ) -> None:
        self.requests: list[Served] = []
        self.closing = threading.Event()
        self.unknown_fields = tuple(unknown_fields)
        self._script = _Scripted(script)
        self._lock = threading.Lock()
        self._places = _Places(num_places)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.endpoint = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def admit(self, served: Served) -> tuple[Reply, Callable[[], None]]:
        """The reply of a request that has just come, and a wait for its turn, in one order."""
        with self._lock:
            self.requests.append(served)
            return self._script.next(served.body), self._places.ticket()

    def leave(self) -> None:
        """Frees a place."""
        self._places.leave()


class _Places:
    """Places that are taken strictly in the order in which tickets were drawn."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: collections.deque[threading.Event] = collections.deque()
        self._lock = threading.Lock()

    def ticket(self) -> Callable[[], None]:
        turn = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set()
            else:
                self._waiting.append(turn)
        return lambda: (turn.wait(), None)[1]

    def leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    endpoint: ScriptedEndpoint

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the script."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # A chunk leaves when it is written, not when it has company.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        served = Served(self.path, headers, body, time.perf_counter())
        reply, wait_for_turn = endpoint.admit(served)
        try:
            wait_for_turn()
            served.begun_s = time.perf_counter()
            self._reply(reply, served, body)
            self._until(served.begun_s + reply.occupied_s)
        except OSError:
            served.disconnected = True
            self.close_connection = True
        finally:
            served.ended_s = time.perf_counter()
            endpoint.leave()

    def _reply(self, reply: Reply, served: Served, body: Mapping[str, Any]) -> None:
        unknown = [name for name in self.server.endpoint.unknown_fields if _holds(body, name)]
        if unknown:
            self._error(400, f"Unknown parameter: '{unknown[0]}'.")
        elif reply.status != 200:
            self._until(served.begun_s + reply.service_s)
            self._error(reply.status, reply.message, retry_after=reply.retry_after)
        elif reply.fault == "html":
            self._whole(200, b"<html>It works!</html>", "text/html")
        else:
            self._stream(reply, served, body)

    def _error(self, status: int, message: str, *, retry_after: str = "") -> None:
        error = json.dumps({"error": {"message": message, "type": "scripted"}}).encode()
        headers = {"Retry-After": retry_after} if retry_after else {}
        self._whole(status, error, "application/json", headers)

    def _whole(
        self, status: int, content: bytes, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, reply: Reply, served: Served, body: Mapping[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        is_chat = self.path.endswith("/chat/completions")
        options = body.get("stream_options") or {}
        continuous = reply.usage == "continuous" and bool(options.get("continuous_usage_stats"))
        sent = 0

        def usage() -> dict[str, int]:
            prompt = reply.num_prompt_tokens
            return {
                "prompt_tokens": prompt,
                "completion_tokens": sent,
                "total_tokens": prompt + sent,
            }

        def event(choice: dict[str, Any] | None, *, counts: bool) -> dict[str, Any]:
            kind = "chat.completion.chunk" if is_chat else "text_completion"
            common = {"id": "scripted", "object": kind, "created": 0, "model": body["model"]}
            choices = [] if choice is None else [choice]
            return {**common, "choices": choices, "usage": usage() if counts else None}

        if is_chat:  # as OpenAI and vLLM begin: a role, and no token
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            self._event(event({**first, "finish_reason": None}, counts=continuous))
        for chunk in reply.parts:
            self._until(served.begun_s + chunk.at_s)
            sent += chunk.num_tokens
            content = {"delta": {"content": chunk.text}} if is_chat else {"text": chunk.text}
            choice = {"index": 0, **content, "finish_reason": None}
            if body.get("logprobs"):
                choice["logprobs"] = _logprobs(chunk, is_chat=is_chat)
            served.sent_s.append(time.perf_counter())
            self._event(event(choice, counts=continuous))
        if self._failed(reply):
            return
        end = {"delta": {}} if is_chat else {"text": ""}
        self._event(event({"index": 0, **end, "finish_reason": reply.finish}, counts=continuous))
        if reply.usage and options.get("include_usage"):
            self._event(event(None, counts=True))
        self._send(b"data: [DONE]\n\n")
        self._send(b"")

    def _failed(self, reply: Reply) -> bool:
        if reply.fault == "cut":
            self.wfile.write(b"1000\r\ndata: {")  # a chunk of 4096 bytes, of which seven come
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif reply.fault == "hang":
            self.server.endpoint.closing.wait()
            self.close_connection = True
        elif reply.fault:
            if reply.fault == "event":
                self._send(f"data: {reply.raw}\n\n".encode())
            self._send(b"")
        return bool(reply.fault)

    def _event(self, content: Mapping[str, Any]) -> None:
        self._send(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _send(self, data: bytes) -> None:
        """One chunk of HTTP's chunked encoding; an empty one ends the body."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _until(self, moment_s: float) -> None:
        while (left := moment_s - time.perf_counter()) > 0:
            if self.server.endpoint.closing.wait(left):
                raise ConnectionAbortedError("the endpoint is closing")


def _holds(body: Mapping[str, Any], name: str) -> bool:
    value: Any = body
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _logprobs(chunk: Chunk, *, is_chat: bool) -> dict[str, Any]:
    """Token ids 0, 1, ... as vLLM writes them when it is told to name ids."""
    names = [f"token_id:{index}" for index in range(chunk.num_tokens)]
    if not is_chat:
        return {
            "tokens": names,
            "token_logprobs": [-0.5] * len(names),
            "top_logprobs": [{name: -0.5, "other": -1.5} for name in names],
        }
    others = [{"token": "other", "logprob": -1.5, "bytes": None}]
    return {
        "content": [
            {
                "token": name,
                "logprob": -0.5,
                "bytes": None,
                "top_logprobs": [{"token": name, "logprob": -0.5, "bytes": None}, *others],
            }
            for name in names
        ]
    }


# ------------------------------------------------------------------------- without a network


class FakeClock:
    """Time that passes only when somebody waits."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._now_s = now_s

    def now(self) -> float:
        """Seconds, from an arbitrary beginning."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Passes time: at least the least that a float can show, or waiting would never end."""
        assert seconds >= 0
        self._now_s = max(self._now_s + seconds, math.nextafter(self._now_s, math.inf))

    def advance_to(self, moment_s: float) -> None:
        """Passes time until `moment_s`, if that is not over yet."""
        self._now_s = max(self._now_s, moment_s)


@dataclasses.dataclass
class _Going:
    query: Query
    reply: Reply
    submitted_s: float
    begun_s: float = 0.0
    text: str = ""
    told: int = 0  # chunks
    num_tokens: int = 0
    num_first: int = 1
    first_s: float = 0.0


class FakeAnswerer:
    """An Answerer by script: `num_places` queries at a time, exact in time, no threads.

    Replies with a status other than 200 end as errors, `hang` never ends, any other fault ends as
    an error after the chunks. poll_s: how long every poll with work takes at least, as a step of
    an engine does. refused: ids (as submitted) that `submit` refuses with DataError.
    """

    name = "fake"

    def __init__(
        self,
        clock: FakeClock,
        script: Script,
        *,
        num_places: int = 1,
        poll_s: float = 0.0,
        refuses: Callable[[Query], bool] = lambda query: False,
    ) -> None:
        self.clock = clock
        self.identity: Mapping[str, Any] = {"fake": True}
        self.most_going = 0
        self.queries: list[Query] = []
        self._script = _Scripted(script)
        self._num_places, self._poll_s, self._refuses = num_places, poll_s, refuses
        self._waiting: collections.deque[_Going] = collections.deque()
        self._going: list[_Going] = []
        self._busy_until: list[float] = []  # places that are occupied beyond their answer
        self._untold: list[Delta] = []

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._going or self._untold)

    def submit(self, query: Query) -> None:
        if self._refuses(query):
            raise DataError(f"query {query.id} is refused, as scripted")
        self._untold += self._due()  # what came before it
        self.queries.append(query)
        going = _Going(query, self._script.next({"prompt": query.question}), self.clock.now())
        self._waiting.append(going)
        self.most_going = max(self.most_going, len(self._waiting) + len(self._going))
        self._admit(self.clock.now())

    def cancel(self, id: str) -> bool:
        self._untold += self._due()
        for going in [*self._waiting, *self._going]:
            if going.query.id == id:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(going)
                with contextlib.suppress(ValueError):
                    self._going.remove(going)
                self._untold.append(self._end(going, "cancelled", "", self.clock.now()))
                self._admit(self.clock.now())
                return True
        return False

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        if self.is_idle:
            return []
        deadline = self.clock.now() + max(timeout_s, self._poll_s)
        if self._poll_s:
            self.clock.sleep(self._poll_s)
        deltas, self._untold = self._untold, []
        while not deltas:
            moment = self._next_moment()
            if moment is None or moment > deadline:
                self.clock.sleep(max(deadline - self.clock.now(), 0.0))
                break
            self.clock.advance_to(moment)
            deltas += self._due()
        return deltas + self._due()

    def close(self) -> None:
        for going in [*self._waiting, *self._going]:
            self.cancel(going.query.id)

    def _admit(self, now: float) -> None:
        """Gives places that are free at `now`, a moment of the script, to those who wait."""
        self._busy_until = [moment for moment in self._busy_until if moment > now]
        while self._waiting and len(self._going) + len(self._busy_until) < self._num_places:
            going = self._waiting.popleft()
            going.begun_s = max(now, going.submitted_s)
            self._going.append(going)

    def _moment_of(self, going: _Going) -> float | None:
        """When something of it is due next; None where nothing ever is."""
        parts = going.reply.parts if going.reply.status == 200 else []
        if going.told < len(parts):
            return going.begun_s + parts[going.told].at_s
        if going.reply.fault == "hang":
            return None
        if parts:
            return going.begun_s + parts[-1].at_s
        return going.begun_s + going.reply.service_s

    def _next_moment(self) -> float | None:
        moments = [moment for going in self._going if (moment := self._moment_of(going))]
        return min([*moments, *(self._busy_until if self._waiting else [])], default=None)

    def _due(self) -> list[Delta]:
        deltas = []
        while (moment := self._next_moment()) is not None and moment <= self.clock.now():
            due = [going for going in self._going if self._moment_of(going) == moment]
            deltas += [self._move(going, moment) for going in due]
            self._admit(moment)
        return deltas

    def _move(self, going: _Going, moment: float) -> Delta:
        """The chunk that is due; with the last one, the end."""
        reply, text = going.reply, ""
        parts = reply.parts if reply.status == 200 else []
        if going.told < len(parts):
            chunk = parts[going.told]
            if not going.told:
                going.first_s, going.num_first = moment, chunk.num_tokens
            going.told += 1
            going.num_tokens += chunk.num_tokens
            going.text += (text := chunk.text)
            if going.told < len(parts) or reply.fault == "hang":
                return Delta(going.query.id, text)
        self._going.remove(going)
        if (free_s := going.begun_s + reply.occupied_s) > moment:
            self._busy_until.append(free_s)
        if reply.status != 200 or reply.fault:
            return self._end(going, "error", f"scripted {reply.fault or reply.status}", moment)
        finish: Finish = "length" if reply.finish == "length" else "stop"
        return self._end(going, finish, "", moment, text)

    def _end(
        self, going: _Going, finish: Finish, error: str, moment: float, text: str = ""
    ) -> Delta:
        answer = Answer(
            going.query.id,
            going.text,
            finish,
            num_prompt_tokens=going.reply.num_prompt_tokens,
            num_new_tokens=going.num_tokens,
            num_first_tokens=going.num_first,
            submitted_s=going.submitted_s,
            started_s=going.begun_s,
            first_token_s=going.first_s,
            finished_s=moment,
            error=error,
        )
        return Delta(going.query.id, text, answer)


# ------------------------------------------------------------------------- without a device


class FakeNvml:
    """What `monitoring.accelerators` calls of pynvml. hidden: functions that raise NotSupported."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, num_cards: int = 1, hidden: Sequence[str] = (), starts: bool = True):
        self.num_cards, self.hidden, self.starts = num_cards, set(hidden), starts
        self.temperature_c = 61
        self.reasons = 0
        self.num_shutdowns = 0

    class NotSupportedError(Exception):
        """As a driver says it."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet") and name in object.__getattribute__(self, "hidden"):
            return self._refuse
        return object.__getattribute__(self, name)

    def _refuse(self, *arguments: object) -> Any:
        raise self.NotSupportedError("Not Supported")

    def nvmlInit(self) -> None:
        if not self.starts:
            raise OSError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        self.num_shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:
        return self.num_cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Fake H{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return types.SimpleNamespace(gpu=93, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return types.SimpleNamespace(used=60 << 30, total=80 << 30, free=20 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 412_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self.temperature_c

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons


class FakeTpuInfo:
    """What `monitoring.accelerators` calls of tpu_info; `answer` is called by every question."""

    def __init__(self, answer: Callable[[], Sequence[Any]], *, num_chips: int = 2) -> None:
        self.device = types.SimpleNamespace(get_local_chips=lambda: ("TPU v5e chip", num_chips))
        self.metrics = types.SimpleNamespace(get_chip_usage=lambda chip: answer())

    @staticmethod
    def usage(index: int) -> Any:
        """One chip's figures, as tpu_info gives them."""
        return types.SimpleNamespace(
            device_id=index, memory_usage=4 << 30, total_memory=16 << 30, duty_cycle_pct=87.5
        )


def run_unread(program: str) -> int:
    """The exit code of a Python program whose output and errors nobody reads."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as pipe:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, stdout=pipe, stderr=pipe, check=False
        )
    return done.returncode
