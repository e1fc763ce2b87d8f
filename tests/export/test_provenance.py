"""Names under which others know a model, none that tells of this machine, and a run's records."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pytest

from coderllm_jax.export.provenance import (
    default_name,
    is_multimodal,
    public_name,
    read_provenance,
    repository_of,
)
from coderllm_jax.training.run_folder import RunFolder


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
    assert default_name("gemma3_1b", "gemma3_1b", None) == "gemma3_1b"
    assert default_name("same", "runs/same", None) == "same"


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


# --- a run's own records -------------------------------------------------------------------------

TRAINED = {"step": 40, "sha256": "abc"}


@pytest.fixture
def model(tmp_path):
    """A run that was trained and evaluated, as `load_trained` gives it."""
    folder = RunFolder(tmp_path / "runs" / "first")
    folder.report.mkdir(parents=True)
    folder.config.write_text(
        json.dumps(
            {"batch_size": 4, "learning_rate": 1e-3, "steps": 99, "lora": {"rank": 8, "alpha": 16}}
        )
    )
    folder.manifest.write_text(
        json.dumps({"data": {"sha256": "d", "secret": 1}, "model": {"source": "folder base"}})
    )
    folder.summary.write_text(json.dumps({"steps": 50, "loss_tokens": 7, "seed": None}))
    evaluate(folder, TRAINED)
    identity = {"name": "/home/me/base", "trained": TRAINED}
    return SimpleNamespace(identity=identity, run=folder.path, adapters={"query": {}})


def evaluate(folder, trained):
    """results.json of the model of that identity."""
    figures = {
        "exact": {"value": 0.5, "low": 0.25, "high": None, "num_items": 8, "words": "half"},
        "absent": {"value": None},
    }
    results = {
        "manifest": {"answerer": {"model": {"trained": trained}}},
        "suites": {"facts": {"figures": figures}},
    }
    file = folder.path / "evaluation" / "results.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results))


def test_what_the_run_wrote_is_told_and_nothing_else(model):
    found = read_provenance(model, path="runs/first")
    assert (found.name, found.base, found.base_repository) == ("base-first", "base", "")
    assert found.identity == {"name": "base", "trained": TRAINED}
    # The summary's steps are those that were made; the checkpoint's is the one that is exported.
    assert found.training == {
        "step": 40,
        "steps": 50,
        "loss_tokens": 7,
        "learning_rate": 1e-3,
        "batch_size": 4,
    }
    assert found.data == {"sha256": "d"}
    assert found.lora == {"rank": 8, "alpha": 16}
    assert found.base_source == "folder base"
    assert found.figures == {"facts/exact": {"value": 0.5, "low": 0.25, "num_items": 8}}


def test_a_folder_of_a_multimodal_model_is_known_though_its_place_is_not_told(model, tmp_path):
    assert not read_provenance(model).base_is_multimodal
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    model.identity["name"] = str(tmp_path)
    found = read_provenance(model)
    assert (found.base, found.base_is_multimodal) == (tmp_path.name, True)


def test_names_that_were_set_are_taken_and_full_weights_have_no_rank(model):
    model.adapters = {}
    found = read_provenance(model, name="mine", base_model="org/base")
    assert (found.name, found.base_repository, found.lora) == ("mine", "org/base", {})


def test_an_earlier_models_figures_are_not_this_ones(model):
    evaluate(RunFolder(model.run), {**TRAINED, "step": 20})
    assert read_provenance(model).figures == {}


def test_a_model_without_a_run_has_its_name_alone():
    model = SimpleNamespace(identity={"name": "gemma3_1b"}, run=None, adapters={})
    found = read_provenance(model, path="gemma3_1b")
    assert (found.name, found.base_repository) == ("gemma3_1b", "google/gemma-3-1b-pt")
    assert read_provenance(model, base_model="me/copy").base_repository == "me/copy"
    assert not found.training
    assert not found.figures
