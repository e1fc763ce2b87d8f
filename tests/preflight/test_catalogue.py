"""Models' numbers: their sums are those that KerasHub publishes."""

from __future__ import annotations

import json
import math

import pytest

from coderllm_jax.errors import ModelError
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


def test_what_people_call_them_is_understood_and_images_change_nothing():
    assert find_architecture("gemma-2b") is PRESETS["gemma_2b_en"]
    assert find_architecture("gemma3_instruct_4b") is PRESETS["gemma3_4b_text"]


def test_an_unknown_model_is_told_the_nearest():
    with pytest.raises(ModelError, match=r"'gemma3_4bb' are not known here.*'gemma3_4b'"):
        find_architecture("gemma3_4bb")


def test_a_folder_needs_no_weights(tmp_path):
    config = {
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
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_architecture(str(tmp_path))
    assert (found.num_layers, found.width, found.vocabulary) == (6, 32, 512)
