"""Presets and folders: what is understood loads, what is refused says what to set."""

from __future__ import annotations

import dataclasses
import fnmatch
import json

import jax
import kagglehub
import keras_hub
import numpy as np
import pytest

from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.errors import ModelError
from coderllm_jax.model import keras_bridge, presets
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place

# Keras 3.15 saves a variable through an __array__ that numpy 2 finds old-fashioned, and KerasHub
# 0.32 leaves a tokenizer's file to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# KerasHub's constructor makes every sixth layer global, and a saved preset holds no other choice.
# More than ten layers, so that names such as block_10 sort before block_2.
SAVED = dataclasses.replace(TINY, global_every=6, vocabulary=320, num_layers=12)


def _load(name, tmp_path):
    return load_model(name, dtype="float32", cache_dir=str(tmp_path / "unused"))


@pytest.fixture
def saved_preset(tmp_path, small_vocabulary):
    """A Keras folder written by KerasHub itself."""
    weights = place(random_leaves(SAVED, seed=0), SAVED, dtype="float32")
    keras_bridge.to_keras_hub(SAVED, weights).save_to_preset(str(tmp_path / "preset"))
    proto = build_sentencepiece(*small_vocabulary)
    tokenizer = keras_hub.models.Gemma3Tokenizer(proto=proto)
    tokenizer.save_to_preset(str(tmp_path / "preset"))
    return tmp_path / "preset"


def test_a_saved_keras_folder_comes_back(saved_preset, tmp_path):
    model = _load(str(saved_preset), tmp_path)
    expected = place(random_leaves(SAVED, seed=0), SAVED, dtype="float32")
    assert model.architecture == SAVED
    jax.tree.map(np.testing.assert_array_equal, model.weights, expected)
    assert model.tokenizer.start_of_turn_id == 5
    assert model.tokenizer.decode(model.tokenizer.encode("def x")) == "def x"


def test_a_folder_that_names_another_class_is_never_deserialized(saved_preset, tmp_path):
    config = json.loads((saved_preset / "config.json").read_text())
    config |= {"module": "os", "class_name": "system", "config": {"command": "true"}}
    (saved_preset / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="neither model_type nor class_name"):
        _load(str(saved_preset), tmp_path)


def test_a_damaged_keras_folder_ends_with_one_line(saved_preset, tmp_path):
    (saved_preset / "model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="not a readable HDF5 file") as caught:
        _load(str(saved_preset), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "handle"),
    [
        ("gemma-2b", "keras/gemma/keras/gemma_2b_en"),
        ("gemma_2b_en", "keras/gemma/keras/gemma_2b_en"),
        ("gemma2_9b_en", "keras/gemma2/keras/gemma2_9b_en"),
        ("gemma-2-27b", "keras/gemma2/keras/gemma2_27b_en"),
        ("gemma3_27b", "keras/gemma3/keras/gemma3_27b"),
        ("gemma4_31b", "keras/gemma4/keras/gemma4_31b"),
    ],
)
def test_every_family_is_asked_for_by_its_name(tmp_path, monkeypatch, name, handle):
    def refused(asked, path):
        raise PermissionError(f"not allowed: {asked}")

    monkeypatch.setattr(kagglehub, "model_download", refused)
    with pytest.raises(ModelError, match=f"not allowed: {handle}"):
        _load(name, tmp_path)


def test_a_model_that_cannot_run_is_not_fetched(tmp_path, monkeypatch):
    sizes = {"num_layers": 35, "vocabulary_size": 512, "hidden_dim": 32, "intermediate_dim": 64}
    heads = {"num_query_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16}
    values = sizes | heads | {"num_kv_shared_layers": 20}
    config = {"class_name": "Gemma4Backbone", "config": values}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = []

    def download(handle, path):
        asked.append(path)
        return str(tmp_path / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    with pytest.raises(ModelError, match=r"share keys and values.*expected a dense one"):
        _load("gemma4_2b", tmp_path)
    assert asked == ["config.json"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gemma3-270m", "gemma3_270m"), ("gema3_1b", "gemma3_1b"), ("tinny", "tiny")],
)
def test_a_misspelling_is_answered_with_the_name(tmp_path, name, meant):
    with pytest.raises(ModelError, match=f"did you mean '{meant}'"):
        _load(name, tmp_path)


def test_nonsense_is_answered_with_what_is_expected(tmp_path):
    with pytest.raises(ModelError, match=r"hf://org/name.*for instance gemma3_270m, tiny"):
        _load("qqqqqqqqqqqqqq", tmp_path)


def test_a_gated_preset_says_what_to_set_and_shows_no_secret(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError("403 for key s3cr3t-value\nsecond line")

    monkeypatch.setenv("KAGGLE_KEY", "s3cr3t-value")
    monkeypatch.setattr(kagglehub, "model_download", refused)
    with pytest.raises(ModelError, match="KAGGLE_USERNAME and KAGGLE_KEY") as caught:
        _load("gemma3_1b", tmp_path)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gated_repository_says_what_to_set_and_shows_no_secret(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def refused(*args, **kwargs):
        raise PermissionError("401 for hf_s3cr3t")

    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ModelError, match="set HF_TOKEN") as caught:
        _load("hf://google/gemma-3-1b-it", tmp_path)
    assert "s3cr3t" not in str(caught.value)


def test_a_fetched_repository_is_opened_and_its_commit_recorded(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def fetched(repository, *, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(tmp_path / "c0ffee")

    opened = presets.OpenedModel(TINY, (), None, "folder c0ffee", "0" * 64)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(presets, "open_folder", lambda folder: opened)
    found = presets.open_hub("hf://org/name")
    assert found.source == "hf://org/name at c0ffee"
    assert asked["repository"] == "org/name"
    # Neither pickles nor code are ever fetched.
    unsafe = ("pytorch_model.bin", "model.pt", "model.pkl", "modeling_gemma.py")
    assert not [name for name in unsafe for p in asked["patterns"] if fnmatch.fnmatch(name, p)]
