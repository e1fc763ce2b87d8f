"""The folder comes back bit for bit through the reader that evaluate and ask use."""

from __future__ import annotations

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax.errors import ModelError
from coderllm_jax.export.huggingface_folder import config_json, write_huggingface
from coderllm_jax.export.reading_back import check_folder
from coderllm_jax.model import huggingface
from coderllm_jax.model.architecture import GEMMA3_270M
from coderllm_jax.model.load import load_model
from coderllm_jax.model.weights import leaf_dtype
from tests.export.small_model import KINDS, SMALL, small_model

STRETCHED = dataclasses.replace(
    SMALL, rope_global_scaling=8.0, query_scale=168**-0.5, final_soft_cap=30.0
)


def write(folder, model, *, dtype="float32", limit=1 << 30):
    write_huggingface(folder, model, dtype=dtype, max_shard_bytes=limit)
    return load_model(str(folder), dtype=dtype, cache_dir=str(folder / "unused"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("limit", [1 << 30, 20_000])
def test_every_tensor_comes_back_as_it_was_merged(tmp_path, small_vocabulary, dtype, limit):
    model = small_model(small_vocabulary)
    loaded = write(tmp_path, model, dtype=dtype, limit=limit)
    assert loaded.architecture == SMALL
    for path, layer in model.tensors():
        found = loaded.weights
        for key in path.split("/"):
            found = found[key]
        found = found if layer is None else found[layer]
        meant = model.read(path, layer).astype(leaf_dtype(path, dtype))
        assert np.asarray(found).tobytes() == meant.tobytes(), path
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (limit < 1 << 30)
    check_folder(tmp_path, model, dtype=dtype)


@pytest.mark.parametrize("architecture", [SMALL, STRETCHED, GEMMA3_270M])
def test_the_config_says_all_of_the_architecture(tmp_path, small_vocabulary, architecture):
    tokenizer = small_model(small_vocabulary).tokenizer
    config = config_json(architecture, tokenizer, dtype="float32")
    for spelling in (config, {k: v for k, v in config.items() if k != "rope_parameters"}):
        found = huggingface.architecture_of(
            spelling, vocabulary=architecture.vocabulary, folder=tmp_path
        )
        assert found.query_scale == pytest.approx(architecture.query_scale)
        assert dataclasses.replace(found, query_scale=architecture.query_scale) == architecture


def test_the_config_says_formats_tokens_and_lengths(small_vocabulary):
    tokenizer = small_model(small_vocabulary).tokenizer
    found = config_json(SMALL, tokenizer, dtype="bfloat16")
    assert (found["dtype"], found["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert found["eos_token_id"] == [tokenizer.eos_id, tokenizer.end_of_turn_id]
    assert (found["bos_token_id"], found["pad_token_id"]) == (tokenizer.bos_id, tokenizer.pad_id)
    lengths = {
        name: config_json(KINDS[name], tokenizer, dtype="float32")["max_position_embeddings"]
        for name in ("gemma", "gemma2", "gemma3", "gemma3_12b", "gemma4")
    }
    # As the makers' model cards have them.
    assert lengths == {
        "gemma": 8192,
        "gemma2": 8192,
        "gemma3": 32_768,
        "gemma3_12b": 131_072,
        "gemma4": 262_144,
    }


def test_a_class_is_told_what_it_would_take_for_given(small_vocabulary):
    """transformers' defaults are another activation in Gemma 1, and E2B's parts in Gemma 4."""
    tokenizer = small_model(small_vocabulary).tokenizer
    first, fourth = (
        config_json(KINDS[name], tokenizer, dtype="float32") for name in ("gemma", "gemma4")
    )
    assert first["hidden_act"] == "gelu_pytorch_tanh"
    for key in ("use_double_wide_mlp", "enable_moe_block"):
        assert fourth[key] is False
    for key in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        assert fourth[key] == 0


def test_generation_ends_at_eos_and_at_the_end_of_the_turn(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    write(tmp_path, model)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    assert config["eos_token_id"] == [model.tokenizer.eos_id, model.tokenizer.end_of_turn_id]
    assert config["bos_token_id"] == model.tokenizer.bos_id
    assert not config["do_sample"]


@pytest.mark.parametrize("knows_turns", [True, False])
def test_turns_go_with_a_model_that_knows_them(tmp_path, small_vocabulary, knows_turns):
    write(tmp_path, small_model(small_vocabulary, knows_turns=knows_turns))
    assert (tmp_path / "chat_template.jinja").exists() == knows_turns


def test_the_head_is_the_embedding_and_not_written_twice(tmp_path, small_vocabulary):
    write(tmp_path, small_model(small_vocabulary))
    names = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert "model.embed_tokens.weight" in names
    assert not [name for name in names if "lm_head" in name]
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]


def test_one_changed_number_anywhere_is_noticed(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    write(tmp_path, model)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    # A row of the embedding that no probe's token meets.
    tensors["model.embed_tokens.weight"][-1, -1] += np.float32(1e-6)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="embedding does not read back"):
        check_folder(tmp_path, model, dtype="float32")


def test_a_folder_that_describes_another_model_is_noticed(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    write(tmp_path, model)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sliding_window": 17}))
    with pytest.raises(ModelError, match="its window is 16, and what was written says window 17"):
        check_folder(tmp_path, model, dtype="float32")


def test_a_folder_of_another_number_format_is_noticed(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    write(tmp_path, model, dtype="bfloat16")
    with pytest.raises(ModelError, match="is stored as bfloat16"):
        check_folder(tmp_path, model, dtype="float32")
    assert np.dtype(ml_dtypes.bfloat16) == leaf_dtype("embedding", "bfloat16")
