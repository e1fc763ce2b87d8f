"""adapter/ gives back the same bits, in a format others read, and notices damage."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coderllm_jax.errors import RunError
from coderllm_jax.model.sharding import fetch
from coderllm_jax.training.adapter import load_adapter, save_adapter, to_safetensors

TREE = {
    "query": {"a": jnp.arange(24.0).reshape(2, 3, 4), "b": jnp.full((2, 4, 5), 1 / 3)},
    "value": {"a": jnp.ones((2, 1), jnp.bfloat16) / 3},
}


def test_gives_back_the_same_bits(tmp_path: Path) -> None:
    save_adapter(tmp_path, fetch(TREE), {"kind": "lora", "rank": 4})
    adapter = load_adapter(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, adapter.tensors, TREE)
    assert jax.tree.map(lambda x: x.dtype, adapter.tensors) == jax.tree.map(lambda x: x.dtype, TREE)
    assert adapter.config["rank"] == 4


def test_hugging_face_reads_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    save_adapter(tmp_path, fetch({"query": TREE["query"]}), {})
    read = safetensors.load_file(tmp_path / "adapter.safetensors")
    assert sorted(read) == ["query.a", "query.b"]
    np.testing.assert_array_equal(read["query.b"], TREE["query"]["b"])


def test_a_transposed_array_is_written_in_c_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert to_safetensors({"a": array.T}) == to_safetensors({"a": array.T.copy()})


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save_adapter(tmp_path, fetch(TREE), {})
    path = tmp_path / "adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="the file is damaged"):
        load_adapter(tmp_path)


def test_an_absent_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no adapter_config\.json"):
        load_adapter(tmp_path)


def test_a_sharded_array_is_fetched_whole() -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(fetch({"a": sharded})["a"], np.arange(8))
