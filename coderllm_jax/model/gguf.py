"""Reads a Gemma 3 GGUF: its architecture, its tokenizer and its weights in the tree's layout.

Owns the file format's header and the mapping of names; the quantized blocks are unpacked by the
`gguf` package. Does not own where converted weights are kept (`cache`). Nothing in a GGUF is ever
executed, and every length in the header is checked against the file before it is believed.

    "GGUF" version  tensors  pairs │ key → value …  │ name, shape, type, offset …  │ tensor bytes
    ──────────── fixed ─────────────┘ metadata       └ one a tensor                └ aligned to 32

GGUF stores a matrix as [out, in] and a norm as 1 + scale; the tree wants [in, out], heads apart,
and the scale alone:

    attn_q      [H·K, D] → query            [H, D, K]        ffn_gate [F, D] → ffw_gating   [D, F]
    attn_output [D, H·K] → attention_output [H, K, D]        *_norm   1 + s  → s
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MAX_METADATA_ITEMS = 1 << 24  # far above any vocabulary; stops a damaged count early

# What llama.cpp takes where a file does not say; early converters wrote none of these.
_GLOBAL_EVERY = 6
_LOCAL_ROPE_BASE = 10_000.0
_LAYERS_OF_27B = 62

_BLOCK_NAMES = {
    "pre_attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_output": "attn_output",
    "post_attention_norm": "post_attention_norm",
    "pre_ffw_norm": "ffn_norm",
    "ffw_gating": "ffn_gate",
    "ffw_gating_2": "ffn_up",
    "ffw_linear": "ffn_down",
    "post_ffw_norm": "post_ffw_norm",
}


class GgufTensor(NamedTuple):
    """One tensor's entry: numpy-order shape, quantization type, first byte in the file."""

    shape: tuple[int, ...]
    type: int
    offset: int


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """A parsed header. Tensor bytes stay in the file until `read`."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized to float32 in numpy order."""
        # 0.2 s of import, and only a conversion needs it: a warm load does not.
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        if name not in self.tensors:
            raise ModelError(f"{self.path}: tensor '{name}' is missing; the file is not a Gemma 3")
        tensor = self.tensors[name]
        try:
            kind = GGMLQuantizationType(tensor.type)
        except ValueError:
            raise ModelError(
                f"{self.path}: '{name}' is stored as type {tensor.type}, which is unknown here; "
                "the file is damaged, or newer than the installed gguf package"
            ) from None
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        *rows, row = tensor.shape
        if row % block_size:
            raise ModelError(
                f"{self.path}: '{name}' has rows of {row}, not a multiple of {kind.name}'s "
                f"{block_size}; the file is damaged"
            )
        num_bytes = math.prod(rows) * (row // block_size) * block_bytes
        raw = np.fromfile(self.path, np.uint8, num_bytes, offset=tensor.offset)
        if raw.size != num_bytes:
            raise ModelError(f"{self.path}: ends inside tensor '{name}'; fetch the file again")
        try:
            values = dequantize(raw.reshape(math.prod(rows), -1), kind)
        except NotImplementedError:
            raise ModelError(
                f"{self.path}: '{name}' is stored as {kind.name}, which cannot be unpacked here; "
                "use a Q4_K_M, Q8_0, F16 or BF16 file"
            ) from None
        return values.reshape(tensor.shape).astype(np.float32, copy=False)


def open_gguf(path: str | Path) -> GgufFile:
    """Parses the header of a GGUF (versions 2 and 3); raises ModelError where it is not one."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _parse(path, _Cursor(path, file))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; gguf: expects the path of a .gguf file") from None
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a readable GGUF ({error}); fetch the file again") from None


def architecture_of(file: GgufFile) -> Architecture:
    """The numbers of the model in `file`, from its metadata and its embedding's shape."""
    kind = file.metadata.get("general.architecture")
    if kind != "gemma3":
        raise ModelError(f"{file.path}: holds a '{kind}' model; only gemma3 is understood")

    def number(key: str, default: Any = None) -> Any:
        value = file.metadata.get(f"gemma3.{key}", default)
        if value is None:
            raise ModelError(f"{file.path}: metadata 'gemma3.{key}' is missing")
        return value

    width, num_heads = number("embedding_length"), number("attention.head_count")
    num_layers, head_size = number("block_count"), number("attention.key_length")
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{file.path}: tensor 'token_embd.weight' is missing")
    # 27B alone scales queries by its width over its heads.
    query_size = width // num_heads if num_layers == _LAYERS_OF_27B else head_size
    scaled = number("rope.scaling.type", "none") == "linear"
    return Architecture(
        family="gemma3",
        num_layers=num_layers,
        vocabulary=file.tensors["token_embd.weight"].shape[0],
        width=width,
        feed_forward=number("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=number("attention.head_count_kv"),
        head_size=head_size,
        window=number("attention.sliding_window"),
        global_every=number("attention.sliding_window_pattern", _GLOBAL_EVERY),
        query_scale=query_size**-0.5,
        rope_local=number("rope.freq_base_swa", _LOCAL_ROPE_BASE),
        rope_global=number("rope.freq_base"),
        rope_global_scaling=number("rope.scaling.factor", 1.0) if scaled else 1.0,
        # Stored in float32; six digits give back the 1e-6 that was meant.
        norm_epsilon=float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
        final_soft_cap=number("final_logit_softcapping", 0.0),
    )


def vocabulary_of(file: GgufFile) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and types of the SentencePiece vocabulary in `file`, index by token id."""
    if (kind := file.metadata.get("tokenizer.ggml.model")) != "llama":
        raise ModelError(f"{file.path}: its tokenizer is '{kind}'; Gemma's is 'llama'")
    names = ("tokens", "scores", "token_type")
    pieces, scores, types = (file.metadata.get(f"tokenizer.ggml.{name}", []) for name in names)
    if not pieces or not len(pieces) == len(scores) == len(types):
        raise ModelError(f"{file.path}: its tokenizer's lists are missing or differ in length")
    return pieces, scores, types


def read_weights(file: GgufFile, architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, float32 array) for every leaf of the tree, one in memory at a time."""
    yield "embedding", file.read("token_embd.weight")
    yield "final_norm", file.read("output_norm.weight") - 1.0
    for name, shape in architecture.block_shapes().items():
        stacked = np.empty((architecture.num_layers, *shape), np.float32)
        for layer in range(architecture.num_layers):
            values = file.read(f"blk.{layer}.{_BLOCK_NAMES[name]}.weight")
            try:
                stacked[layer] = _to_tree(name, values, architecture)
            except ValueError:
                raise ModelError(
                    f"{file.path}: block {layer}'s {name} has shape {values.shape}; expected "
                    f"what makes {shape}"
                ) from None
        yield f"blocks/{name}", stacked


def _to_tree(name: str, values: np.ndarray, architecture: Architecture) -> np.ndarray:
    """One layer's tensor from GGUF's layout to the tree's."""
    head_size = architecture.head_size
    if name.endswith("norm"):
        return values - 1.0
    if name in ("query", "key", "value"):
        return values.reshape(-1, head_size, architecture.width).transpose(0, 2, 1)
    if name == "attention_output":
        return values.reshape(architecture.width, -1, head_size).transpose(1, 2, 0)
    return values.T


class _Cursor:
    """Walks the header; every read is checked against the end of the file by `struct`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        magic = file.read(4)
        if magic != b"GGUF":
            raise ModelError(f"{path}: begins with {magic!r}, not b'GGUF'; it is not a GGUF file")
        self._buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.position = len(magic)

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._buffer, self.position)
        self.position += struct.calcsize(form)
        return value

    def string(self) -> str:
        return self._bytes(self.scalar("<Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise struct.error(f"unknown value type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self) -> list:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if count > _MAX_METADATA_ITEMS:
            raise struct.error(f"an array of {count} items")
        if kind in _SCALARS:
            item = np.dtype(_SCALARS[kind])
            return np.frombuffer(self._bytes(count * item.itemsize), item).tolist()
        return [self.value(kind) for _ in range(count)]

    def _bytes(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._buffer):
            raise struct.error("the header runs past the end of the file")
        chunk = bytes(self._buffer[self.position : end])
        self.position = end
        return chunk


def _parse(path: Path, cursor: _Cursor) -> GgufFile:
    version = cursor.scalar("<I")
    if version not in (2, 3):
        raise ModelError(f"{path}: GGUF version {version}; versions 2 and 3 are understood")
    num_tensors, num_pairs = cursor.scalar("<Q"), cursor.scalar("<Q")
    if max(num_tensors, num_pairs) > _MAX_METADATA_ITEMS:
        raise struct.error(f"{num_tensors} tensors and {num_pairs} pairs")
    metadata = {}
    for _ in range(num_pairs):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("<I"))
    entries = {}
    for _ in range(num_tensors):
        name = cursor.string()
        dims = [cursor.scalar("<Q") for _ in range(cursor.scalar("<I"))]
        # GGUF counts the fastest axis first; numpy counts it last.
        entries[name] = (tuple(reversed(dims)), cursor.scalar("<I"), cursor.scalar("<Q"))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.position // alignment) * alignment
    tensors = {
        name: GgufTensor(shape, kind, start + offset)
        for name, (shape, kind, offset) in entries.items()
    }
    return GgufFile(path, metadata, tensors)
