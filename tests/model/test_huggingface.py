"""A Hugging Face folder, as transformers spells its config and tensors, becomes the same tree."""

from __future__ import annotations

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.errors import ModelError
from coderllm_jax.model import huggingface
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import leaf_shapes

# As transformers 5 writes it; older spellings are tried below.
CONFIG = {
    "model_type": "gemma3_text",
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    },
    "final_logit_softcapping": None,
}
SCALED = dataclasses.replace(TINY, rope_global_scaling=8.0)
_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "ffw_gating": "mlp.gate_proj",
    "ffw_gating_2": "mlp.up_proj",
    "ffw_linear": "mlp.down_proj",
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def huggingface_tensors(leaves, prefix="model.", names=_NAMES):
    """Our leaves under transformers' names and in its layout: matrices are [out, in]."""
    tensors = {
        f"{prefix}embed_tokens.weight": leaves["embedding"],
        f"{prefix}norm.weight": leaves["final_norm"],
    }
    for path, stacked in leaves.items():
        name = path.removeprefix("blocks/")
        for i, values in enumerate(stacked if name in names else []):
            matrix = values
            if name in ("query", "key", "value"):
                matrix = values.transpose(0, 2, 1).reshape(-1, values.shape[1])
            elif name == "attention_output":
                matrix = values.reshape(-1, values.shape[-1]).T
            elif values.ndim == 2:
                matrix = values.T
            tensors[f"{prefix}layers.{i}.{names[name]}.weight"] = np.ascontiguousarray(matrix)
    return tensors


@pytest.fixture
def folder(tmp_path, small_vocabulary):
    """A complete folder: two safetensors files, a config, a tokenizer."""
    tensors = huggingface_tensors(dict(random_leaves(TINY, seed=0)))
    for part in (0, 1):
        half = dict(list(tensors.items())[part::2])
        safetensors.numpy.save_file(half, tmp_path / f"model-0000{part + 1}-of-00002.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.model").write_bytes(build_sentencepiece(*small_vocabulary))
    return tmp_path


def _load(folder, dtype="float32"):
    return load_model(str(folder), dtype=dtype, cache_dir=str(folder / "unused"))


def _edit(folder, **changes):
    config = CONFIG | changes
    kept = {key: value for key, value in config.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))


def test_every_leaf_and_number_comes_back(folder):
    model = _load(folder)
    assert model.architecture == SCALED
    for path, values in random_leaves(TINY, seed=0):
        leaf = model.weights
        for key in path.split("/"):
            leaf = leaf[key]
        np.testing.assert_array_equal(leaf, values)
    assert not (folder / "unused").exists()


def test_bfloat16_files_are_read(folder):
    tensors = huggingface_tensors(dict(random_leaves(TINY, seed=0)))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    narrow = {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()}
    safetensors.numpy.save_file(narrow, folder / "model.safetensors")
    model = _load(folder, "bfloat16")
    expected = dict(random_leaves(TINY, seed=0))["blocks/query"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(model.weights["blocks"]["query"], expected)
    assert model.weights["final_norm"].dtype == "float32"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_half_of_a_multimodal_folder_is_read(folder, prefix):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    leaves = dict(random_leaves(TINY, seed=0))
    tensors = huggingface_tensors(leaves, prefix=prefix)
    tensors["vision_tower.vision_model.norm.weight"] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    text = {key: value for key, value in CONFIG.items() if key not in ("model_type", "vocab_size")}
    _edit(folder, model_type="gemma3", text_config=text)
    assert _load(folder).architecture == SCALED


def _rewrite(folder, architecture, config, names):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    tensors = huggingface_tensors(dict(random_leaves(architecture, seed=0)), names=names)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


OLD = dataclasses.replace(TINY, rope_global=1e4, query_key_norm=False)
GEMMA = dataclasses.replace(OLD, family="gemma", global_every=1, window=4096, post_norms=False)
GEMMA2 = dataclasses.replace(
    OLD, family="gemma2", global_every=2, attention_soft_cap=50.0, final_soft_cap=30.0
)
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
# In Gemma 1 what stands after attention is the norm before the feed-forward layer.
_GEMMA_NAMES = _NAMES | {"pre_ffw_norm": "post_attention_layernorm"}


@pytest.mark.parametrize(
    ("architecture", "config", "names"),
    [
        # Gemma 1's releases say "gelu" and mean its approximation.
        (GEMMA, {"model_type": "gemma", "hidden_act": "gelu"}, _GEMMA_NAMES),
        (GEMMA, {"model_type": "gemma", "rope_theta": 1e4, "rope_scaling": None}, _GEMMA_NAMES),
        # Whatever Gemma 2's config leaves out is its class's value: caps, windows, rotation.
        (
            GEMMA2,
            {"model_type": "gemma2", "query_pre_attn_scalar": 8, "sliding_window": 16},
            _NAMES,
        ),
        (
            dataclasses.replace(GEMMA2, query_scale=32**-0.5, attention_soft_cap=0.0, window=4096),
            {
                "model_type": "gemma2",
                "query_pre_attn_scalar": 32,
                "attn_logit_softcapping": None,
                "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
            },
            _NAMES,
        ),
    ],
)
def test_older_families_come_back(folder, architecture, config, names):
    _rewrite(folder, architecture, _SIZES | config, names)
    model = _load(folder)
    assert model.architecture == architecture
    for path, values in random_leaves(architecture, seed=0):
        leaf = model.weights
        for key in path.split("/"):
            leaf = leaf[key]
        np.testing.assert_array_equal(leaf, values)


GEMMA4 = dataclasses.replace(
    TINY,
    family="gemma4",
    query_scale=1.0,
    global_head_size=16,
    global_kv_heads=1,
    keys_are_values=True,
    value_norm=True,
    layer_scale=True,
    rope_global_fraction=0.25,
)
_GEMMA4 = _SIZES | {
    "model_type": "gemma4_text",
    "hidden_size_per_layer_input": 0,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "attention_k_eq_v": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25},
    },
}


@pytest.mark.parametrize(
    "spelling",
    [
        {"global_head_dim": 16, "num_global_key_value_heads": 1},
        {"per_layer_config": {"2": {"head_dim": 16, "num_key_value_heads": 1}}},
    ],
)
def test_gemma4s_numbers_in_both_spellings(tmp_path, spelling):
    def read(config):
        return huggingface.architecture_of(config, vocabulary=512, folder=tmp_path)

    config = _GEMMA4 | spelling
    assert read(config) == GEMMA4
    whole = {"model_type": "gemma4", "text_config": config, "vision_config": {}}
    assert read(whole) == GEMMA4
    looking_back = config | {"use_bidirectional_attention": "vision"}
    assert read(looking_back) == GEMMA4


@pytest.mark.parametrize(
    "by_layer",
    [
        {"1": {"head_dim": 16}},
        {"2": {"head_dim": 16, "sliding_window": 4}},
        {"1": {"head_dim": 8}, "2": {"head_dim": 16}},
    ],
)
def test_layers_that_differ_otherwise_are_refused(tmp_path, by_layer):
    config = _GEMMA4 | {"per_layer_config": by_layer}
    with pytest.raises(ModelError, match="differ in other ways"):
        huggingface.architecture_of(config, vocabulary=512, folder=tmp_path)


def test_older_spellings_of_rotation_and_pattern(folder):
    _edit(
        folder,
        layer_types="absent",
        sliding_window_pattern=3,
        rope_parameters="absent",
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )
    assert _load(folder).architecture == SCALED


def test_sha256_follows_the_weights_and_not_the_dtype(folder):
    first = _load(folder)
    assert _load(folder, "bfloat16").sha256 == first.sha256
    (file, *_) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert _load(folder).sha256 != first.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "holds a 'llama' model"),
        ({"model_type": "absent"}, "neither model_type nor class_name"),
        ({"model_type": "gemma3"}, "text_config is None"),
        ({"hidden_size": "32"}, "hidden_size is '32'; expected a whole number"),
        ({"num_attention_heads": 4.5}, "num_attention_heads is 4.5"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0; expected a number above 0"),
        ({"rope_parameters": {"full_attention": {"factor": "8"}}}, "factor is '8'"),
        ({"rope_parameters": 5}, "not spelt as a Gemma's"),
        ({"hidden_size": "absent"}, "'hidden_size' is missing"),
        ({"use_bidirectional_attention": True}, "embedding model"),
        ({"tie_word_embeddings": False}, "output head"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'; expected gelu_pytorch_tanh"),
        ({"model_type": "gemma4_text"}, "hidden_size_per_layer_input is 256.*expected a dense"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 2}, "share keys and values"),
        ({"layer_types": ["full_attention"] + ["sliding_attention"] * 2}, "not evenly spaced"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional"}}}, "'proportional'"),
        ({"num_hidden_layers": 4, "layer_types": "absent"}, r"'layers\.3\..*' is missing"),
    ],
)
def test_what_is_not_understood_is_named(folder, changes, message):
    _edit(folder, **changes)
    with pytest.raises(ModelError, match=message):
        _load(folder)


def test_pickled_weights_are_never_opened(folder):
    for file in folder.glob("*.safetensors"):
        file.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors"):
        _load(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64])
def test_a_folder_of_another_family_is_told_so_whatever_its_tensors(folder, content):
    _edit(folder, model_type="llama")
    (folder / "model-00002-of-00002.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="holds a 'llama' model"):
        _load(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64])
def test_a_damaged_file_is_named(folder, content):
    (folder / "model-00002-of-00002.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        _load(folder)


def test_a_folder_without_a_tokenizer_is_named(folder):
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match="neither tokenizer"):
        _load(folder)


def test_all_names_are_covered():
    assert {path.removeprefix("blocks/") for path in leaf_shapes(TINY)} - {
        "embedding",
        "final_norm",
    } == _NAMES.keys()
