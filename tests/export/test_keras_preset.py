"""The preset comes back through our reader, and through KerasHub in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from coderllm_jax.errors import ModelError
from coderllm_jax.export import layout
from coderllm_jax.export.keras_preset import write_keras
from coderllm_jax.export.reading_back import check_folder
from coderllm_jax.model.load import load_model
from tests.export.small_model import KINDS, SMALL, small_model


def write(folder, model, dtype="float32"):
    preset = folder / "keras"
    preset.mkdir()
    write_keras(preset, model, dtype=dtype)
    return preset


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tensor_comes_back_as_it_was_merged(tmp_path, small_vocabulary, dtype):
    model = small_model(small_vocabulary)
    preset = write(tmp_path, model, dtype)
    check_folder(preset, model, dtype=dtype)
    loaded = load_model(str(preset), dtype=dtype, cache_dir=str(tmp_path / "unused"))
    assert loaded.architecture == SMALL
    assert loaded.tokenizer.encode("def x") == model.tokenizer.encode("def x")
    assert loaded.tokenizer.start_of_turn_id not in loaded.tokenizer.encode("<start_of_turn>")


def test_tensors_of_many_chunks_are_whole(tmp_path, small_vocabulary, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK_ITEMS", 100)
    model = small_model(small_vocabulary)
    check_folder(write(tmp_path, model), model, dtype="float32")


def test_one_changed_number_is_noticed(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    preset = write(tmp_path, model)
    with h5py.File(preset / "model.weights.h5", "r+") as store:
        values = store["layers/gemma3_decoder_block_5/attention/key_norm/vars/0"]
        values[3] = values[3] + np.float32(1e-6)
    with pytest.raises(ModelError, match="key_norm of layer 5"):
        check_folder(preset, model, dtype="float32")


def test_the_preprocessor_keeps_caches_small(tmp_path, small_vocabulary):
    preset = write(tmp_path, small_model(small_vocabulary))
    config = json.loads((preset / "preprocessor.json").read_text())["config"]
    assert config["sequence_length"] == 1024
    assert config["tokenizer"]["config"]["has_vision_tokens"] is False


def test_text_becomes_marks_and_begins_with_bos_as_keras_hub_reads_it(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    preset = write(tmp_path, model)
    published = SentencePieceProcessor()
    published.Load(str(preset / "assets" / "tokenizer" / "vocabulary.spm"))
    assert published.Encode("<start_of_turn>x")[0] == model.tokenizer.start_of_turn_id
    config = json.loads((preset / "preprocessor.json").read_text())["config"]
    assert config["add_start_token"] is True
    assert config["tokenizer"]["config"]["add_bos"] is False  # or there would be two


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "gemma4"])
def test_every_object_is_one_that_keras_hub_has(tmp_path, small_vocabulary, kind):
    """Keras imports `module` and takes `class_name` of it; read here without KerasHub's import."""
    preset = write(tmp_path, small_model(small_vocabulary, architecture=KINDS[kind]))
    [package] = importlib.util.find_spec("keras_hub").submodule_search_locations
    for file, base in (
        ("config.json", "Backbone"),
        ("tokenizer.json", "SentencePieceTokenizer"),
        ("preprocessor.json", "CausalLMPreprocessor"),
    ):
        found = json.loads((preset / file).read_text())
        source = Path(package).parent.joinpath(*found["module"].split(".")).with_suffix(".py")
        assert f"\nclass {found['class_name']}({base}" in source.read_text()
        assert found["registered_name"] == f"keras_hub>{found['class_name']}"


def test_the_metadata_counts_every_weight(tmp_path, small_vocabulary):
    preset = write(tmp_path, small_model(small_vocabulary))
    a_layer = 4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64 + 4 * 32 + 2 * 8
    found = json.loads((preset / "metadata.json").read_text())
    assert found["parameter_count"] == 7 * a_layer + 352 * 32 + 32
    assert found["tasks"] == ["CausalLM"]


@pytest.mark.parametrize(
    "changes", [{"global_every": 3}, {"rope_local": 5e4}, {"query_scale": 0.1}]
)
def test_what_keras_hub_cannot_be_told_is_refused(tmp_path, small_vocabulary, changes):
    architecture = dataclasses.replace(SMALL, **changes)
    model = small_model(small_vocabulary, targets=(), architecture=architecture)
    with pytest.raises(ModelError, match="cannot say all of this model"):
        write(tmp_path, model)
