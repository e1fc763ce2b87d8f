"""The candidate's process: runs the program under test and hands out plain values.

Nothing here is protected from the program, which shares the process; nothing here needs to be.
What this process sends is taken as what the program answered, right or wrong, and it is never told
what would be right. A call, and a script of tests (see `observations`), from the outside:

    ->  {"call": "add", "args": [1, 2], "kwargs": {}}
    <-  {"value": 3}                                    and {"args": ..., "kwargs": ...} if changed
    <-  {"raised": {"names": ["ValueError", "Exception"], "args": ["no"], "text": "ValueError: no"}}
    <-  {"seen": 0, "values": [3]}  ...  {"end": true}
"""

from __future__ import annotations

import sys

from coderllm_jax.evaluation.inside import startup
from coderllm_jax.evaluation.inside.wire import Connection, decode, encode

# Not imported when this runs: every import here is paid for twice in every judgement.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_TEXT = 500


def main() -> None:
    """Runs the job's program, then serves calls or runs the job's script."""
    job = startup.read_job()
    connection = Connection(job["read_from"], job["write_to"])
    connection.send({"started": True})
    startup.import_libraries(job)
    startup.apply_limits(job["limits"])
    module = type(sys)("program")  # dataclasses and pickle look a class's module up
    sys.modules["program"] = module
    namespace: dict[str, Any] = module.__dict__
    if not _attempt(connection, lambda: _execute(job["program"], namespace)):
        return
    connection.send({"ready": True})
    if "script" in job:
        namespace["__observe__"] = _Observer(connection)
        if _attempt(connection, lambda: _execute(job["script"], namespace, "<tests>")):
            connection.send({"end": True})
        return
    while True:  # until the examiner has its verdict, and this process is killed
        _serve(connection, namespace, connection.receive())


def _execute(source: str, namespace: dict[str, Any], name: str = "<program>") -> None:
    exec(compile(source, name, "exec", dont_inherit=True), namespace)  # noqa: S102 - sandboxed


def _serve(connection: Connection, namespace: dict[str, Any], request: dict[str, Any]) -> None:
    arguments, named = decode(request["args"]), decode(request["kwargs"])
    before = encode([arguments, named])

    def answer() -> None:
        value = namespace[request["call"]](*arguments, **named)
        reply = {"value": encode(value)}
        after = encode([arguments, named])
        if after != before:
            reply["after"] = after
        connection.send(reply)

    _attempt(connection, answer)


def _attempt(connection: Connection, act: Callable[[], None]) -> bool:
    """Whether `act` returned; otherwise what it raised has been sent."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - SystemExit is an answer like any other
        connection.send({"raised": _described(error)})
        return False
    return True


def _described(error: BaseException) -> dict[str, Any]:
    names = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, SyntaxError) and error.filename == "<program>":
        names.insert(0, "syntax")
    try:
        text = str(error)[:_MAX_TEXT]
        arguments = encode(list(error.args))
    except BaseException:  # noqa: BLE001 - the program's own class may do anything
        text, arguments = "", []
    if len(repr(arguments)) > _MAX_TEXT:
        arguments = [text]
    return {"names": names, "args": arguments, "text": text}


class _Observer:
    """Called by the script in place of each assert: sends what the assert would compare."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, number: int, *values: Any) -> None:
        self._connection.send({"seen": number, "values": [encode(value) for value in values]})
