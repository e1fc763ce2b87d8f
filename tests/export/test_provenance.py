"""Names under which others know a model, and none that tells of this machine."""

from __future__ import annotations

import json

import huggingface_hub
import pytest

from coderllm_jax.export.provenance import (
    default_name,
    is_multimodal,
    public_name,
    repository_of,
)


@pytest.mark.parametrize(
    ("base", "repository"),
    [
        ("gemma-2b", "google/gemma-2b"),
        ("gemma_instruct_7b_en", "google/gemma-7b-it"),
        ("gemma_1.1_instruct_2b_en", "google/gemma-1.1-2b-it"),
        ("code_gemma_1.1_2b_en", "google/codegemma-1.1-2b"),
        ("gemma-2-9b", "google/gemma-2-9b"),
        ("gemma2_instruct_27b_en", "google/gemma-2-27b-it"),
        ("gemma3_270m", "google/gemma-3-270m"),
        ("gemma3_instruct_270m", "google/gemma-3-270m-it"),
        ("gemma3_4b", "google/gemma-3-4b-pt"),
        ("gemma3_instruct_12b_text", "google/gemma-3-12b-it"),
        ("gemma4_31b", "google/gemma-4-31B"),
        ("gemma4_instruct_31b", "google/gemma-4-31B-it"),
        ("hf://org/name", "org/name"),
        ("vault_gemma_1b_en", ""),
        ("tiny", ""),
    ],
)
def test_the_hub_s_name(base, repository):
    assert repository_of(base) == repository


def test_paths_of_this_machine_are_not_told():
    assert public_name("/home/me/models/gemma-2b-it") == "gemma-2b-it"
    assert public_name("gguf:/data/m.gguf") == "m.gguf"
    assert public_name("hf://org/name") == "hf://org/name"
    assert default_name("m.gguf", "runs/a b", None) == "m.gguf-a-b"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("gemma3_270m", False),
        ("gemma3_instruct_1b", False),
        ("gemma3_4b", True),
        ("gemma3_instruct_27b_text", True),
        ("gemma4_31b", True),
        ("gemma2_27b_en", False),
    ],
)
def test_published_models_with_a_vision_tower_are_known(preset, expected):
    assert is_multimodal(preset, repository_of(preset)) is expected


@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_a_folder_or_repository_tells_by_its_config(tmp_path, monkeypatch, kind):
    asked = []

    def in_cache(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_cache)
    for model_type, expected in ((kind, True), (f"{kind}_text", False)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert is_multimodal(str(tmp_path), "") is expected
        assert is_multimodal("hf://org/tuned", "org/tuned") is expected
        # The name that the user gave the base says more than what was loaded.
        assert is_multimodal(str(tmp_path), "google/gemma-3-12b-it")
    assert asked[0] == ("org/tuned", "config.json")
