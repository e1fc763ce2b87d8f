"""Scalars of other people's runs, from TensorBoard's event files, without TensorFlow.

    events.out.tfevents.*     length u64 │ its checksum u32 │ Event (protobuf) │ checksum u32 │ …

    read() → [Scalar(step=20, time=1.7e9, tag="eval/loss", value=2.91), Restart(step=10), …]

TensorFlow takes 800 MB to read a float. The framing is twelve lines, and TensorBoard's own package
has the messages. `common_name` brings tags into our names, so that runs can be laid over each
other: `train/loss` is `loss`; `eval/loss`, `val/loss` and `val_loss` are `eval_loss`.

Covers: simple values, and tensors of one number. Does not cover: images, histograms, texts, and
bit rot inside a message (the length's checksum is looked at, the message's is not).
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

PATTERN = "events.out.tfevents.*"
_HEADER = struct.Struct("<QI")
_CHUNK_BYTES = 1 << 20
# Images and graphs may be large; what is larger is no message.
_MAX_MESSAGE_BYTES = 1 << 28
_EVALUATION = re.compile(r"^(?:eval|val|valid|validation|test)[/_]")
_TRAINING = re.compile(r"^(?:train|training)[/_]")


class Scalar(NamedTuple):
    """One number of one step; None where it is not finite."""

    step: int
    time: float
    tag: str
    value: float | None


class Restart(NamedTuple):
    """The writer went back: of no tag does what it wrote at `step` or after it count any more."""

    step: int


class EventFile:
    """What one event file says, as it comes. `damage` is set where it cannot be followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self._offset = 0
        self._size = -1

    def read(self) -> tuple[list[Scalar | Restart], bool]:
        """What is new, in its order, and whether there is more to read at once."""
        if self.damage:
            return [], False
        try:
            size = self.path.stat().st_size
            if size == self._size:
                return [], False
            if size < self._offset:
                self.damage = f"{self.path}: is shorter than what was read of it"
                return [], False
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK_BYTES)
                data += file.read(self._missing(data))
        except OSError:
            return [], False
        found = self._parse(data)
        more = self._offset < size and len(data) >= _CHUNK_BYTES and not self.damage
        self._size = -1 if more else size
        return found, more

    def _missing(self, data: bytes) -> int:
        """How much more must be read so that at least one whole message is there."""
        if len(data) < _CHUNK_BYTES:
            return 0
        (length, _) = _HEADER.unpack_from(data)
        return max(0, min(length, _MAX_MESSAGE_BYTES) + _HEADER.size + 4 - len(data))

    def _parse(self, data: bytes) -> list[Scalar | Restart]:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        found: list[Scalar | Restart] = []
        start = 0
        while start + _HEADER.size <= len(data):
            length, checksum = _HEADER.unpack_from(data, start)
            if length > _MAX_MESSAGE_BYTES or masked_crc32c(data[start : start + 8]) != checksum:
                self.damage = f"{self.path}: not an event at byte {self._offset + start}"
                break
            end = start + _HEADER.size + length + 4
            if end > len(data):
                break  # its writer is not done
            try:
                event = Event.FromString(data[start + _HEADER.size : end - 4])
            except Exception:  # noqa: BLE001 - protobuf's implementations raise several kinds
                self.damage = f"{self.path}: no event message at byte {self._offset + start}"
                break
            if event.session_log.status == SessionLog.START:
                found.append(Restart(event.step))
            found += _scalars(event)
            start = end
        self._offset += start
        return found


def common_name(tag: str) -> str:
    """A tag under the name that our own runs have for it."""
    if _EVALUATION.match(tag):
        return _EVALUATION.sub("eval_", tag)
    return _TRAINING.sub("", tag)


def _scalars(event: Any) -> list[Scalar]:
    found = []
    for value in event.summary.value:
        number = _number(value)
        if number is not None:
            finite = number if math.isfinite(number) else None
            found.append(Scalar(event.step, event.wall_time, value.tag, finite))
    return found


def _number(value: Any) -> float | None:
    """The value's only number; None where it has none or several."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor"):
        return None
    tensor = value.tensor
    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim):
        return None
    for numbers in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(numbers) == 1:
            return float(numbers[0])
    # DataType of types_pb2: 1 float, 2 double, 3 int32, 9 int64.
    form = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}.get(tensor.dtype)
    if form and len(tensor.tensor_content) == struct.calcsize(form):
        return float(struct.unpack(form, tensor.tensor_content)[0])
    return None
