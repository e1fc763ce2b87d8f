r"""Plain values as frames: what a candidate's process and its examiner say to each other.

A frame is a length (4 bytes, big-endian) and JSON. JSON's own types stand for themselves; whatever
JSON would lose or change carries a tag:

    [1, "a", None]          [1, "a", null]
    (1, 2)                  {"tuple": [1, 2]}
    {1: 2}                  {"dict": [[1, 2]]}
    b"\x00"                  {"bytes": "00"}
    10**500                 {"int": "0x..."}        (decimal digits cost quadratic time)
    np.arange(2)            {"array": ["<i8", [2], "0000..."]}
    an open file            {"opaque": "TextIOWrapper"}

Only exact plain types come out of `decode`, made anew on this side: nothing that the other side
sends has an `__eq__`, a `__bool__` or a `__hash__` of its own. Subclasses of plain types (Counter,
named tuples, IntEnum) travel as the plain type. Values without a tag arrive as `Opaque`.

Covers: size, depth and malformed frames; each is a WireError. Does not cover: the time and memory
that a large but allowed value costs its reader, which the reader's own limits bound.
"""

from __future__ import annotations

import json
import os
import sys

# Not imported when this runs: every import here is paid for twice in every judgement.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MAX_FRAME_BYTES = 16 * 2**20
MAX_DEPTH = 200
_SMALL_INT = 2**53
_HEADER_BYTES = 4


class WireError(Exception):
    """A value or a frame that does not travel: too large, too deep, or malformed."""


class Opaque:
    """Stands for a value that is not plain. Comparing it is an error: no test passes by one."""

    __slots__ = ("kind",)
    __hash__ = None  # type: ignore[assignment]  # as Python marks what cannot be hashed

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value here")

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"{self!r} is compared with {type(other).__name__}")

    def __repr__(self) -> str:
        return f"<{self.kind}, which is no plain value>"


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as JSON takes it. Values that are not plain become opaque, at any depth."""
    if depth > MAX_DEPTH:
        raise WireError(f"a value is nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    for kind, encode_kind in _ENCODERS:
        if isinstance(value, kind):
            return encode_kind(value, depth + 1)
    return _encode_array(value) or {"opaque": type(value).__name__[:80]}


def decode(value: Any, depth: int = 0) -> Any:
    """The plain value that `encode` was given. Raises WireError for what it never writes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > MAX_DEPTH:
        raise WireError(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, list):
        return [decode(item, depth + 1) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise WireError("a frame holds something that is no tagged value")
    ((tag, content),) = value.items()
    try:
        return _DECODERS[tag](content, depth + 1)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise WireError(f"a malformed {tag[:20]!r}: {error}") from None


def _encode_items(items: Iterable[Any], depth: int) -> list[Any]:
    return [encode(item, depth) for item in items]


def _encode_int(value: int, depth: int) -> Any:
    value = int.__int__(value)
    return value if -_SMALL_INT < value < _SMALL_INT else {"int": hex(value)}


def _encode_dict(value: dict[Any, Any], depth: int) -> Any:
    return {"dict": [[encode(k, depth), encode(v, depth)] for k, v in dict.items(value)]}


# The base class's own methods, so that a subclass travels as what it holds.
_ENCODERS: tuple[tuple[type, Callable[[Any, int], Any]], ...] = (
    (str, lambda value, _: str.__str__(value)),
    (int, _encode_int),
    (float, lambda value, _: float.__float__(value)),
    (list, lambda value, depth: _encode_items(list.__iter__(value), depth)),
    (tuple, lambda value, depth: {"tuple": _encode_items(tuple.__iter__(value), depth)}),
    (dict, _encode_dict),
    (set, lambda value, depth: {"set": _encode_items(set.__iter__(value), depth)}),
    (
        frozenset,
        lambda value, depth: {"frozenset": _encode_items(frozenset.__iter__(value), depth)},
    ),
    (complex, lambda value, _: {"complex": [value.real, value.imag]}),
    (bytes, lambda value, _: {"bytes": bytes.hex(value)}),
    (bytearray, lambda value, _: {"bytearray": bytearray.hex(value)}),
    (
        range,
        lambda value, depth: {"range": _encode_items((value.start, value.stop, value.step), depth)},
    ),
)

_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "int": lambda content, _: int(content, 16),
    "complex": lambda content, _: complex(*map(float, content)),
    "tuple": lambda content, depth: tuple(decode(item, depth) for item in content),
    "set": lambda content, depth: {decode(item, depth) for item in content},
    "frozenset": lambda content, depth: frozenset(decode(item, depth) for item in content),
    "dict": lambda content, depth: {decode(k, depth): decode(v, depth) for k, v in content},
    "bytes": lambda content, _: bytes.fromhex(content),
    "bytearray": lambda content, _: bytearray.fromhex(content),
    "range": lambda content, depth: range(*(decode(item, depth) for item in content)),
    "array": lambda content, _: _decode_array(*content),
    "dtype": lambda content, _: _numpy().dtype(content),
    "opaque": lambda content, _: Opaque(str(content)[:80]),
}


def _encode_array(value: Any) -> Any:
    """Arrays and scalars of NumPy, and JAX's arrays, which NumPy reads; None for the rest."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.dtype):
        return {"dtype": value.str}
    if not isinstance(value, numpy.ndarray | numpy.generic):
        jax = sys.modules.get("jax")
        if jax is None or not isinstance(value, jax.Array):
            return None
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
    array = numpy.asarray(value)
    if array.dtype.kind not in "biufcSU":
        return None
    data = numpy.ascontiguousarray(array).tobytes()
    return {"array": [array.dtype.str, list(array.shape), data.hex()]}


def _decode_array(kind: str, shape: list[int], data: str) -> Any:
    numpy = _numpy()
    dtype = numpy.dtype(kind)
    if dtype.kind not in "biufcSU":
        raise WireError(f"an array of {dtype}, which is no plain number or text")
    array = numpy.frombuffer(bytes.fromhex(data), dtype).reshape(shape)
    return array.copy() if array.shape else array[()]


def _numpy() -> Any:
    """NumPy, where this side was given it; a candidate cannot make it be imported."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise WireError("an array arrived, and these tests do not use NumPy")
    return numpy


class Connection:
    """Frames over a pair of pipes."""

    def __init__(self, read_from: int, write_to: int) -> None:
        self._read_from, self._write_to = read_from, write_to

    def send(self, message: Any) -> None:
        """Writes one frame. Raises WireError where it is too large or too deep."""
        try:
            data = json.dumps(message).encode("ascii")
        except (RecursionError, ValueError) as error:
            raise WireError(f"a value does not travel: {error}") from None
        if len(data) > MAX_FRAME_BYTES:
            raise WireError(f"a value takes {len(data)} bytes, more than {MAX_FRAME_BYTES}")
        data = len(data).to_bytes(_HEADER_BYTES, "big") + data
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_to, view) :]

    def receive(self) -> Any:
        """The next frame. Raises EOFError at the end, WireError for what is no frame."""
        length = int.from_bytes(self._read(_HEADER_BYTES), "big")
        if length > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {length} bytes, more than {MAX_FRAME_BYTES}")
        try:
            return json.loads(self._read(length))
        except (RecursionError, ValueError) as error:
            raise WireError(f"a frame that is no JSON: {error}") from None

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._read_from, min(count, 2**20))
            if not part:
                raise EOFError("the other side is gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
