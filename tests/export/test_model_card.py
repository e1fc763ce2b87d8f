"""What the card of a PEFT adapter says of the base that it was proven on."""

from __future__ import annotations

from coderllm_jax.export.model_card import model_card
from coderllm_jax.export.provenance import Provenance

FOUND = {
    "versions": {"peft": "1.2"},
    "program": {"positions": 36, "difference": 1e-5, "kl": 1e-9, "flips": 0},
    "rounding": None,
    "num_texts": 5,
    "num_chats": 3,
}


def card_of(base, repository, *, is_multimodal=False, found=FOUND):
    provenance = Provenance(
        name="it",
        base=base,
        base_repository=repository,
        base_is_multimodal=is_multimodal,
        identity={"trained": {"kind": "lora"}},
        training={},
        data={},
        lora={"rank": 3},
        base_source="",
        figures={},
    )
    marks = ("<start_of_turn>", "<end_of_turn>")
    return model_card(
        provenance, "gemma3", format="peft", files=[], verifications={"peft": found}, marks=marks
    )


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
