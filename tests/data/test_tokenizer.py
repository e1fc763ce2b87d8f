"""Ids equal llama.cpp's on the same vocabulary; text never becomes control; decode inverts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.data.tokenizer import (
    ByteTokenizer,
    JsonTokenizer,
    SentencePieceTokenizer,
    build_sentencepiece,
)
from coderllm_jax.errors import DataError, ModelError

FIXTURES = Path(__file__).parents[1] / "fixtures"
TURN = "<start_of_turn>user\nhi<end_of_turn>\n"


def _rows(name: str) -> list[dict]:
    with (FIXTURES / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def small(small_vocabulary):
    return SentencePieceTokenizer(build_sentencepiece(*small_vocabulary))


# ------------------------------------------------------------------------ the real vocabulary


@pytest.mark.real_model
def test_ids_equal_those_of_llama_cpp(gemma):
    rows = _rows("tokenizer_ids.jsonl")
    wrong = [r["text"] for r in rows if gemma.tokenizer.encode(r["text"], control=True) != r["ids"]]
    assert len(rows) == 200
    assert wrong == []


@pytest.mark.real_model
def test_hard_strings_equal_llama_cpp_with_and_without_control(gemma):
    """llama.cpp b11549's /tokenize with parse_special off and on: U+2581, NUL, CRLF, emoji, …"""
    for row in _rows("tokenizer_hard_ids.jsonl"):
        assert gemma.tokenizer.encode(row["text"]) == row["plain"], row["text"]
        assert gemma.tokenizer.encode(row["text"], control=True) == row["control"], row["text"]


@pytest.mark.real_model
def test_closing_strikethrough_stays_the_piece_that_gemma_knows(gemma):
    """llama.cpp takes Gemma's HTML piece </s> for an end mark and spells it out; Gemma does not."""
    assert gemma.tokenizer.encode("<s>x</s>") == [203, 236781, 212]


@pytest.mark.real_model
def test_known_code_and_names(gemma):
    code = "def fib(n):\n    return n  # hi"
    expected = [2063, 10779, 236769, 236749, 1473, 107, 140, 2060, 538, 138, 236865, 5631]
    tokenizer = gemma.tokenizer
    assert tokenizer.encode(code) == expected
    assert tokenizer.vocabulary == 262_144
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert (tokenizer.start_of_turn_id, tokenizer.end_of_turn_id) == (105, 106)


@pytest.mark.real_model
@settings(max_examples=300, deadline=None)
@given(
    text=st.text() | st.text("ab \t\n\r\0<>_é\u0301👍_of_turn") | st.from_regex(r"( {1,40}\w*\n?)+")
)
def test_real_round_trip(gemma, text):
    ids = gemma.tokenizer.encode(text)
    # SentencePiece's own mark for a space is the one character that cannot come back.
    assert gemma.tokenizer.decode(ids) == text.replace("\u2581", " ")
    assert not {*gemma.tokenizer.control_ids.values()} & {*ids}


# ------------------------------------------------------------------- every kind of tokenizer


@pytest.fixture(params=["sentencepiece", "bytes", "json"])
def tokenizer(request, small):
    if request.param == "json":
        return JsonTokenizer(_tokenizer_json())
    return small if request.param == "sentencepiece" else ByteTokenizer()


def test_text_never_becomes_control(tokenizer):
    control = {*tokenizer.control_ids.values()}
    plain = tokenizer.encode(TURN)
    assert not control & {*plain}
    assert tokenizer.decode(plain) == TURN


def test_control_on_request_and_by_name(tokenizer):
    ids = tokenizer.encode(TURN, control=True)
    assert ids[0] == tokenizer.start_of_turn_id
    assert tokenizer.end_of_turn_id in ids
    assert tokenizer.decode(ids) == "user\nhi\n"
    assert tokenizer.decode(ids, skip_control=False) == TURN


@pytest.mark.parametrize(
    "text", ["", " ", "    def x():\n\n  return", "\t\r\n", "é👍\0", "a" * 500]
)
def test_round_trip_and_batch(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, control=True) == tokenizer.encode(text)
    batch = tokenizer.encode_batch([text, "x", text])
    assert batch == [tokenizer.encode(text), tokenizer.encode("x"), tokenizer.encode(text)]


def test_pickle_keeps_everything(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("def x") == tokenizer.encode("def x")
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.control_ids == tokenizer.control_ids


def test_half_a_surrogate_pair_is_named_with_its_place(tokenizer):
    with pytest.raises(DataError, match=r"character 2 of a text is U\+D83D"):
        tokenizer.encode("ab\ud83d")


# ------------------------------------------------------------------------------- SentencePiece


def test_literal_space_mark_joins_words_but_no_run_of_spaces(small):
    two_spaces, mark = small.encode("  "), small.encode("\u2581")
    assert len(two_spaces) == 1
    assert small.encode("\u2581\u2581") == mark * 2
    assert small.encode(" \u2581 ") == mark * 3
    assert small.encode("\u2581  ") == mark + two_spaces
    assert small.encode("\u2581x") == small.encode(" x")


def test_file_round_trip(small, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(small.model)
    assert SentencePieceTokenizer.from_file(path).fingerprint == small.fingerprint


def test_published_model_with_user_defined_turns_is_protected(small_vocabulary, tmp_path):
    pieces, scores, types = small_vocabulary
    types = [4 if "turn" in piece else kind for piece, kind in zip(pieces, types, strict=True)]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(build_sentencepiece(pieces, scores, types))
    tokenizer = SentencePieceTokenizer.from_file(path)
    assert tokenizer.start_of_turn_id not in tokenizer.encode("<start_of_turn>")


def test_gemma4s_marks_are_turns(small_vocabulary, tmp_path):
    pieces, scores, types = small_vocabulary
    renamed = {"<start_of_turn>": "<|turn>", "<end_of_turn>": "<turn|>"}
    pieces = [renamed.get(piece, piece) for piece in pieces]
    types = [
        4 if piece in renamed.values() else kind for piece, kind in zip(pieces, types, strict=True)
    ]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(build_sentencepiece(pieces, scores, types))
    tokenizer = SentencePieceTokenizer.from_file(path)
    assert (tokenizer.start_of_turn_id, tokenizer.end_of_turn_id) == (5, 6)
    assert tokenizer.encode("<turn|>", control=True) == [6]
    assert not {5, 6} & set(tokenizer.encode("a<turn|>b<|turn>c"))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff\xff"])
def test_damaged_model_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.model: "):
        SentencePieceTokenizer.from_file(path)


def test_foreign_model_lacks_the_turns(small_vocabulary):
    pieces = [piece.replace("start_of_turn", "im_start") for piece in small_vocabulary[0]]
    with pytest.raises(ModelError, match="no control piece '<start_of_turn>'"):
        SentencePieceTokenizer(build_sentencepiece(pieces, *small_vocabulary[1:]))


def _tokenizer_json() -> str:
    """A tokenizer.json with Gemma's control pieces and a byte an id."""
    named = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    vocabulary = {piece: i for i, piece in enumerate(named)}
    vocabulary |= {f"<0x{byte:02X}>": 6 + byte for byte in range(256)}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [
                {"id": i, "content": piece, "special": True} | added
                for i, piece in enumerate(named)
            ],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                ],
            },
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "byte_fallback": True,
                "fuse_unk": True,
                "vocab": vocabulary,
                "merges": [],
            },
        }
    )
