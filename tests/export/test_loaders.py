"""Every format of every family, in fact loaded by the library that people will load it with."""

from __future__ import annotations

import importlib.util

import pytest

from coderllm_jax.config.export import ExportConfig
from coderllm_jax.export.exporting import export_model
from coderllm_jax.export.verification import LOADERS
from tests.export.small_model import KINDS, write_trained
from tests.export.test_families import BY_WIDTH

FORMATS = [
    ("huggingface", {}),
    ("peft", {}),
    ("gguf", {"gguf_types": ("f32", "f16", "q8_0")}),
    ("keras", {}),
]
# Number formats and shards are the same code in every family.
CASES = [
    ("gemma3", "huggingface", {"dtype": "bfloat16", "max_shard_bytes": 40_000}),
    ("gemma3", "gguf", {"gguf_types": ("bf16",)}),
    *(
        (kind, wanted, changes)
        for kind in KINDS
        for wanted, changes in FORMATS
        if not (wanted == "keras" and kind in BY_WIDTH)
    ),
]


def installed(wanted):
    return all(importlib.util.find_spec(name) for name in LOADERS[wanted].imports)


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "wanted", "changes"), CASES)
def test_it_is_loaded_and_is_the_model(tmp_path, small_vocabulary, kind, wanted, changes):
    if not installed(wanted):
        pytest.skip(f"needs {LOADERS[wanted].distributions}")
    adapter = write_trained(tmp_path, small_vocabulary, architecture=KINDS[kind])
    config = ExportConfig.create_default()
    config.update(
        {"model_path": str(adapter), "out": str(tmp_path / "out"), "formats": (wanted,), **changes}
    )
    result = export_model(config)
    assert result.folders[wanted].is_dir()
    for found in result.verifications.values():
        assert found is not None
        assert found.program.flips == 0
