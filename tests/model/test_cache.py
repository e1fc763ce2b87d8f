"""A conversion is found again bit for bit, and never believed once a byte of it has changed."""

from __future__ import annotations

import stat

import numpy as np
import pytest

from coderllm_jax.errors import DeviceError, ModelError
from coderllm_jax.model import cache
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.cache import cache_folder, open_cached, write_cached
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import leaf_dtype


def _write(folder, dtype="float32"):
    return write_cached(
        folder,
        random_leaves(TINY, seed=0),
        architecture=TINY,
        tokenizer=b"tokenizer",
        dtype=dtype,
        source="test",
    )


@pytest.fixture
def folder(tmp_path):
    return cache_folder(tmp_path / "cache", source_sha256="ab" * 32, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_is_read(folder, dtype):
    _write(folder, dtype)
    found = open_cached(folder)
    assert (found.architecture, found.tokenizer, found.dtype) == (TINY, b"tokenizer", dtype)
    leaves = {path: np.asarray(leaf) for path, leaf in found.leaves()}
    for path, values in random_leaves(TINY, seed=0):
        assert leaves[path].dtype == leaf_dtype(path, dtype)
        np.testing.assert_array_equal(leaves[path], values.astype(leaf_dtype(path, dtype)))


def test_absent_is_absent(folder):
    assert open_cached(folder) is None


@pytest.mark.parametrize("name", ["blocks.query.npy", "tokenizer.model", "record.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_the_folder_goes(folder, name, damage, caplog):
    _write(folder)
    file = folder / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-1])
    assert open_cached(folder) is None
    assert not folder.exists()
    assert "is damaged" in caplog.text


def test_another_architecture_in_the_record_is_not_believed(folder):
    _write(folder)
    record = folder / "record.json"
    record.write_text(record.read_text().replace('"num_layers": 3', '"num_layers": 2'))
    assert open_cached(folder) is None


def test_an_interrupted_write_leaves_nothing(folder):
    def interrupted():
        yield from list(random_leaves(TINY, seed=0))[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cached(
            folder,
            interrupted(),
            architecture=TINY,
            tokenizer=b"",
            dtype="float32",
            source="test",
        )
    assert list(folder.parent.iterdir()) == []


def test_two_writers_agree(folder):
    _write(folder)
    _write(folder)
    assert open_cached(folder) is not None
    assert list(folder.parent.iterdir()) == [folder]


def test_the_folder_is_private(tmp_path):
    (tmp_path / "weights").mkdir(mode=0o777)
    folder = cache_folder(tmp_path, source_sha256="00", dtype="float32")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.os, "getuid", lambda: 12345)
    with pytest.raises(ModelError, match="another user"):
        cache_folder(tmp_path, source_sha256="00", dtype="float32")


def test_a_cache_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"model\.cache_dir"):
        cache_folder(tmp_path / "file", source_sha256="00", dtype="float32")


def test_a_full_disk_is_told_before_writing(folder, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1000})())
    with pytest.raises(DeviceError, match="free some space"):
        _write(folder)
