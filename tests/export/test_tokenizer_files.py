"""The same ids by every file that is written, and the same turns by the template."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jinja2
import jinja2.sandbox
import pytest
import tokenizers
from sentencepiece import SentencePieceProcessor

from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.data.tokenizer import (
    ByteTokenizer,
    JsonTokenizer,
    SentencePieceTokenizer,
    build_sentencepiece,
)
from coderllm_jax.errors import ModelError
from coderllm_jax.export.tokenizer_files import (
    CHAT_TEMPLATE,
    check_tokenizer,
    published_model,
    vocabulary_of,
    write_tokenizer,
)
from coderllm_jax.records import Turn

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TEXTS = ["def x", "return  x\n\n    re", "naïve 日本 🙂", "     ", "a\u2581b", "<b>x", ""]


@pytest.fixture
def tokenizer(small_vocabulary):
    return SentencePieceTokenizer(build_sentencepiece(*small_vocabulary))


@pytest.fixture
def folder(tokenizer, tmp_path):
    write_tokenizer(tmp_path, tokenizer, max_length=64, chat=True)
    return tmp_path


def random_texts(count):
    generator = random.Random(0)
    parts = ["def ", "return", " ", "  ", "    ", "\n", "x", "de", "ré", "<b>", "\u2581", "_"]
    return ["".join(generator.choices(parts, k=12)) for _ in range(count)]


def test_tokenizer_json_gives_the_same_ids_and_texts(folder, tokenizer):
    found = JsonTokenizer.from_file(folder / "tokenizer.json")
    for text in [*TEXTS, *random_texts(300)]:
        ids = tokenizer.encode(text)
        assert found.encode(text) == ids, repr(text)
        assert found.decode(ids) == tokenizer.decode(ids)


def test_every_text_begins_with_exactly_one_bos(folder, tokenizer):
    found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert found.encode("def x").ids == [tokenizer.bos_id, *tokenizer.encode("def x")]
    assert found.encode("x", "x").ids == [2, *tokenizer.encode("x")] * 2


def test_marks_are_special_and_runs_of_spaces_are_not(folder, tokenizer):
    added = {
        entry["content"]: entry
        for entry in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }
    assert added["<end_of_turn>"]["special"]
    assert added["<unk>"]["special"]
    assert added["    "]["id"] == tokenizer.encode("    ")[0]
    assert not added["    "]["special"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert (config["bos_token"], config["eos_token"]) == ("<bos>", "<eos>")
    # Batches of prompts end together, where answers begin.
    assert (config["padding_side"], config["model_max_length"]) == ("left", 64)


def test_the_published_model_makes_marks_of_text_and_ours_takes_them_back(folder, tokenizer):
    published = SentencePieceProcessor()
    published.LoadFromSerializedProto(published_model(tokenizer))
    assert published.Encode("<start_of_turn>x")[0] == tokenizer.start_of_turn_id
    assert not published.IsControl(tokenizer.end_of_turn_id)
    assert published.IsControl(tokenizer.bos_id)
    ours = SentencePieceTokenizer.from_file(folder / "tokenizer.model")
    assert ours.encode("<start_of_turn>") == tokenizer.encode("<start_of_turn>")
    assert ours.start_of_turn_id not in ours.encode("<start_of_turn>")


def test_only_a_model_that_knows_turns_gets_a_template(folder, tokenizer, tmp_path):
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    other = tmp_path / "base"
    other.mkdir()
    write_tokenizer(other, tokenizer, max_length=64, chat=False)
    assert not (other / "chat_template.jinja").exists()


# ------------------------------------------------------------------------------- the template


def render(*messages, prompt=True):
    def refuse(text):
        raise ValueError(text)

    # As transformers and llama-cpp-python set it up.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    turns = [{"role": role, "content": content} for role, content in messages]
    template = environment.from_string(CHAT_TEMPLATE)
    return template.render(messages=turns, bos_token="<bos>", add_generation_prompt=prompt)


def test_the_template_by_hand():
    assert render(
        ("system", "Be brief."), ("user", " Hi \n"), ("assistant", " ok"), ("user", "x")
    ) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\n ok<end_of_turn>\n"
        "<start_of_turn>user\nx<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "def x")],
        [("system", "s "), ("user", "  x  ")],
        [("user", "x"), ("assistant", "    y\n"), ("user", "z")],
    ],
)
def test_the_template_is_what_training_made(tokenizer, turns):
    expected = encode_prompt(
        tokenizer, [Turn("model" if role == "assistant" else role, text) for role, text in turns]
    )
    assert tokenizer.encode(render(*turns), control=True) == expected.tolist()


def test_a_whole_conversation_ends_as_training_saw_it():
    assert render(("user", "x"), ("assistant", "y"), prompt=False).endswith("y<end_of_turn>")


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<end_of_turn>" in render(("user", parts))


@pytest.mark.parametrize(
    "turns",
    [[("assistant", "x")], [("user", "x"), ("user", "y")], [("user", "x"), ("system", "y")]],
)
def test_turns_out_of_order_are_refused(turns):
    with pytest.raises(ValueError, match="must"):
        render(*turns)


# ---------------------------------------------------------------------------------- refusals


def test_what_a_format_cannot_hold_is_named(folder, tokenizer):
    given = JsonTokenizer.from_file(folder / "tokenizer.json")
    check_tokenizer(tokenizer, format="gguf")
    check_tokenizer(given, format="huggingface")
    with pytest.raises(ModelError, match=r"gguf.*needs Gemma's tokenizer\.model"):
        check_tokenizer(given, format="gguf")
    with pytest.raises(ModelError, match=r"keras.*needs Gemma's tokenizer\.model"):
        check_tokenizer(given, format="keras")
    with pytest.raises(ModelError, match="is bytes"):
        check_tokenizer(ByteTokenizer(), format="huggingface")


def test_a_tokenizer_json_stays_the_one_it_was(folder, tmp_path):
    given = JsonTokenizer.from_file(folder / "tokenizer.json")
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, given, max_length=64, chat=False)
    assert (other / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert not (other / "tokenizer.model").exists()


def rows(name):
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.real_model
def test_the_real_vocabulary_gives_llama_cpp_s_ids(gemma, tmp_path):
    write_tokenizer(tmp_path, gemma.tokenizer, max_length=64, chat=True)
    found = JsonTokenizer.from_file(tmp_path / "tokenizer.json")
    for row in rows("tokenizer_ids.jsonl"):
        assert found.encode(row["text"], control=True) == row["ids"], row["text"]
    for row in rows("tokenizer_hard_ids.jsonl"):
        assert found.encode(row["text"]) == row["plain"], row["text"]
        assert found.encode(row["text"], control=True) == row["control"], row["text"]
    assert len(vocabulary_of(gemma.tokenizer)) == 262_144
