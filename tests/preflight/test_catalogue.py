"""Models' numbers: their sums are those that KerasHub publishes."""

from __future__ import annotations

import json
import math

import pytest

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import FAMILIES
from coderllm_jax.model.weights import leaf_shapes
from coderllm_jax.preflight.catalogue import PRESETS, find_architecture

# KerasHub 0.32's metadata of its text-only presets.
WEIGHTS = {
    "gemma_2b_en": 2_506_172_416,
    "gemma_7b_en": 8_537_680_896,
    "gemma2_2b_en": 2_614_341_888,
    "gemma2_9b_en": 9_241_705_984,
    "gemma2_27b_en": 27_227_128_320,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b_text": 3_880_099_328,
    "gemma3_12b_text": 11_765_788_416,
    "gemma3_27b_text": 27_009_002_240,
}


@pytest.mark.parametrize(("name", "expected"), WEIGHTS.items())
def test_a_presets_weights_are_as_many_as_keras_hub_says(name, expected):
    assert sum(map(math.prod, leaf_shapes(find_architecture(name)).values())) == expected


def test_queries_of_both_27b_are_scaled_by_width():
    assert find_architecture("gemma3_27b").query_scale == pytest.approx(168**-0.5)
    assert find_architecture("gemma2_27b_en").query_scale == pytest.approx(144**-0.5)
    assert find_architecture("gemma3_12b").query_scale == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("gemma_2b_en", "gemma_7b_en"), (None, 1.0, 10_000.0, 0.0, 0.0)),
        (("gemma2_2b_en", "gemma2_9b_en", "gemma2_27b_en"), (4096, 1.0, 10_000.0, 50.0, 30.0)),
        (("gemma3_270m", "gemma3_1b"), (512, 1.0, 1_000_000.0, 0.0, 0.0)),
        (("gemma3_4b", "gemma3_12b", "gemma3_27b"), (1024, 8.0, 1_000_000.0, 0.0, 0.0)),
    ],
)
def test_windows_rotation_and_caps_which_no_sum_of_weights_sees(names, expected):
    for name in names:
        found = find_architecture(name)
        window = found.window if found.global_every > 1 else None
        rotation = (found.rope_global_scaling, found.rope_global)
        assert (window, *rotation, found.attention_soft_cap, found.final_soft_cap) == expected
        assert found.global_every == FAMILIES[found.family].global_every


def test_every_preset_of_a_size_has_its_numbers():
    for name, found in PRESETS.items():
        assert found is PRESETS[name.replace("1.1_", "").replace("instruct_", "")], name


def test_what_people_call_them_is_understood_and_images_change_nothing():
    assert find_architecture("gemma-2b") is PRESETS["gemma_2b_en"]
    assert find_architecture("gemma3_instruct_4b") is PRESETS["gemma3_4b_text"]


def test_an_unknown_model_is_told_the_nearest():
    with pytest.raises(ModelError, match=r"'gemma3_4bb' are not known here.*'gemma3_4b'"):
        find_architecture("gemma3_4bb")


TEXT = {
    "model_type": "gemma3_text",
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
}
KERAS = {
    "vocabulary_size": 512,
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "num_layers": 6,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "use_query_key_norm": True,
}


@pytest.mark.parametrize(
    "config",
    [
        TEXT,
        # With images the text model's numbers are a part.
        {"model_type": "gemma3", "text_config": TEXT},
        {"class_name": "Gemma3Backbone", "config": KERAS},
    ],
)
def test_a_folder_needs_no_weights(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_architecture(str(tmp_path))
    assert (found.num_layers, found.width, found.vocabulary) == (6, 32, 512)


def test_a_folder_of_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**TEXT, "model_type": "llama"}))
    with pytest.raises(ModelError, match="llama"):
        find_architecture(str(tmp_path))
