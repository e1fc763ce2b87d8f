"""TensorBoard's events are read as TensorBoard reads them, and TensorFlow is not asked."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from coderllm_jax.monitoring import event_files
from coderllm_jax.monitoring.event_files import EventFile, Scalar, common_name


def framed(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return b"".join(
        [length, struct.pack("<I", masked_crc32c(length)), message, struct.pack("<I", 0)]
    )


def event(step, **scalars):
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    return framed(
        Event(step=step, wall_time=100.0 + step, summary=Summary(value=values)).SerializeToString()
    )


def test_scalars_of_both_kinds_come_once(tmp_path):
    path = tmp_path / "events.out.tfevents.1.host"
    tensor = TensorProto(dtype=1, float_val=[2.5])
    packed = TensorProto(dtype=2, tensor_content=struct.pack("<d", 0.125))
    text = TensorProto(dtype=7, string_val=[b"hello"])
    values = [
        Summary.Value(tag="eval/loss", tensor=tensor),
        Summary.Value(tag="packed", tensor=packed),
        Summary.Value(tag="words", tensor=text),
    ]
    whole = framed(Event(file_version="brain.Event:2").SerializeToString())
    whole += event(1, **{"train/loss": 3.0})
    whole += framed(
        Event(step=2, wall_time=102.0, summary=Summary(value=values)).SerializeToString()
    )
    path.write_bytes(whole[:-10])
    file = EventFile(path)
    assert file.read() == ([Scalar(1, 101.0, "train/loss", 3.0)], False)
    path.write_bytes(whole)
    found, more = file.read()
    assert found == [Scalar(2, 102.0, "eval/loss", 2.5), Scalar(2, 102.0, "packed", 0.125)]
    assert not more
    assert file.read() == ([], False)
    assert file.damage == ""


def test_not_finite_is_none(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(event(1, loss=math.nan) + event(2, loss=math.inf))
    assert [scalar.value for scalar in EventFile(path).read()[0]] == [None, None]


def test_a_long_file_comes_in_pieces_even_where_one_message_is_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "_CHUNK_BYTES", 200)
    path = tmp_path / "events.out.tfevents.1"
    long = framed(Event(step=50, graph_def=b"x" * 5000).SerializeToString())
    path.write_bytes(b"".join(event(i, loss=1.0) for i in range(50)) + long + event(51, loss=2.0))
    file, steps, more = EventFile(path), [], True
    while more:
        found, more = file.read()
        steps += [scalar.step for scalar in found]
    assert steps == [*range(50), 51]


def test_what_is_no_event_is_said_and_left(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(event(1, loss=1.0) + b"\x01" * 200)
    file = EventFile(path)
    assert len(file.read()[0]) == 1
    assert "not an event at byte" in file.damage
    assert file.read() == ([], False)


def test_what_clu_wrote_through_tensorflow_is_read():
    """The fixture: two scalars and a text at step 3, a NaN at step 4, by SummaryWriter of CLU."""
    file = EventFile(Path(__file__).parents[1] / "fixtures" / "clu.tfevents")
    found = [(scalar.step, common_name(scalar.tag), scalar.value) for scalar in file.read()[0]]
    assert found == [(3, "loss", 1.5), (3, "eval_loss", 2.5), (4, "loss", None)]


def test_a_length_whose_checksum_is_wrong_is_damage_at_once(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(event(1, loss=1.0) + struct.pack("<QI", 50, 0))
    file = EventFile(path)
    file.read()
    assert "not an event at byte" in file.damage


def test_a_file_that_was_cut_is_said(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(event(1, loss=1.0))
    file = EventFile(path)
    file.read()
    path.write_bytes(b"")
    assert file.read() == ([], False)
    assert "is shorter than what was read" in file.damage


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("train/loss", "loss"),
        ("train_loss", "loss"),
        ("eval/loss", "eval_loss"),
        ("val_loss", "eval_loss"),
        ("validation/accuracy", "eval_accuracy"),
        ("learning_rate", "learning_rate"),
        ("trainable", "trainable"),
        ("evaluations", "evaluations"),
    ],
)
def test_common_names(tag, name):
    assert common_name(tag) == name
