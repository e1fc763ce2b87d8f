"""Values between candidate and examiner: whole, plain, and never more than was asked for."""

from __future__ import annotations

import collections
import enum
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.evaluation.inside.wire import (
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    Connection,
    Opaque,
    WireError,
    decode,
    encode,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**600), max_value=2**600)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
hashable = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=3)
        | st.binary().map(bytearray)
    ),
    max_leaves=12,
)


def travelled(value):
    return decode(json.loads(json.dumps(encode(value))))


def types_of(value) -> list:
    """A value's type and those of its parts; sets and dictionaries have no order."""
    if isinstance(value, dict):
        return [dict, *sorted(map(types_of, value.items()), key=repr)]
    if isinstance(value, set | frozenset):
        return [type(value), *sorted(map(types_of, value), key=repr)]
    if isinstance(value, list | tuple):
        return [type(value), *map(types_of, value)]
    return [type(value)]


@given(values)
def test_plain_values_arrive_as_they_are(value):
    arrived = travelled(value)
    assert arrived == value
    assert types_of(arrived) == types_of(value)


def test_what_equality_does_not_see():
    assert math.isnan(travelled(float("nan")))
    assert math.copysign(1, travelled(-0.0)) == -1
    assert travelled(math.inf) == math.inf
    assert travelled("\ud800") == "\ud800"
    assert travelled(range(3, 9, 2)) == range(3, 9, 2)
    assert type(travelled(True)) is bool
    assert type(travelled({1: (2,)})[1]) is tuple


class EqualToEverything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


class EqualList(list):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


class Colour(enum.IntEnum):
    RED = 3


def test_subclasses_arrive_as_what_they_hold():
    point = collections.namedtuple("Point", "x y")(1, 2)
    for value, plain in (
        (EqualList([1]), [1]),
        (Colour.RED, 3),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (point, (1, 2)),
        (np.float64(0.5), 0.5),
    ):
        arrived = travelled(value)
        assert arrived == plain
        assert type(arrived) is type(plain)


def test_what_is_not_plain_is_no_test_s_friend():
    arrived = travelled([EqualToEverything(), lambda: None])
    assert [type(item) for item in arrived] == [Opaque, Opaque]
    for look in (bool, lambda v: v == 1, lambda v: v != 1, lambda v: v < 1, hash):
        with pytest.raises(TypeError):
            look(arrived[0])


def test_arrays_arrive_with_type_and_shape():
    for array in (np.arange(6, dtype=np.int32).reshape(2, 3), np.array([]), np.array(["a", "bc"])):
        arrived = travelled(array)
        assert arrived.dtype == array.dtype
        assert np.array_equal(arrived, array)
    assert travelled(np.int64(7)) == 7
    assert travelled(np.dtype("int32")) == np.int32
    assert type(travelled(np.array([object()], dtype=object))) is Opaque


@pytest.mark.parametrize(
    "hostile",
    [
        {"tuple": 3},
        {"tuple": [], "list": []},
        {"dict": [[[], 1]]},
        {"dict": [[1, 2, 3]]},
        {"int": "zz"},
        {"bytes": "0"},
        {"array": ["|O", [1], "00" * 8]},
        {"array": ["<i8", [1 << 40], "00" * 8]},
        {"array": ["<i8", [1], "00"]},
        {"range": [0, 1, 0]},
        {"eval": "1"},
        {"__class__": "x"},
        {"set": [[1]]},
        {},
    ],
)
def test_malformed_values_are_refused(hostile):
    with pytest.raises(WireError):
        decode(hostile)


def test_depth_ends_at_its_limit():
    nested: list = []
    for _ in range(MAX_DEPTH + 5):
        nested = [nested]
    with pytest.raises(WireError, match="deep"):
        encode(nested)
    with pytest.raises(WireError, match="deep"):
        decode(nested)
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(WireError, match="deep"):
        encode(cycle)


def received(data: bytes):
    read, write = os.pipe()
    try:
        os.write(write, data)
        os.close(write)
        return Connection(read, 0).receive()
    finally:
        os.close(read)


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\2{]",
        b"\0\0\0\2\xff\xfe",
        (50_000).to_bytes(4, "big") + b"[" * 50_000,
        (6000).to_bytes(4, "big") + b"9" * 6000,
    ],
)
def test_hostile_frames_are_refused(data):
    with pytest.raises(WireError):
        received(data)


def test_a_frame_that_ends_early_is_an_end():
    for data in (b"", b"\0\0", b"\0\0\0\5ab"):
        with pytest.raises(EOFError):
            received(data)


def test_a_value_too_large_is_not_sent():
    with pytest.raises(WireError, match="bytes"):
        Connection(0, 1).send("x" * MAX_FRAME_BYTES)
