"""A GGUF as the gguf package and our own reader see it: vocabulary, numbers, rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coderllm_jax.data.tokenizer import SentencePieceTokenizer, build_sentencepiece
from coderllm_jax.errors import ModelError
from coderllm_jax.export import layout
from coderllm_jax.export.gguf_file import write_gguf
from coderllm_jax.export.reading_back import check_gguf
from coderllm_jax.export.tokenizer_files import CHAT_TEMPLATE
from coderllm_jax.model import gguf as reader
from tests.export.small_model import KINDS, SMALL, small_model

gguf = pytest.importorskip("gguf")


def write(folder, model, kind="f32"):
    file = folder / f"m-{kind}.gguf"
    write_gguf(file, model, kind=kind, name="m")
    return file


def leaves_of(file):
    opened = reader.open_gguf(file)
    return dict(reader.read_weights(opened, reader.architecture_of(opened)))


def test_float32_comes_back_as_it_was_merged(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    leaves = leaves_of(write(tmp_path, model))
    for path, layer in model.tensors():
        found, meant = leaves[path].read(layer or 0), model.read(path, layer)
        # A norm is stored as 1 + scale, which costs the scale's last digits.
        limit = 1e-7 if path.endswith("norm") else 0
        np.testing.assert_allclose(found, meant, atol=limit, rtol=0, err_msg=path)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_each_number_format_reads_back_and_a_changed_byte_is_noticed(
    tmp_path, small_vocabulary, kind
):
    model = small_model(small_vocabulary)
    file = write(tmp_path, model, kind)
    check_gguf(file, model, kind=kind)
    entry = reader.open_gguf(file).tensors["blk.4.ffn_up.weight"]
    data = bytearray(file.read_bytes())
    # Past a block's scale, and a byte that holds a sign in all four formats.
    data[entry.offset + 35] ^= 0x80
    file.write_bytes(data)
    with pytest.raises(ModelError, match="ffw_gating_2 of layer 4"):
        check_gguf(file, model, kind=kind)


def test_tensors_of_many_chunks_are_whole(tmp_path, small_vocabulary, monkeypatch):
    model = small_model(small_vocabulary)
    whole = write(tmp_path, model, "q8_0").read_bytes()
    monkeypatch.setattr(layout, "_CHUNK_ITEMS", 100)
    file = write(tmp_path, model, "q8_0")
    assert file.read_bytes() == whole
    check_gguf(file, model, kind="q8_0")


def test_the_package_s_own_reader_agrees(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    tensors = {t.name: t for t in gguf.GGUFReader(write(tmp_path, model, "q8_0")).tensors}
    assert len(tensors) == 2 + SMALL.num_layers * 13
    up = tensors["blk.2.ffn_up.weight"]
    assert up.tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert tuple(up.shape) == (SMALL.width, SMALL.feed_forward)  # the fastest axis first
    found = gguf.dequantize(up.data, up.tensor_type)
    np.testing.assert_allclose(found, model.block("ffw_gating_2", 2).T, atol=0.02)
    norm = tensors["blk.2.attn_norm.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32
    expected = 1 + model.block("pre_attention_norm", 2)
    np.testing.assert_array_equal(norm.data, expected)


def test_the_vocabulary_is_the_one_it_was_made_from(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    pieces, scores, types = reader.vocabulary_of(reader.open_gguf(write(tmp_path, model)))
    given = small_vocabulary
    padding = SMALL.vocabulary - len(given[0])
    assert pieces == given[0] + [f"[PAD{i}]" for i in range(len(given[0]), SMALL.vocabulary)]
    assert scores[: len(given[1])] == given[1]
    unknown = given[0].index("<unk>")
    expected = list(given[2])
    expected[unknown] = 2  # what the unknown piece is, where its source had it as control
    assert types == expected + [5] * padding
    assert pieces.index("    ") == model.tokenizer.encode("    ")[0]
    rebuilt = SentencePieceTokenizer(build_sentencepiece(pieces, scores, types))
    for text in ("def x", "    return", "naïve\n\n"):
        assert rebuilt.encode(text) == model.tokenizer.encode(text)


def test_special_tokens_and_template(tmp_path, small_vocabulary):
    model = small_model(small_vocabulary)
    found = reader.open_gguf(write(tmp_path, model)).metadata
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "eot": "end_of_turn"}
    for key, ours in named.items():
        expected = getattr(model.tokenizer, f"{ours}_id")
        assert found[f"tokenizer.ggml.{key}_token_id"] == expected
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_eos_token"] is False
    assert found["tokenizer.ggml.add_space_prefix"] is False
    assert found["tokenizer.chat_template"] == CHAT_TEMPLATE
    base = dataclasses.replace(model, knows_turns=False)
    assert "tokenizer.chat_template" not in reader.open_gguf(write(tmp_path, base)).metadata


@pytest.mark.parametrize(("kind", "file_type"), [("f32", 0), ("f16", 1), ("q8_0", 7), ("bf16", 32)])
def test_the_header_says_what_the_file_is(tmp_path, small_vocabulary, kind, file_type):
    """Types by llama.cpp's numbers of them."""
    found = reader.open_gguf(write(tmp_path, small_model(small_vocabulary), kind)).metadata
    assert found["general.file_type"] == file_type
    assert (found["general.type"], found["general.name"]) == ("model", "m")
    assert found["general.license"] == "gemma"


def test_a_gemma_4_says_what_llama_cpp_would_take_for_given(tmp_path, small_vocabulary):
    uncapped = dataclasses.replace(KINDS["gemma4"], final_soft_cap=0.0)
    model = small_model(small_vocabulary, targets=(), architecture=uncapped)
    found = reader.open_gguf(write(tmp_path, model)).metadata
    assert found["gemma4.final_logit_softcapping"] == 0  # 30 where nothing is said
    assert found["gemma4.attention.shared_kv_layers"] == 0
    # Whole heads: global ones of 16, local ones of 8.
    assert found["gemma4.rope.dimension_count"] == 16
    assert found["gemma4.rope.dimension_count_swa"] == 8
    assert found["general.license"] == "apache-2.0"


def test_marks_for_images_without_a_row_are_left_out(tmp_path, small_vocabulary):
    narrow = dataclasses.replace(SMALL, vocabulary=len(small_vocabulary[0]) - 2)
    model = small_model(small_vocabulary, targets=(), architecture=narrow)
    pieces, _, _ = reader.vocabulary_of(reader.open_gguf(write(tmp_path, model)))
    assert pieces == small_vocabulary[0][:-2]


@pytest.mark.parametrize(
    "changes", [{"rope_local_scaling": 2.0}, {"attention_soft_cap": 50.0}, {"query_scale": 0.1}]
)
def test_what_llama_cpp_cannot_be_told_is_refused(tmp_path, small_vocabulary, changes):
    architecture = dataclasses.replace(SMALL, **changes)
    model = small_model(small_vocabulary, targets=(), architecture=architecture)
    with pytest.raises(ModelError, match="cannot say all of this model"):
        write(tmp_path, model)


def test_stretched_rotation_and_a_soft_cap_are_said(tmp_path, small_vocabulary):
    architecture = dataclasses.replace(SMALL, rope_global_scaling=8.0, final_soft_cap=30.0)
    model = small_model(small_vocabulary, targets=(), architecture=architecture)
    file = reader.open_gguf(write(tmp_path, model))
    assert reader.architecture_of(file) == architecture
    assert file.metadata["gemma3.context_length"] == 131_072


def test_rows_that_q8_0_cannot_pack_are_named(tmp_path, small_vocabulary):
    narrow = dataclasses.replace(SMALL, feed_forward=48)
    model = small_model(small_vocabulary, targets=(), architecture=narrow)
    with pytest.raises(ModelError, match=r"blocks of 32.*gguf_types=f16"):
        write(tmp_path, model, "q8_0")
