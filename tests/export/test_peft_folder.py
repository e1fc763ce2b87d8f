"""Per-head adapters as PEFT's matrices: the same update, entry by entry."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax.errors import ModelError
from coderllm_jax.export.layout import stored_view
from coderllm_jax.export.peft_folder import peft_matrices, write_peft
from coderllm_jax.export.reading_back import check_peft
from tests.export.small_model import ALPHA, RANK, SMALL, TARGETS, small_model


def write(folder, vocabulary, **changes):
    model = small_model(vocabulary, **changes)
    write_peft(folder, model, base_model="org/base", max_length=64)
    return model


def test_two_heads_by_hand():
    # Two heads, width 2, head size 2, rank 1: A is one vector a head, B one row for both.
    a = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])  # [H, D, R]
    b = np.array([[5.0, 6.0]])  # [R, K]
    lora_a, lora_b = peft_matrices("query", a, b)
    assert lora_a.tolist() == [[1, 2], [3, 4]]
    assert lora_b.tolist() == [[5, 0], [6, 0], [0, 5], [0, 6]]
    # Rows are head 0 and head 1, two outputs each; columns the width.
    assert (lora_b @ lora_a).tolist() == [[5, 10], [6, 12], [15, 20], [18, 24]]


@pytest.mark.parametrize("name", TARGETS)
def test_the_update_is_the_adapter_s_product(small_vocabulary, name):
    model = small_model(small_vocabulary, targets=(name,))
    a, b = (model.adapters[name][part][1] for part in ("a", "b"))
    lora_a, lora_b = peft_matrices(name, a, b)
    expected = stored_view(name, model.delta(name, 1), SMALL)
    np.testing.assert_allclose(lora_b @ lora_a, expected, atol=1e-6)


def test_ranks_and_scales_are_said_for_each_module(tmp_path, small_vocabulary):
    write(tmp_path, small_vocabulary)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    # Four query heads and two of keys and values, each with its own A; the rest as trained.
    assert config["r"] == RANK
    assert config["rank_pattern"] == {"q_proj": 12, "k_proj": 6, "v_proj": 6}
    for module, rank in config["rank_pattern"].items():
        assert config["alpha_pattern"][module] / rank == ALPHA / RANK
    assert config["lora_alpha"] / config["r"] == ALPHA / RANK
    assert config["base_model_name_or_path"] == "org/base"
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@pytest.mark.parametrize("key", ["fan_in_fan_out", "use_rslora", "use_dora"])
def test_nothing_is_said_that_makes_another_update_of_the_same_numbers(
    tmp_path, small_vocabulary, key
):
    write(tmp_path, small_vocabulary)
    assert not json.loads((tmp_path / "adapter_config.json").read_text()).get(key)


@pytest.mark.parametrize("knows_turns", [True, False])
def test_turns_go_with_an_adapter_that_knows_them(tmp_path, small_vocabulary, knows_turns):
    write(tmp_path, small_vocabulary, knows_turns=knows_turns)
    assert (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "chat_template.jinja").exists() == knows_turns


def test_tensors_have_peft_s_names_and_shapes(tmp_path, small_vocabulary):
    write(tmp_path, small_vocabulary, targets=("query", "ffw_linear"))
    found = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert len(found) == SMALL.num_layers * 2 * 2
    prefix = "base_model.model.model.layers.6"
    assert found[f"{prefix}.self_attn.q_proj.lora_A.weight"].shape == (4 * RANK, SMALL.width)
    assert found[f"{prefix}.self_attn.q_proj.lora_B.weight"].shape == (4 * 8, 4 * RANK)
    assert found[f"{prefix}.mlp.down_proj.lora_A.weight"].shape == (RANK, SMALL.feed_forward)


def test_it_reads_back_and_a_changed_number_is_noticed(tmp_path, small_vocabulary):
    model = write(tmp_path, small_vocabulary)
    check_peft(tmp_path, model)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = "base_model.model.model.layers.3.mlp.up_proj.lora_B.weight"
    tensors[name][0, 0] *= 1.001
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ModelError, match="ffw_gating_2 of layer 3"):
        check_peft(tmp_path, model)


def test_a_forgotten_scale_is_noticed(tmp_path, small_vocabulary):
    model = write(tmp_path, small_vocabulary)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["alpha_pattern"].pop("q_proj")
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="query of layer 0"):
        check_peft(tmp_path, model)


def test_for_a_multimodal_base_they_are_the_text_model_s_and_no_others(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    write_peft(tmp_path, model, base_model="org/base", max_length=64, is_multimodal=True)
    check_peft(tmp_path, model, is_multimodal=True)
    found = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    modules = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in found}
    assert "model.language_model.layers.6.self_attn.q_proj" in modules
    # PEFT makes an adapter for each module that the pattern matches whole.
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert all(re.fullmatch(pattern, module) for module in modules)
    for other in (
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "model.language_model.layers.0.self_attn.q_norm",
        "model.layers.0.self_attn.q_proj",
    ):
        assert not re.fullmatch(pattern, other)
    with pytest.raises(ModelError, match="of layer 0 does not read back"):
        check_peft(tmp_path, model)


def test_a_rank_that_its_tensors_do_not_have_is_noticed(tmp_path, small_vocabulary):
    """The scale alone would be right."""
    model = write(tmp_path, small_vocabulary, targets=("ffw_linear",))
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {key: 2 * config[key] for key in ("r", "lora_alpha")}))
    with pytest.raises(ModelError, match="ffw_linear of layer 0"):
        check_peft(tmp_path, model)


def test_a_tensor_too_many_is_noticed(tmp_path, small_vocabulary):
    model = write(tmp_path, small_vocabulary)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"
    safetensors.numpy.save_file(tensors | {name: np.ones((3, 32), np.float32)}, file)
    with pytest.raises(ModelError, match=r"layers\.9.*which was not trained"):
        check_peft(tmp_path, model)
