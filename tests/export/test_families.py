"""Every family through every format, read back bit for bit; what cannot be said is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coderllm_jax.errors import ModelError
from coderllm_jax.export.gguf_file import write_gguf
from coderllm_jax.export.huggingface_folder import config_json, write_huggingface
from coderllm_jax.export.keras_preset import write_keras
from coderllm_jax.export.peft_folder import write_peft
from coderllm_jax.export.reading_back import check_folder, check_gguf, check_peft
from coderllm_jax.model import gguf as gguf_reader
from coderllm_jax.model import huggingface
from tests.export.small_model import KINDS, SMALL, small_model

pytest.importorskip("gguf")
# KerasHub scales their queries otherwise than they do.
BY_WIDTH = ("gemma2_27b", "gemma3_27b")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_folder_is_the_model(tmp_path, small_vocabulary, kind):
    model = small_model(small_vocabulary, architecture=KINDS[kind])
    write_huggingface(tmp_path, model, dtype="float32", max_shard_bytes=1 << 30)
    check_folder(tmp_path, model, dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_is_the_model(tmp_path, small_vocabulary, kind):
    model = small_model(small_vocabulary, architecture=KINDS[kind])
    for number_format in ("f32", "q8_0"):
        file = tmp_path / f"{number_format}.gguf"
        write_gguf(file, model, kind=number_format, name="m")
        check_gguf(file, model, kind=number_format)
        opened = gguf_reader.open_gguf(file)
        assert gguf_reader.architecture_of(opened) == KINDS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BY_WIDTH])
def test_a_keras_preset_is_the_model(tmp_path, small_vocabulary, kind):
    model = small_model(small_vocabulary, architecture=KINDS[kind])
    write_keras(tmp_path, model, dtype="float32")
    check_folder(tmp_path, model, dtype="float32")


@pytest.mark.parametrize("kind", BY_WIDTH)
def test_what_keras_hub_forgets_is_refused(tmp_path, small_vocabulary, kind):
    model = small_model(small_vocabulary, targets=(), architecture=KINDS[kind])
    with pytest.raises(ModelError, match=r"forgets that this model scales its queries by width"):
        write_keras(tmp_path, model, dtype="float32")


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma4", "gemma4_values"])
def test_a_peft_adapter_is_the_update(tmp_path, small_vocabulary, kind):
    model = small_model(small_vocabulary, architecture=KINDS[kind])
    write_peft(tmp_path, model, base_model="org/base", max_length=64)
    check_peft(tmp_path, model)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_told_apart_when_read_back(tmp_path, small_vocabulary, kind):
    # Two layers of one shape that changed places are another model.
    model = small_model(small_vocabulary, targets=(), architecture=KINDS[kind])
    write_huggingface(tmp_path, model, dtype="float32", max_shard_bytes=1 << 30)
    blocks = {**model.weights["blocks"], "ffw_linear": model.weights["blocks"]["ffw_linear"][::-1]}
    other = dataclasses.replace(model, weights={**model.weights, "blocks": blocks})
    with pytest.raises(ModelError, match="ffw_linear of layer 0"):
        check_folder(tmp_path, other, dtype="float32")


def test_every_layer_s_tensors_are_given_once_where_stacks_differ(small_vocabulary):
    model = small_model(small_vocabulary, targets=(), architecture=KINDS["gemma4"])
    given = list(model.tensors())
    assert len(given) == len(set(given))
    of_layers = {layer: {path for path, i in given if i == layer} for layer in range(6)}
    assert "blocks/global_query" in of_layers[2]
    assert "blocks/query" not in of_layers[2]
    # Its keys are its values.
    assert len(of_layers[2]) == len(of_layers[1]) - 1
    np.testing.assert_array_equal(
        model.block("global_query", 5), model.weights["blocks"]["global_query"][1]
    )


def test_norms_are_written_as_their_family_means_them(tmp_path, small_vocabulary):
    for kind, more in (("gemma2", 0.0), ("gemma4", 1.0)):
        model = small_model(small_vocabulary, targets=(), architecture=KINDS[kind])
        folder = tmp_path / kind
        folder.mkdir()
        write_huggingface(folder, model, dtype="float32", max_shard_bytes=1 << 30)
        tensors = huggingface.SafetensorsFolder(folder)
        found = tensors.find("layers.1.post_feedforward_layernorm.weight").view()
        np.testing.assert_array_equal(found, model.block("post_ffw_norm", 1) + np.float32(more))


def test_gemma_1_calls_its_second_norm_what_others_call_the_one_behind(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary, targets=(), architecture=KINDS["gemma"])
    write_huggingface(tmp_path, model, dtype="float32", max_shard_bytes=1 << 30)
    found = huggingface.SafetensorsFolder(tmp_path).find("layers.2.post_attention_layernorm.weight")
    np.testing.assert_array_equal(found.view(), model.block("pre_ffw_norm", 2))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("gemma", {"final_soft_cap": 30.0}, "final_soft_cap is 30.0"),
        ("gemma", {"query_scale": 0.1}, "query_scale is 0.1"),
        ("gemma2", {"attention_soft_cap": 0.0}, "attention_soft_cap is 0.0, and .* 50.0"),
        ("gemma2", {"rope_global_scaling": 8.0}, "rope_local_scaling"),
        ("gemma2", {"query_scale": 8.5**-0.5}, "query_scale"),
        ("gemma4", {"attention_soft_cap": 50.0}, "attention_soft_cap is 50.0"),
        ("gemma4", {"rope_global_fraction": 0.3}, "rope_global_fraction is 0.3"),
    ],
)
def test_what_llama_cpp_has_no_word_for_is_refused(tmp_path, small_vocabulary, kind, changes, said):
    architecture = dataclasses.replace(KINDS[kind], **changes)
    model = small_model(small_vocabulary, targets=(), architecture=architecture)
    with pytest.raises(ModelError, match=f"a GGUF cannot say all of this model: its .*{said}"):
        write_gguf(tmp_path / "m.gguf", model, kind="f32", name="m")


def test_a_config_says_nothing_that_another_family_would_act_on(small_vocabulary):
    tokenizer = small_model(small_vocabulary).tokenizer
    first = config_json(KINDS["gemma"], tokenizer, dtype="float32")
    assert not {"sliding_window", "layer_types", "query_pre_attn_scalar"} & first.keys()
    assert "rope_local_base_freq" not in config_json(KINDS["gemma2"], tokenizer, dtype="float32")
    third = config_json(SMALL, tokenizer, dtype="float32")
    assert third["rope_parameters"].keys() == {"full_attention", "sliding_attention"}


def test_ranks_are_said_for_the_layers_that_have_them(small_vocabulary):
    # Local layers have two key-value heads and global ones one; both have four query heads.
    from coderllm_jax.export.peft_folder import adapter_config

    model = small_model(small_vocabulary, architecture=KINDS["gemma4"])
    ranks = adapter_config(model, base_model="org/base")["rank_pattern"]
    local, wide = r"layers\.(0|1|3|4)\.self_attn\.", r"layers\.(2|5)\.self_attn\."
    assert ranks == {
        f"{local}q_proj": 12,
        f"{wide}q_proj": 12,
        f"{local}k_proj": 6,
        f"{local}v_proj": 6,
    }
