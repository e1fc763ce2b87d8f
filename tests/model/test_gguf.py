"""A GGUF written here by the `gguf` package comes back as the tree it was written from."""

from __future__ import annotations

import dataclasses

import gguf as writer
import numpy as np
import pytest

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.gguf import architecture_of, open_gguf, read_weights, vocabulary_of
from coderllm_jax.model.tiny import random_leaves

# The numbers a GGUF cannot say are llama.cpp's: every sixth layer global.
SMALL = dataclasses.replace(TINY, vocabulary=320, global_every=6)
OLD = dataclasses.replace(SMALL, window=4096, rope_global=1e4, query_key_norm=False)
GEMMA = dataclasses.replace(OLD, family="gemma", global_every=1, post_norms=False)
GEMMA2 = dataclasses.replace(OLD, family="gemma2", global_every=2, window=16)


def write_gguf(
    path,
    vocabulary,
    *,
    architecture=SMALL,
    leaves=None,
    kind=writer.GGMLQuantizationType.F32,
    **extra,
):
    """A GGUF of a small Gemma, written the way llama.cpp's converter lays tensors out."""
    file = writer.GGUFWriter(path, architecture.family)
    file.add_block_count(architecture.num_layers)
    file.add_embedding_length(architecture.width)
    file.add_feed_forward_length(architecture.feed_forward)
    file.add_head_count(architecture.num_heads)
    file.add_head_count_kv(architecture.num_kv_heads)
    file.add_key_length(architecture.head_size)
    file.add_layer_norm_rms_eps(architecture.norm_epsilon)
    if architecture.family != "gemma":
        file.add_sliding_window(architecture.window)
    if architecture.family == "gemma3":  # the older ones are 10,000, and do not say so
        file.add_rope_freq_base(architecture.rope_global)
    pieces, scores, types = vocabulary
    file.add_tokenizer_model("llama")
    file.add_token_list(pieces)
    file.add_token_scores(scores)
    file.add_token_types(types)
    for key, value in extra.items():
        file.add_float32(key.replace("__", "."), value)
    for name, values in _stored(dict(leaves or random_leaves(architecture, seed=0))).items():
        norm = name.endswith("norm.weight")
        stored = writer.GGMLQuantizationType.F32 if norm else kind
        raw = writer.quantize(values, stored)
        file.add_tensor(name, raw, raw_dtype=stored)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _stored(leaves):
    blocks = {
        "query": ("attn_q", lambda x: x.transpose(0, 2, 1).reshape(-1, x.shape[1])),
        "key": ("attn_k", lambda x: x.transpose(0, 2, 1).reshape(-1, x.shape[1])),
        "value": ("attn_v", lambda x: x.transpose(0, 2, 1).reshape(-1, x.shape[1])),
        "attention_output": ("attn_output", lambda x: x.reshape(-1, x.shape[-1]).T),
        "ffw_gating": ("ffn_gate", np.transpose),
        "ffw_gating_2": ("ffn_up", np.transpose),
        "ffw_linear": ("ffn_down", np.transpose),
        "pre_attention_norm": ("attn_norm", lambda x: x + 1),
        "query_norm": ("attn_q_norm", lambda x: x + 1),
        "key_norm": ("attn_k_norm", lambda x: x + 1),
        "post_attention_norm": ("post_attention_norm", lambda x: x + 1),
        "pre_ffw_norm": ("ffn_norm", lambda x: x + 1),
        "post_ffw_norm": ("post_ffw_norm", lambda x: x + 1),
    }
    stored = {
        "token_embd.weight": leaves["embedding"],
        "output_norm.weight": leaves["final_norm"] + 1,
    }
    for name, (theirs, change) in blocks.items():
        for i, values in enumerate(leaves.get(f"blocks/{name}", ())):
            stored[f"blk.{i}.{theirs}.weight"] = np.ascontiguousarray(change(values))
    return stored


@pytest.fixture
def small_file(tmp_path, small_vocabulary):
    return write_gguf(tmp_path / "small.gguf", small_vocabulary)


def test_architecture_and_vocabulary_come_from_the_file(small_file, small_vocabulary):
    file = open_gguf(small_file)
    assert architecture_of(file) == SMALL
    assert [list(items) for items in vocabulary_of(file)] == [*map(list, small_vocabulary)]


def test_every_leaf_comes_back(small_file):
    read = dict(read_weights(open_gguf(small_file), SMALL))
    written = dict(random_leaves(SMALL, seed=0))
    assert read.keys() == written.keys()
    for path, values in written.items():
        # 1 + s - 1 loses the last bits of a norm's scale; everything else is moved, not changed.
        np.testing.assert_allclose(read[path], values, atol=2e-7 if "norm" in path else 0)


@pytest.mark.parametrize("architecture", [GEMMA, GEMMA2], ids=["gemma", "gemma2"])
def test_older_families_come_back(tmp_path, small_vocabulary, architecture):
    file = open_gguf(write_gguf(tmp_path / "m.gguf", small_vocabulary, architecture=architecture))
    # A Gemma 2 file that is silent about caps is read as llama.cpp reads it.
    caps = {"attention_soft_cap": 50.0, "final_soft_cap": 30.0} if architecture is GEMMA2 else {}
    assert architecture_of(file) == dataclasses.replace(architecture, **caps)
    read, written = (
        dict(read_weights(file, architecture)),
        dict(random_leaves(architecture, seed=0)),
    )
    assert read.keys() == written.keys()
    for path, values in written.items():
        np.testing.assert_allclose(read[path], values, atol=2e-7 if "norm" in path else 0)


def test_soft_caps_and_the_27b_of_gemma2(tmp_path, small_vocabulary):
    file = open_gguf(write_gguf(tmp_path / "m.gguf", small_vocabulary, architecture=GEMMA2))
    file.metadata["gemma2.attn_logit_softcapping"] = 50.0
    file.metadata["gemma2.final_logit_softcapping"] = 30.0
    file.metadata["gemma2.block_count"] = 46
    found = architecture_of(file)
    assert (found.attention_soft_cap, found.final_soft_cap) == (50.0, 30.0)
    # Its heads do not multiply to its width, which queries are scaled by.
    file.metadata["gemma2.embedding_length"] = 36
    assert architecture_of(file).query_scale == (36 // 4) ** -0.5


def test_quantized_blocks_are_unpacked(tmp_path, small_vocabulary):
    kind = writer.GGMLQuantizationType.Q8_0
    file = open_gguf(write_gguf(tmp_path / "q8.gguf", small_vocabulary, kind=kind))
    leaves = dict(random_leaves(SMALL, seed=0))
    for path, values in read_weights(file, SMALL):
        np.testing.assert_allclose(values, leaves[path], atol=np.abs(leaves[path]).max() / 127)


def test_what_newer_converters_write_is_read(small_file):
    file = open_gguf(small_file)
    file.metadata["gemma3.attention.sliding_window_pattern"] = 3
    file.metadata["gemma3.rope.freq_base_swa"] = 2e4
    file.metadata["gemma3.final_logit_softcapping"] = 30.0
    found = architecture_of(file)
    assert (found.global_every, found.rope_local, found.final_soft_cap) == (3, 2e4, 30.0)


def test_rotary_scaling_is_that_of_global_layers(small_file):
    file = open_gguf(small_file)
    file.metadata["gemma3.rope.scaling.type"] = "linear"
    file.metadata["gemma3.rope.scaling.factor"] = 8.0
    found = architecture_of(file)
    assert (found.rope_local_scaling, found.rope_global_scaling) == (1.0, 8.0)


@pytest.mark.real_model
def test_the_packaged_file_says_what_the_constant_says(gemma):
    from coderllm_jax.model.architecture import GEMMA3_270M

    assert gemma.architecture == GEMMA3_270M


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "not b'GGUF'"),
        (lambda data: b"<html>" + data, "not b'GGUF'"),
        (lambda data: data[:4] + b"\x09" + data[5:], "GGUF version 9"),
        (lambda data: data[:200], "not a readable GGUF"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "not a readable GGUF"),
        (lambda data: data[:24] + b"\xff" * 8 + data[32:], "not a readable GGUF"),
        (lambda data: data[:-64], "ends inside tensor"),
        (lambda data: data.replace(b"gemma3", b"llama9"), "expected one of gemma, gemma2"),
        (lambda data: data.replace(b"blk.1.attn_q.w", b"blk.1.attn_z.w"), "is missing"),
    ],
)
def test_a_damaged_file_ends_with_one_clear_line(small_file, damage, message):
    small_file.write_bytes(damage(small_file.read_bytes()))
    with pytest.raises(ModelError, match=message):
        dict(read_weights(open_gguf(small_file), architecture_of(open_gguf(small_file))))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        open_gguf(tmp_path / "absent.gguf")
