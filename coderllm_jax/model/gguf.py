"""Reads a Gemma's GGUF: its architecture, its tokenizer and its weights in the tree's layout.

Owns the file format's header and the mapping of names; the quantized blocks are unpacked by the
`gguf` package. Does not own where converted weights are kept (`cache`). Nothing in a GGUF is ever
executed, and every length in the header is checked against the file before it is believed.

    "GGUF" version  tensors  pairs │ key → value …  │ name, shape, type, offset …  │ tensor bytes
    ──────────── fixed ─────────────┘ metadata       └ one a tensor                └ aligned to 32

GGUF stores a matrix as [out, in] (`stored_layout`) and a norm as 1 + scale, of which the tree wants
the scale alone.
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
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family, base_name
from coderllm_jax.model.plausible import check_architecture, real_number, shown, whole_number
from coderllm_jax.model.stored_layout import stored_shape, tree_view
from coderllm_jax.model.weights import LazyLeaf

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
# Far above any real file's; they stop a damaged count before something is sized by it.
_MAX_METADATA_ITEMS, _MAX_DIMS, _MAX_TENSOR_ITEMS, _MAX_ALIGNMENT = 1 << 24, 4, 1 << 40, 1 << 20
_MAX_STRING_BYTES = 1 << 24

_UNDERSTOOD: tuple[Family, ...] = ("gemma", "gemma2", "gemma3", "gemma4")
# Gemma 1 has no windows and Gemma 2's early files do not name theirs, nor its caps: what llama.cpp
# takes then.
_WINDOW = {"gemma": 4096, "gemma2": 4096}
_ATTENTION_CAP, _FINAL_CAP = {"gemma2": 50.0}, {"gemma2": 30.0, "gemma4": 30.0}
# Parts of other Gemmas 4, which count or weigh something where a model has them.
_NOT_DENSE = {
    "attention.shared_kv_layers": "layers that share keys and values",
    "embedding_length_per_layer_input": "an embedding for each layer",
    "expert_count": "a mixture of experts",
}
# What slows each pair of a global head's rotation in Gemma 4: 1, or so much that it stands still.
ROPE_FACTORS, STANDSTILL = "rope_freqs", 1e30

BLOCK_NAMES = {
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
    "layer_scale": "layer_output_scale",
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

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """ModelError unless the tensor is there, whole, and of this shape; reads nothing."""
        self._storage(name)
        found = self.tensors[name].shape
        if found != shape:
            raise ModelError(
                f"{self.path}: tensor '{name}' has shape {found}; expected {shape}; "
                "fetch the file again"
            )

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized to float32 in numpy order."""
        from gguf import dequantize

        kind, num_bytes = self._storage(name)
        tensor = self.tensors[name]
        raw = np.fromfile(self.path, np.uint8, num_bytes, offset=tensor.offset)
        try:
            values = dequantize(raw.reshape(math.prod(tensor.shape[:-1]), -1), kind)
        except NotImplementedError:
            raise ModelError(
                f"{self.path}: '{name}' is stored as {kind.name}, which cannot be unpacked here; "
                "use a Q4_K_M, Q8_0, F16 or BF16 file"
            ) from None
        return values.reshape(tensor.shape).astype(np.float32, copy=False)

    def _storage(self, name: str) -> tuple[Any, int]:
        """The tensor's quantization and its bytes in the file, all of which are there."""
        # 0.2 s of import, and only a conversion needs it: a warm load does not.
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if name not in self.tensors:
            raise ModelError(f"{self.path}: tensor '{name}' is missing; the file is not a Gemma")
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
        if tensor.offset + num_bytes > self.path.stat().st_size:
            raise ModelError(f"{self.path}: ends inside tensor '{name}'; fetch the file again")
        return kind, num_bytes


def open_gguf(path: str | Path) -> GgufFile:
    """Parses the header of a GGUF (versions 2 and 3); raises ModelError where it is not one."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _parse(path, _Cursor(path, file))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; gguf: expects the path of a .gguf file") from None
    except (OSError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ModelError(f"{path}: not a readable GGUF ({error}); fetch the file again") from None


def architecture_of(file: GgufFile) -> Architecture:
    """The numbers of the model in `file`, from its metadata and its embedding's shape."""
    told = file.metadata.get("general.architecture")
    family = next((known for known in _UNDERSTOOD if known == told), None)
    if family is None:
        raise ModelError(
            f"{file.path}: holds a {shown(told)} model; expected one of {', '.join(_UNDERSTOOD)}"
        )
    # What llama.cpp takes where a file does not say; early converters said little.
    traits = FAMILIES[family]

    def whole(key: str, default: int | None = None) -> int:
        return whole_number(file.metadata, f"{family}.{key}", where=str(file.path), default=default)

    def real(key: str, default: float | None = None) -> float:
        return real_number(file.metadata, f"{family}.{key}", where=str(file.path), default=default)

    def cap(key: str, default: float) -> float:
        return real(key, default) if file.metadata.get(f"{family}.{key}", default) else 0.0

    width, num_heads = whole("embedding_length"), whole("attention.head_count")
    num_layers, is_fourth = whole("block_count"), family == "gemma4"
    # What Gemma 4 calls the head size is that of its global layers.
    head_size = whole("attention.key_length_swa" if is_fourth else "attention.key_length")
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise ModelError(f"{file.path}: tensor 'token_embd.weight' is missing or no matrix")
    is_27b = num_layers == traits.layers_of_27b
    query_size = max(width // num_heads, 1) if is_27b else head_size
    scaled = file.metadata.get(f"{family}.rope.scaling.type") == "linear"
    rope_global = real("rope.freq_base", traits.rope_global)
    rope_global_scaling = real("rope.scaling.factor", 1.0) if scaled else 1.0
    # Gemma 2's layers rotate alike.
    are_alike = family == "gemma2"
    if is_fourth:
        layers = _fourth(file, num_layers, head_size, whole("attention.key_length"))
    else:
        layers = {
            "num_kv_heads": whole("attention.head_count_kv"),
            "global_every": whole("attention.sliding_window_pattern", traits.global_every),
            "query_scale": query_size**-0.5,
        }
    architecture = Architecture(
        family=family,
        num_layers=num_layers,
        vocabulary=table.shape[0],
        width=width,
        feed_forward=whole("feed_forward_length"),
        num_heads=num_heads,
        head_size=head_size,
        window=whole("attention.sliding_window", _WINDOW.get(family)),
        rope_local=real("rope.freq_base_swa", rope_global if are_alike else traits.rope_local),
        rope_global=rope_global,
        rope_local_scaling=rope_global_scaling if are_alike else 1.0,
        rope_global_scaling=rope_global_scaling,
        # Stored in float32; six digits give back the 1e-6 that was meant.
        norm_epsilon=float(f"{real('attention.layer_norm_rms_epsilon'):.6g}"),
        query_key_norm=traits.query_key_norm,
        post_norms=traits.post_norms,
        attention_soft_cap=cap("attn_logit_softcapping", _ATTENTION_CAP.get(family, 0.0)),
        final_soft_cap=cap("final_logit_softcapping", _FINAL_CAP.get(family, 0.0)),
        **layers,
    )
    return check_architecture(architecture, where=str(file.path))


def _fourth(file: GgufFile, num_layers: int, head_size: int, wide: int) -> dict[str, Any]:
    """The numbers that only Gemma 4 says, or says of each layer; `wide` is a global head's size."""
    for key, what in _NOT_DENSE.items():
        if file.metadata.get(f"gemma4.{key}"):
            raise ModelError(
                f"{file.path}: this Gemma 4 has {what}; expected a dense one without: take "
                "gemma4_31b, or a Gemma 3 of its size"
            )
    is_local = file.metadata.get("gemma4.attention.sliding_window_pattern")
    kv_heads = file.metadata.get("gemma4.attention.head_count_kv")
    if type(kv_heads) is int:
        kv_heads = [kv_heads] * num_layers
    if not (
        isinstance(is_local, list)
        and isinstance(kv_heads, list)
        and len(is_local) == len(kv_heads) == num_layers
    ):
        raise ModelError(
            f"{file.path}: does not say of each of its {num_layers} layers whether it is local, or "
            "how many key-value heads it has; fetch the file again"
        )
    every = is_local.index(False) + 1 if False in is_local else num_layers + 1
    told = [(local, number) for local, number in zip(is_local, kv_heads, strict=True)]
    wide_heads = kv_heads[every - 1] if every <= num_layers else kv_heads[0]
    kinds = {True: (True, kv_heads[0]), False: (False, wide_heads)}
    if told != [kinds[bool((i + 1) % every)] for i in range(num_layers)]:
        raise ModelError(f"{file.path}: global layers are not evenly spaced, or not alike")
    return {
        "num_kv_heads": kv_heads[0],
        "global_every": every,
        "query_scale": 1.0,
        "global_head_size": None if wide == head_size else wide,
        "global_kv_heads": None if wide_heads == kv_heads[0] else wide_heads,
        "keys_are_values": f"blk.{every - 1}.attn_v.weight" not in file.tensors,
        "value_norm": True,
        "layer_scale": True,
        "rope_global_fraction": _turning_fraction(file, wide),
    }


def _turning_fraction(file: GgufFile, wide: int) -> float:
    """The part of a global head's pairs that turn, which come first."""
    name = f"{ROPE_FACTORS}.weight"
    file.check(name, (wide // 2,))
    factors = file.read(name)
    turning = int((factors == 1).sum())
    expected = np.repeat(np.array([1.0, STANDSTILL], np.float32), [turning, wide // 2 - turning])
    if not np.array_equal(factors, expected):
        raise ModelError(
            f"{file.path}: '{name}' slows rotation in another way than standing still; such is "
            "not understood"
        )
    return turning / (wide // 2)


def vocabulary_of(file: GgufFile) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and types of the SentencePiece vocabulary in `file`, index by token id."""
    if (kind := file.metadata.get("tokenizer.ggml.model")) != "llama":
        raise ModelError(f"{file.path}: its tokenizer is '{kind}'; Gemma's is 'llama'")
    names = ("tokens", "scores", "token_type")
    pieces, scores, types = (file.metadata.get(f"tokenizer.ggml.{name}", []) for name in names)
    lists = ((pieces, str), (scores, float), (types, int))
    if not all(isinstance(values, list) for values, _ in lists) or not all(
        type(value) is wanted for values, wanted in lists for value in values
    ):
        raise ModelError(f"{file.path}: its tokenizer's lists hold other things than expected")
    if not pieces or not len(pieces) == len(scores) == len(types):
        raise ModelError(f"{file.path}: its tokenizer's lists are missing or differ in length")
    return pieces, scores, types


def read_weights(file: GgufFile, architecture: Architecture) -> Iterator[tuple[str, LazyLeaf]]:
    """Yields (path, leaf) for every leaf; a tensor is unpacked, to float32, when it is asked for.

    Of each leaf every tensor's shape is checked before the first is read.
    """
    table = (architecture.vocabulary, architecture.width)
    yield "embedding", _whole(file, "token_embd.weight", table)
    yield "final_norm", _whole(file, "output_norm.weight", (architecture.width,))
    for name in architecture.block_shapes():
        yield f"blocks/{name}", _stacked(file, name, architecture)


def _whole(file: GgufFile, stored: str, shape: tuple[int, ...]) -> LazyLeaf:
    file.check(stored, shape)
    return LazyLeaf(shape, lambda _: _without_one(stored, file.read(stored)), is_stacked=False)


def _stacked(file: GgufFile, name: str, architecture: Architecture) -> LazyLeaf:
    stored_name = BLOCK_NAMES[base_name(name)]
    names = [f"blk.{i}.{stored_name}.weight" for i in architecture.layers_of(name)]
    for stored in names:
        file.check(stored, stored_shape(name, architecture))
    return LazyLeaf(
        (len(names), *architecture.block_shapes()[name]),
        lambda i: tree_view(name, _without_one(names[i], file.read(names[i])), architecture),
        is_stacked=True,
    )


def _without_one(stored: str, values: np.ndarray) -> np.ndarray:
    """GGUF stores a norm as 1 + scale."""
    return values - 1.0 if stored.endswith("norm.weight") else values


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
        count = self.scalar("<Q")
        if count > _MAX_STRING_BYTES:
            raise struct.error(f"a string of {count} bytes")
        return self._bytes(count).decode("utf-8")

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
        if kind == _ARRAY:
            raise struct.error("an array of arrays")  # no Gemma has one, and they nest without end
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
        num_dims = cursor.scalar("<I")
        if not 0 < num_dims <= _MAX_DIMS:
            raise struct.error(f"a tensor of {num_dims} dimensions")
        dims = [cursor.scalar("<Q") for _ in range(num_dims)]
        if not 0 < math.prod(dims) < _MAX_TENSOR_ITEMS:
            raise struct.error(f"a tensor of {math.prod(dims)} numbers")
        # GGUF counts the fastest axis first; numpy counts it last.
        entries[name] = (tuple(reversed(dims)), cursor.scalar("<I"), cursor.scalar("<Q"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT:
        raise struct.error(f"an alignment of {shown(alignment)}")
    start = -(-cursor.position // alignment) * alignment
    tensors = {
        name: GgufTensor(shape, kind, start + offset)
        for name, (shape, kind, offset) in entries.items()
    }
    return GgufFile(path, metadata, tensors)
