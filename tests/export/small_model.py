"""Small Gemmas with Gemma's kind of tokenizer, an adapter over them, and a loader that is ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.data.tokenizer import SentencePieceTokenizer, build_sentencepiece
from coderllm_jax.export import probes
from coderllm_jax.export.formats import Artifact, read_leaves
from coderllm_jax.export.huggingface_folder import write_huggingface
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.reload_protocol import Reply
from coderllm_jax.model import presets
from coderllm_jax.model.architecture import FAMILIES, TINY
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.load import load_model
from coderllm_jax.model.lora import adapter_shapes
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place, to_tree
from coderllm_jax.records import Turn
from coderllm_jax.training.adapter import save_adapter

# Every sixth layer global and wavelengths of 10k and 1M: what all formats can say. Seven layers,
# so that one of them is global; rows of whole blocks of 32, so that Q8_0 can pack them.
SMALL = dataclasses.replace(TINY, num_layers=7, global_every=6, vocabulary=352)
# One of every kind of model that exports, each in what its family cannot do without: the first has
# one key-value head and no windows, 27B are told by their layers, and global layers of the last two
# have other heads.
_OLDER = {"query_key_norm": False, "rope_global": 10_000.0}
_SECOND = {
    "family": "gemma2",
    "num_layers": 4,
    "global_every": 2,
    "attention_soft_cap": 5.0,
    "final_soft_cap": 3.0,
    **_OLDER,
}
_FOURTH = {
    "family": "gemma4",
    "num_layers": 6,
    "global_every": 3,
    "query_scale": 1.0,
    "final_soft_cap": 3.0,
    "global_head_size": 16,
    "value_norm": True,
    "layer_scale": True,
    "rope_global_fraction": 0.25,
}
_BY_WIDTH = {"head_size": 16, "query_scale": 8**-0.5}
KINDS = {
    name: dataclasses.replace(SMALL, **changes)
    for name, changes in {
        "gemma": {
            "family": "gemma",
            "num_layers": 3,
            "num_kv_heads": 1,
            "global_every": 1,
            "window": 4096,
            "post_norms": False,
            **_OLDER,
        },
        "gemma2": _SECOND,
        "gemma2_27b": {**_SECOND, "num_layers": FAMILIES["gemma2"].layers_of_27b, **_BY_WIDTH},
        "gemma3": {},
        "gemma3_12b": {"rope_global_scaling": 8.0},
        "gemma3_27b": {
            "rope_global_scaling": 8.0,
            "num_layers": FAMILIES["gemma3"].layers_of_27b,
            **_BY_WIDTH,
        },
        "gemma4": {**_FOURTH, "global_kv_heads": 1, "keys_are_values": True},
        "gemma4_values": _FOURTH,
    }.items()
}
TARGETS = ("query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear")
RANK, ALPHA = 3, 6.0


def small_adapters(*, targets=TARGETS, seed=0, architecture=SMALL):
    """Adapters whose B is not zero, so that a merge changes every target."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            part: generator.normal(0, 0.2, shape).astype(np.float32)
            for part, shape in parts.items()
        }
        for name, parts in adapter_shapes(architecture, targets=targets, rank=RANK).items()
    }


def small_model(vocabulary, *, targets=TARGETS, architecture=SMALL, knows_turns=True):
    """The model before it is written, its adapters beside its kernels."""
    return MergedModel(
        architecture=architecture,
        tokenizer=small_tokenizer(vocabulary, architecture=architecture),
        weights=small_weights(architecture),
        adapters=small_adapters(targets=targets, architecture=architecture) if targets else {},
        scale=ALPHA / RANK,
        knows_turns=knows_turns,
    )


def small_weights(architecture):
    """Random ones; what scales a whole layer is near 1, or the last layers would see noise."""
    weights = to_tree(dict(random_leaves(architecture, seed=0)))
    if architecture.layer_scale:
        weights["blocks"]["layer_scale"] = 1 + weights["blocks"]["layer_scale"]
    return weights


def small_tokenizer(vocabulary, *, architecture=SMALL):
    """Of this vocabulary, with its family's names for the marks of turns."""
    pieces, scores, kinds = vocabulary
    if architecture.family == "gemma4":
        named = {"<start_of_turn>": "<|turn>", "<end_of_turn>": "<turn|>"}
        pieces = [named.get(piece, piece) for piece in pieces]
    return SentencePieceTokenizer(build_sentencepiece(pieces, scores, kinds))


def write_trained(folder: Path, vocabulary, *, targets=TARGETS, architecture=SMALL) -> Path:
    """A base as a folder, and an adapter trained on it beside that: what `model_path` may be."""
    base = folder / "base"
    base.mkdir()
    model = small_model(vocabulary, targets=(), architecture=architecture).base()
    write_huggingface(base, model, dtype="float32", max_shard_bytes=1 << 30)
    loaded = load_model(str(base), dtype="float32", cache_dir=str(folder / "unused"))
    save_adapter(
        folder / "adapter",
        small_adapters(targets=targets, architecture=architecture),
        {
            "kind": "lora",
            "model": str(base),
            "model_sha256": loaded.sha256,
            "step": 4,
            "rank": RANK,
            "alpha": ALPHA,
            "targets": list(targets),
        },
    )
    return folder / "adapter"


def honest_loader(loader, job):
    """What another library would answer, by our own readers and forward pass, in this process."""
    artifact = Artifact("it", Path(job.artifact), "float32")
    architecture = presets.open_folder(artifact.path).architecture
    weights = place(read_leaves(artifact), architecture, dtype="float32")
    asked = probes.Probes(
        tuple(np.array(prompt, np.int32) for prompt in job.prompts),
        tuple(np.array(positions, np.int32) for positions in job.positions),
    )
    spm = next(iter(artifact.path.rglob("*.spm")), artifact.path / "tokenizer.model")
    tokenizer = SentencePieceTokenizer.from_file(spm)
    return Reply(
        versions={loader.title: "0"},
        logits=probes.forward_logits(architecture, weights, {}, ForwardOptions(), asked),
        text_ids=[[tokenizer.bos_id, *tokenizer.encode(text)] for text in job.texts],
        chat_ids=[
            encode_prompt(tokenizer, [Turn(*turn) for turn in chat]).tolist()
            for chat in probes.CHATS
        ],
    )
