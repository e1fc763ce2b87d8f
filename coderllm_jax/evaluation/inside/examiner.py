"""The examiner's process: runs the tests, with the candidate's answers as plain values.

It stands in a sandbox of its own: the tests come from data files, and whatever a hostile reply does
to the reader, it does to this process only. Its verdict is one JSON object on a pipe that the
candidate's process never had:

    {"verdict": "passed"}
    {"verdict": "failed", "cause": "wrong answer", "reason": "assert add(1, 1) == 2"}
    {"verdict": "error", "cause": "exception", "reason": "ValueError: ..."}     (syntax, memory)
    {"verdict": "ended"}       the candidate's process is gone: how, its exit code says
    {"verdict": "unstarted"}   it never came so far as to read its program

A line feed comes first, when this process has begun.
"""

from __future__ import annotations

import builtins
import json
import os
import sys

from coderllm_jax.evaluation.inside import startup
from coderllm_jax.evaluation.inside.wire import Connection, WireError, decode, encode

# Not imported when this runs: every import here is paid for twice in every judgement.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_MAX_TEXT = 300
# Exceptions that end a process rather than answer a call; the tests must not see them as such.
_ENDING = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")


class CandidateError(Exception):
    """What the candidate raised is no ordinary exception, or its reply is no plain value."""


class CandidateEnded(BaseException):
    """The candidate's process is gone; a BaseException, so that no test's `except` swallows it."""


class Candidate:
    """The program under test, seen through the pipes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.last_raised: BaseException | None = None
        self.cause = "exception"

    def receive(self) -> dict[str, Any]:
        """The next message; raises what the candidate raised."""
        self.cause = "exception"
        try:
            message = self._connection.receive()
        except (EOFError, ConnectionError):
            raise CandidateEnded from None
        except WireError as error:
            raise self._remember(CandidateError(str(error))) from None
        if not isinstance(message, dict):
            raise self._remember(CandidateError("a reply that is no message"))
        if "raised" in message:
            raise self._remember(self._rebuilt(message["raised"]))
        return message

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the candidate's `name` returns; arguments that it changed are changed here too."""
        request = {"call": name, "args": encode(list(args)), "kwargs": encode(kwargs)}
        try:
            self._connection.send(request)
        except ConnectionError:
            raise CandidateEnded from None
        try:
            reply = self.receive()
            if "after" in reply:
                after_args, after_kwargs = decode(reply["after"])
                for before, after in zip(args, after_args, strict=True):
                    _overwrite(before, after)
                for key, before in kwargs.items():
                    _overwrite(before, after_kwargs[key])
            return decode(reply["value"])
        except (WireError, TypeError, ValueError, KeyError) as error:
            if error is self.last_raised:
                raise
            raise self._remember(CandidateError(f"no plain reply: {error}")) from None

    def _rebuilt(self, raised: Any) -> BaseException:
        """A built-in exception like the one described, its nearest built-in base, or our own."""
        try:
            names, args = [str(name) for name in raised["names"]], decode(raised["args"])
            name = names[names[0] == "syntax"]
            text = str(raised["text"])[:_MAX_TEXT]
        except (WireError, TypeError, LookupError, ValueError):
            return CandidateError("an exception that cannot be described")
        self.cause = "memory" if "MemoryError" in names else "exception"
        if names[0] == "syntax":
            self.cause = "syntax"
        described = f"{name}: {text}" if text else name
        if self.cause == "syntax" or not set(names).isdisjoint(_ENDING):
            return CandidateError(described)
        for name in names:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    error = kind(*args)
                except Exception:  # noqa: BLE001 - e.g. UnicodeDecodeError with other arguments
                    error = CandidateError(described)
                error.add_note(described)
                return error
        return CandidateError(described)

    def _remember(self, error: BaseException) -> BaseException:
        self.last_raised = error
        return error


def main() -> None:
    """Runs the job's tests and writes the verdict."""
    job = startup.read_job()
    os.write(job["verdict_to"], b"\n")
    candidate = Candidate(Connection(job["read_from"], job["write_to"]))
    startup.import_libraries(job)
    startup.apply_limits(job["limits"])
    _seed_random(job)
    try:
        verdict = _judge(job, candidate)
    except BaseException as error:  # noqa: BLE001 - tests raise whatever they like
        verdict = _explained(error, candidate, job.get("tests", ""))
    os.write(job["verdict_to"], json.dumps(verdict).encode("ascii"))
    os._exit(0)  # values of the tests need no tidy end


def _seed_random(job: dict[str, Any]) -> None:
    """The same inputs every time, where tests draw them."""
    if "random" in job.get("tests", ""):
        import random

        random.seed(0)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)


def _judge(job: dict[str, Any], candidate: Candidate) -> dict[str, str]:
    try:
        candidate.receive()  # "started"
    except CandidateEnded:
        return {"verdict": "unstarted"}
    candidate.receive()  # "ready": the program has run and defined what it defines
    if "checks" in job:
        return _follow(job["checks"], candidate)
    name = job["entry_point"]

    def proxy(*args: Any, **kwargs: Any) -> Any:
        return candidate.call(name, args, kwargs)

    proxy.__name__ = name
    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(compile(job["prompt"], "<prompt>", "exec"), namespace)  # noqa: S102 - sandboxed
    # The prompt's helpers are the prompt's; its own unfinished function is the candidate's.
    namespace[name] = proxy
    exec(compile(job["tests"], "<tests>", "exec"), namespace)  # noqa: S102 - sandboxed
    namespace["check"](proxy)
    return {"verdict": "passed"}


def _follow(checks: dict[str, Any], candidate: Candidate) -> dict[str, str]:
    """Compares what the candidate's script observed with what only this process knows.

    `checks`: {"setup": imports, "asserts": [[expression, source, is_top_level], ...]}.
    """
    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(checks["setup"], namespace)  # noqa: S102 - sandboxed
    asserts = [(compile(e, "<tests>", "eval"), s, top) for e, s, top in checks["asserts"]]
    due = [number for number, (_, _, is_top_level) in enumerate(asserts) if is_top_level]
    while "end" not in (message := candidate.receive()):
        number, values = message["seen"], decode(message["values"])
        expression, source, is_top_level = asserts[number]
        if is_top_level and number != due.pop(0):
            return _cut_short("the tests did not run in their order")
        namespace["seen"] = values
        if not eval(expression, namespace):  # noqa: S307 - sandboxed
            return _wrong(source)
    if due:
        return _cut_short("the tests did not run to their end")
    return {"verdict": "passed"}


def _cut_short(reason: str) -> dict[str, str]:
    return {"verdict": "error", "cause": "exit", "reason": reason}


def _explained(error: BaseException, candidate: Candidate, tests: str) -> dict[str, str]:
    if isinstance(error, CandidateEnded):
        return {"verdict": "ended"}
    try:
        text = str(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001 - a number of a million digits has no text
        text = ""
    if error is candidate.last_raised:
        notes = getattr(error, "__notes__", None)
        reason = notes[0] if notes else text
        return {"verdict": "error", "cause": candidate.cause, "reason": reason}
    if isinstance(error, AssertionError):
        return _wrong(text or _failing_line(error.__traceback__, tests))
    return _wrong(f"in the tests, {type(error).__name__}: {text}")


def _wrong(reason: str) -> dict[str, str]:
    return {"verdict": "failed", "cause": "wrong answer", "reason": reason[:_MAX_TEXT]}


def _failing_line(trace: TracebackType | None, tests: str) -> str:
    """The innermost line of the tests that the exception passed through."""
    line = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = tests.split("\n")[trace.tb_lineno - 1].strip()
        trace = trace.tb_next
    return line[:_MAX_TEXT]


def _overwrite(before: Any, after: Any) -> None:
    """Gives the mutable value `before` the content of `after`, as the call did over there."""
    if isinstance(before, list | bytearray) and type(before) is type(after):
        before[:] = after
    elif isinstance(before, dict | set) and type(before) is type(after):
        before.clear()
        before.update(after)
    elif isinstance(before, tuple) and isinstance(after, tuple):
        for inner_before, inner_after in zip(before, after, strict=True):
            _overwrite(inner_before, inner_after)
