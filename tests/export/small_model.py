"""A small Gemma with Gemma's kind of tokenizer, an adapter over it, and a loader that is ours."""

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
from coderllm_jax.model.architecture import TINY
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
TARGETS = ("query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear")
RANK, ALPHA = 3, 6.0


def small_adapters(*, targets=TARGETS, seed=0):
    """Adapters whose B is not zero, so that a merge changes every target."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            part: generator.normal(0, 0.2, shape).astype(np.float32)
            for part, shape in parts.items()
        }
        for name, parts in adapter_shapes(SMALL, targets=targets, rank=RANK).items()
    }


def small_model(vocabulary, *, targets=TARGETS, architecture=SMALL, knows_turns=True):
    """The model before it is written, its adapters beside its kernels."""
    return MergedModel(
        architecture=architecture,
        tokenizer=SentencePieceTokenizer(build_sentencepiece(*vocabulary)),
        weights=to_tree(dict(random_leaves(architecture, seed=0))),
        adapters=small_adapters(targets=targets) if targets else {},
        scale=ALPHA / RANK,
        knows_turns=knows_turns,
    )


def write_trained(folder: Path, vocabulary, *, targets=TARGETS) -> Path:
    """A base as a folder, and an adapter trained on it beside that: what `model_path` may be."""
    base = folder / "base"
    base.mkdir()
    model = small_model(vocabulary, targets=()).base()
    write_huggingface(base, model, dtype="float32", max_shard_bytes=1 << 30)
    loaded = load_model(str(base), dtype="float32", cache_dir=str(folder / "unused"))
    save_adapter(
        folder / "adapter",
        small_adapters(targets=targets),
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
    weights = place(read_leaves(artifact), SMALL, dtype="float32")
    asked = probes.Probes(
        tuple(np.array(prompt, np.int32) for prompt in job.prompts),
        tuple(np.array(positions, np.int32) for positions in job.positions),
    )
    folder = artifact.path if artifact.path.is_dir() else None
    spm = next(iter(folder.rglob("*.spm")), folder / "tokenizer.model") if folder else None
    tokenizer = SentencePieceTokenizer.from_file(spm) if spm else None
    return Reply(
        versions={loader.title: "0"},
        logits=probes.forward_logits(SMALL, weights, {}, ForwardOptions(), asked),
        text_ids=[[tokenizer.bos_id, *tokenizer.encode(text)] for text in job.texts],
        chat_ids=[
            encode_prompt(tokenizer, [Turn(*turn) for turn in chat]).tolist()
            for chat in probes.CHATS
        ],
    )
