"""What every arm of `benchmarks.train_step` trains on, made once: batches and a model's folder.

    quick-start rows ──► examples ──┬─ packed       4 x 256, examples share rows
                                    ├─ padded_4     4 examples, as wide as the longest of them
                                    ├─ padded_16    16 examples, likewise
                                    └─ full         4 x 256, every position supervised
    gemma3_270m ──────────────────────► huggingface/   config.json, model.safetensors (bfloat16)

An epoch has too many batches to time each of them, and what one costs depends on its size. So a
few stand for all: those in the middle of as many equal parts of the epoch, ordered by size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import count
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.packing import fill_row
from coderllm_jax.data.pipeline import PackedRows
from coderllm_jax.data.tokenized import TokenizedExamples
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.records import PackedBatch

_PACKED_BATCHES = 2
# Batches by examples a batch. Stock Keras compiles for each width, and 16 examples vary less.
_PADDED_BATCHES = {4: 4, 16: 2}
_CARD = "configs/data.py"

# What transformers' Gemma 3 calls a block's weights.
_HUGGINGFACE_NAMES = {
    "pre_attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "attention_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "ffw_gating": "mlp.gate_proj",
    "ffw_gating_2": "mlp.up_proj",
    "ffw_linear": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


# --- batches -----------------------------------------------------------------------------------


def spread_ranks(sizes: Sequence[int], num_chosen: int) -> list[int]:
    """Which items stand for all: the middles of `num_chosen` equal parts, ordered by size.

    sizes 9 1 5 3 7 2, three chosen: parts (1 2) (3 5) (7 9), of which 2, 5 and 9 are taken.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    middles = [(2 * part + 1) * len(order) // (2 * num_chosen) for part in range(num_chosen)]
    return [int(order[middle]) for middle in dict.fromkeys(middles)]


def packed_batches(
    examples: TokenizedExamples, *, batch_size: int, sequence_length: int, num_batches: int
) -> list[PackedBatch]:
    """Batches of the first epoch as the pipeline makes them, spread by supervised tokens.

    The last batch of an epoch may be part empty and is left out.
    """
    rows = PackedRows(examples, sequence_length=sequence_length, batch_size=batch_size)
    num_full = max(1, rows.num_steps(1) - 1)
    batches = [
        stack([rows[row] for row in range(step * batch_size, (step + 1) * batch_size)])
        for step in range(num_full)
    ]
    chosen = spread_ranks([count(batch).supervised for batch in batches], num_batches)
    return [batches[step] for step in chosen]


def padded_batches(
    examples: TokenizedExamples, *, batch_size: int, num_batches: int, seed: int = 0
) -> list[PackedBatch]:
    """Batches of an epoch in random order, one example a row, spread by padded length."""
    order = np.random.default_rng(seed).permutation(len(examples))
    num_full = len(order) // batch_size
    members = order[: num_full * batch_size].reshape(num_full, batch_size)
    longest = examples.lengths[members].max(axis=1)
    batches = []
    for step in spread_ranks(longest.tolist(), num_batches):
        encoded = [examples[example] for example in members[step]]
        length = int(longest[step])
        batches.append(
            stack(
                [fill_row([one.ids], [one.supervised], sequence_length=length) for one in encoded]
            )
        )
    return batches


def full_batch(
    examples: TokenizedExamples, *, batch_size: int, sequence_length: int
) -> PackedBatch:
    """Rows without padding: examples end to end as one text, every position supervised."""
    needed = batch_size * (sequence_length + 1)
    ids = np.resize(examples.tokens, needed).reshape(batch_size, sequence_length + 1)
    everything = np.ones(sequence_length + 1, np.bool_)
    return stack([fill_row([row], [everything], sequence_length=sequence_length) for row in ids])


def stack(rows: Sequence[PackedBatch]) -> PackedBatch:
    """Rows of one length as a batch."""
    return PackedBatch(*(np.stack(field) for field in zip(*rows, strict=True)))


def save_batches(path: Path, batches: Sequence[PackedBatch]) -> None:
    """Writes batches of any shapes to one file."""
    arrays = {
        f"{i}/{name}": values
        for i, batch in enumerate(batches)
        for name, values in batch._asdict().items()
    }
    np.savez(path, **arrays)


def load_batches(path: Path) -> list[PackedBatch]:
    """What `save_batches` wrote."""
    with np.load(path) as arrays:
        number = 1 + max(int(name.partition("/")[0]) for name in arrays)
        return [
            PackedBatch(*(arrays[f"{i}/{field}"] for field in PackedBatch._fields))
            for i in range(number)
        ]


# --- the model, for those who read Hugging Face folders -----------------------------------------


def write_huggingface(folder: Path, architecture: Architecture, weights: dict[str, Any]) -> None:
    """Writes the weights, in their own format, as a folder that transformers loads."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_huggingface_config(architecture)))
    tensors = {
        "model.embed_tokens.weight": np.asarray(weights["embedding"]),
        "model.norm.weight": np.asarray(weights["final_norm"]),
    }
    for name, stacked in weights["blocks"].items():
        for i, values in enumerate(np.asarray(stacked)):
            key = f"model.layers.{i}.{_HUGGINGFACE_NAMES[name]}.weight"
            tensors[key] = np.ascontiguousarray(_out_by_in(name, values))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _out_by_in(name: str, values: np.ndarray) -> np.ndarray:
    """A kernel as torch keeps it: [out, in], heads folded into the axis that they belong to."""
    if name in ("query", "key", "value"):
        return values.transpose(0, 2, 1).reshape(-1, values.shape[1])
    if name == "attention_output":
        return values.reshape(-1, values.shape[-1]).T
    return values.T


def _huggingface_config(architecture: Architecture) -> dict[str, Any]:
    kinds = {False: "sliding_attention", True: "full_attention"}
    layers = range(architecture.num_layers)
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.feed_forward,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_size,
        "query_pre_attn_scalar": round(architecture.query_scale**-2),
        "sliding_window": architecture.window,
        "layer_types": [kinds[architecture.is_global(i)] for i in layers],
        "rms_norm_eps": architecture.norm_epsilon,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": architecture.rope_local},
            "full_attention": {"rope_type": "default", "rope_theta": architecture.rope_global},
        },
    }


# --- all of it ----------------------------------------------------------------------------------


def write_inputs(folder: Path, *, rows: str, model_name: str) -> dict[str, Any]:
    """Writes every arm's batches and the model's folder; gives back what they were made of.

    rows: training rows to use; empty: the quick-start card is prepared.
    """
    from coderllm_jax.data.sources import read_examples
    from coderllm_jax.data.tokenized import tokenize_examples
    from coderllm_jax.model.load import load_model

    config = TrainingConfig(model_name=model_name)
    model = load_model(model_name, dtype="bfloat16", cache_dir=config.model.cache_dir)
    if not rows:
        rows = str(_prepare_quickstart(folder))
    found, report = read_examples(rows)
    size = {"batch_size": config.batch_size, "sequence_length": config.data.sequence_length}
    examples = tokenize_examples(
        model.tokenizer,
        found,
        sequence_length=config.data.sequence_length,
        on_long_example="drop",
    ).examples
    save_batches(
        folder / "packed.npz",
        packed_batches(examples, num_batches=_PACKED_BATCHES, **size),
    )
    save_batches(folder / "full.npz", [full_batch(examples, **size)])
    for batch_size, num_batches in _PADDED_BATCHES.items():
        save_batches(
            folder / f"padded_{batch_size}.npz",
            padded_batches(examples, batch_size=batch_size, num_batches=num_batches),
        )
    write_huggingface(folder / "huggingface", model.architecture, model.weights)
    return {
        "rows": len(examples),
        "data_sha256": report.sha256,
        "tokens_per_row": float(examples.lengths.mean()),
        "longest_row": int(examples.lengths.max()),
        "model": model.source,
    }


def _prepare_quickstart(folder: Path) -> Path:
    from coderllm_jax import entry
    from coderllm_jax.config.data import DataConfig
    from coderllm_jax.data.preparation import prepare_data

    card = entry.find_card(_CARD)
    assert card is not None, f"{_CARD} ships beside the benchmarks"
    values = entry.load_card(str(card))
    values.output_dir = str(folder / "data")
    prepare_data(DataConfig.from_config_dict(values))
    return folder / "data" / "training"


if __name__ == "__main__":
    target, wanted_rows, name = sys.argv[1:]
    made = write_inputs(Path(target), rows=wanted_rows, model_name=name)
    (Path(target) / "inputs.json").write_text(json.dumps(made))
