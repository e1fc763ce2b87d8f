"""Files that the safetensors package reads back, divided where they must be."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from coderllm_jax.export import layout
from coderllm_jax.export.safetensors_file import INDEX, PendingTensor, write_shards

BF16 = np.dtype(ml_dtypes.bfloat16)


def pending(**arrays):
    return [
        PendingTensor(name, values.shape, values.dtype, lambda values=values: values)
        for name, values in arrays.items()
    ]


def arange(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_one_file_comes_back_with_its_mark_for_transformers(tmp_path):
    written = {"a": arange(3, 4), "b": arange(5), "c": arange(2, 2).astype(BF16)}
    (file,) = write_shards(tmp_path, pending(**written), max_shard_bytes=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = safetensors.numpy.load_file(file)
    for name, values in written.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    # Readers map the file: numbers begin at a whole one.
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    with safe_open(file, framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards_end_before_the_limit_and_the_index_finds_every_tensor(tmp_path):
    # 40, 40 | 48, 20 | 100 (alone, above the limit) | 4 bytes, at most 80 in a file
    sizes = {"a": 10, "b": 10, "c": 12, "d": 5, "e": 25, "f": 1}
    written = {name: arange(size) for name, size in sizes.items()}
    files = write_shards(tmp_path, pending(**written), max_shard_bytes=80)
    held = [sorted(safetensors.numpy.load_file(file)) for file in files]
    assert held == [["a", "b"], ["c", "d"], ["e"], ["f"]]
    assert files[0].name == "model-00001-of-00004.safetensors"
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 4 * sum(sizes.values())
    for name, values in written.items():
        shard = safetensors.numpy.load_file(tmp_path / index["weight_map"][name])
        np.testing.assert_array_equal(shard[name], values)


def test_tensors_in_pieces_are_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK_ITEMS", 12)
    values = arange(7, 5)
    (file,) = write_shards(tmp_path, pending(a=values, b=values.T), max_shard_bytes=1 << 20)
    found = safetensors.numpy.load_file(file)
    np.testing.assert_array_equal(found["a"], values)
    np.testing.assert_array_equal(found["b"], values.T)


def test_a_tensor_is_read_only_when_its_turn_comes(tmp_path):
    going = []

    def read(name):
        going.append(name)
        return arange(4)

    tensors = [
        PendingTensor(name, (4,), np.dtype(np.float32), lambda name=name: read(name))
        for name in "ab"
    ]
    broken = PendingTensor("c", (9,), np.dtype(np.float32), lambda: arange(4))
    with pytest.raises(AssertionError):
        write_shards(tmp_path, [*tensors, broken], max_shard_bytes=1 << 20)
    assert going == ["a", "b"]
