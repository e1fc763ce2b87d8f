"""Rounded kernels in a file: what is written is placed again, and nothing else is."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from coderllm_jax.errors import DeviceError, ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.quantization import BaseFormat, Quantized, quantize_kernel
from coderllm_jax.model.rounded_file import open_kernels, write_kernels
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place
from tests.model.tiny_model import tiny_weights

FORMAT = BaseFormat.make("nf4", ("value",))
ORIGIN = {"base": "nf4", "base_int8": ["value"], "model_sha256": "a" * 64, "tokens": 300}


@pytest.fixture(scope="module")
def layers():
    """Of other weights than tiny's own, so that nobody has made them from those."""
    blocks = tiny_weights(seed=9)["blocks"]
    return [
        {
            name: quantize_kernel(stack[i], base=FORMAT.of(name))
            for name, stack in blocks.items()
            if stack.ndim > 2
        }
        for i in range(TINY.num_layers)
    ]


@pytest.fixture
def file(tmp_path, layers):
    path = tmp_path / "new" / "kernels.safetensors"
    write_kernels(path, layers, TINY, base=FORMAT, origin=ORIGIN)
    return path


def test_what_was_written_is_placed(file, layers):
    kernels = open_kernels(file)
    assert kernels.origin == ORIGIN
    placed = place(
        random_leaves(TINY, seed=0), TINY, dtype="float32", base=FORMAT, rounded=kernels.leaves
    )
    for name, leaf in placed["blocks"].items():
        if isinstance(leaf, Quantized):
            stacked = jax.tree.map(lambda *parts: np.stack(parts), *(each[name] for each in layers))
            assert leaf.base == stacked.base
            jax.tree.map(np.testing.assert_array_equal, leaf, stacked)
    is_kernel = {name for name, leaf in placed["blocks"].items() if isinstance(leaf, Quantized)}
    assert is_kernel == set(layers[0])
    np.testing.assert_array_equal(placed["embedding"], tiny_weights()["embedding"])


def test_any_tool_reads_it(file, layers):
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load_file(file)
    assert len(found) == TINY.num_layers * len(layers[0]) * 2
    np.testing.assert_array_equal(found["1.key.codes"], layers[1]["key"].codes)


def test_a_writer_that_is_stopped_leaves_what_was_there(file, layers):
    before = file.read_bytes()

    def stopped():
        yield layers[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_kernels(file, stopped(), TINY, base=FORMAT, origin=ORIGIN)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_said_and_gets_its_room_back(file, layers, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError, match="no room for 0 MB of rounded kernels; free some"):
        write_kernels(file, layers, TINY, base=FORMAT, origin=ORIGIN)
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\xff" * 64,
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data.replace(b'"U8"', b'"F9"', 1),
        lambda data: data.replace(b'"origin"', b'"0rigin"', 1),
        lambda data: data.replace(b'"0.query.codes"', b'"0.query.c0des"', 1),
    ],
)
def test_what_is_no_file_of_ours_is_refused(file, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match="not a file of rounded kernels"):
        open_kernels(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.safetensors: no such file"):
        open_kernels(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("base", [BaseFormat("nf4"), BaseFormat("int4", ("value",))])
def test_kernels_in_another_format_are_not_taken(file, base):
    kernels = open_kernels(file)
    with pytest.raises(
        ModelError, match=r"in nf4 \(value: int8\); expected (nf4|int4 \(value: int8\));"
    ):
        load_model("tiny", dtype="float32", cache_dir="unused", base=base, kernels=kernels)
    kernels.check(FORMAT)


_ON_A_MESH = """
import pathlib, sys
import jax, numpy as np
from coderllm_jax.config.training import MeshSection
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.quantization import BaseFormat
from coderllm_jax.model.rounded_file import open_kernels
from coderllm_jax.model.sharding import make_mesh, sharding_by_path
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place
kernels, base = open_kernels(pathlib.Path(sys.argv[1])), BaseFormat("nf4", ("value",))
how = dict(dtype="float32", base=base, rounded=kernels.leaves)
mesh = make_mesh(MeshSection(data=1, fsdp=4, tensor=2))
plain = place(random_leaves(TINY, seed=0), TINY, **how)["blocks"]
split = place(random_leaves(TINY, seed=0), TINY, sharding=sharding_by_path(mesh), **how)["blocks"]
nearest = place(
    random_leaves(TINY, seed=0), TINY, dtype="float32", base=base, sharding=sharding_by_path(mesh)
)["blocks"]
jax.tree.map(np.testing.assert_array_equal, jax.device_get(split), jax.device_get(plain))
for one, other in zip(jax.tree.leaves(split), jax.tree.leaves(nearest), strict=True):
    assert one.sharding == other.sharding, (one.sharding, other.sharding)
assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split["query"]))
"""


def test_they_lie_on_a_mesh_as_kernels_that_are_rounded_there(file):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_MESH, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_kernels_of_another_shape_are_not_placed(file):
    kernels = open_kernels(file)
    narrow = dataclasses.replace(TINY, feed_forward=TINY.feed_forward // 2)
    leaves = random_leaves(narrow, seed=0)
    with pytest.raises(ModelError, match=r"weight 'blocks/ffw_gating/codes' is .*; expected"):
        place(leaves, narrow, dtype="float32", base=FORMAT, rounded=kernels.leaves)


def test_a_kernel_that_the_file_lacks_is_named(file):
    leaves = {path: leaf for path, leaf in open_kernels(file).leaves.items() if "key" not in path}
    with pytest.raises(ModelError, match=r"'blocks/key' is not among the rounded kernels"):
        place(random_leaves(TINY, seed=0), TINY, dtype="float32", base=FORMAT, rounded=leaves)
