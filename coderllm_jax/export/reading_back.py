"""Every tensor of what was written, read by our own readers and held against what was meant.

Logits see a weight only where a probe's tokens meet it; here not one number is left out. Formats
that round are compared after the same rounding, Q8_0 within half a step of each block:

    float32, f32                       equal, bit for bit
    bfloat16, bf16, f16                equal to the rounded value, bit for bit
    q8_0                               |read - meant| <= max|block| / 127 / 2, and float16's error
    peft                               alpha/r · B·A unfolded = the adapter's product, to 1e-6

A tensor that differs raises ModelError with its name. Big tensors are read some rows at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.export.gguf_file import GgufSource, GgufType, gguf_sources
from coderllm_jax.export.layout import difference_of, row_chunks, stored_view
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.peft_folder import CONFIG, TENSORS, module_name
from coderllm_jax.model import gguf as gguf_reader
from coderllm_jax.model import presets
from coderllm_jax.model.architecture import FAMILIES
from coderllm_jax.model.stored_layout import scale_alone
from coderllm_jax.model.weights import Dtype, LazyLeaf, leaf_dtype
from coderllm_jax.training.adapter import from_safetensors

# Of what a block's float16 scale may be off, beside half a step: 2^-11 of the largest value.
_F16_ERROR = 2.0**-11


def check_folder(folder: Path, model: MergedModel, *, dtype: Dtype) -> None:
    """A Hugging Face or Keras folder, through the reader that evaluate and ask use."""
    opened = presets.open_folder(folder)
    if difference := difference_of(opened.architecture, model.architecture):
        raise ModelError(f"{folder}: {difference}; this format cannot hold the model")
    leaves = dict(opened.leaves)
    whole_norms = FAMILIES[model.architecture.family].whole_norms
    for path, layer in model.tensors():
        leaf = leaves[path]
        assert isinstance(leaf, LazyLeaf), path
        place = 0 if layer is None else model.place_of(path.removeprefix("blocks/"), layer)
        found, meant = leaf.read(place), model.read(path, layer)
        if whole_norms and path.endswith("norm"):
            # 1 + scale is in the file: what was rounded there is rounded here.
            meant = scale_alone(meant.astype(np.float32) + np.float32(1))
        stored = leaf_dtype(path, dtype)
        if found.dtype != stored:
            raise ModelError(f"{folder}: {path} is stored as {found.dtype}; expected {stored}")
        rows, expected = (row_chunks(np.atleast_1d(values)) for values in (found, meant))
        pairs = zip(rows, expected, strict=True)
        if not all(one.tobytes() == other.astype(stored).tobytes() for one, other in pairs):
            raise _differs(folder, path, layer)


def check_gguf(file: Path, model: MergedModel, *, kind: GgufType) -> None:
    """A GGUF, its blocks unpacked by the gguf package."""
    opened = gguf_reader.open_gguf(file)
    for source in gguf_sources(model, kind=kind):
        opened.check(source.name, source.shape)
        pairs = zip(_unpacked(opened, source), row_chunks(source.read()), strict=True)
        if not all(_agrees(found, meant, source.kind) for found, meant in pairs):
            raise _differs(file, source.path, source.layer)


def check_peft(folder: Path, model: MergedModel, *, is_multimodal: bool = False) -> None:
    """A PEFT adapter: the update it makes to each matrix is ours."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors = from_safetensors((folder / TENSORS).read_bytes())
    for layer in range(model.architecture.num_layers):
        for name in model.adapters:
            if layer not in model.architecture.layers_of(name):
                continue
            module = module_name(name, layer, is_multimodal=is_multimodal)
            rank = _of_pattern(config["rank_pattern"], module, config["r"])
            alpha = _of_pattern(config["alpha_pattern"], module, config["lora_alpha"])
            key = f"base_model.model.{module}"
            a, b = (tensors.pop(f"{key}.lora_{part}.weight", None) for part in "AB")
            if a is None or b is None or a.shape[0] != rank:
                raise _differs(folder, f"blocks/{name}", layer)
            update = model.scale * stored_view(name, model.delta(name, layer), model.architecture)
            found = (alpha / rank) * (b @ a)
            limit = 1e-6 * max(float(np.abs(update).max()), 1e-30)
            if found.shape != update.shape or np.abs(found - update).max() > limit:
                raise _differs(folder, f"blocks/{name}", layer)
    if tensors:
        raise ModelError(f"{folder / TENSORS}: holds {min(tensors)}, which was not trained")


def _of_pattern(patterns: Mapping[str, float], module: str, usual: float) -> float:
    """What PEFT takes for a module: that of the first pattern which its name ends with."""
    found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, usual)


def _unpacked(file: gguf_reader.GgufFile, source: GgufSource) -> Iterator[np.ndarray]:
    """The tensor's rows in float32, in the runs of `row_chunks`."""
    from gguf import dequantize

    tensor = file.tensors[source.name]
    rows = math.prod(tensor.shape[:-1])
    raw = np.memmap(file.path, np.uint8, "r", tensor.offset, shape=(rows, source.num_bytes // rows))
    if len(tensor.shape) == 1:
        yield dequantize(raw, source.kind).reshape(tensor.shape)
        return
    like = np.broadcast_to(np.float32(0), tensor.shape)
    start = 0
    for chunk in row_chunks(like):
        yield dequantize(np.array(raw[start : start + len(chunk)]), source.kind)
        start += len(chunk)


def _agrees(found: np.ndarray, meant: np.ndarray, kind: Any) -> bool:
    """Whether unpacked rows are what packing these may have made."""
    import ml_dtypes

    meant = meant.astype(np.float32)
    rounded = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    if kind.name in rounded:
        return bool(np.array_equal(found, meant.astype(rounded[kind.name]).astype(np.float32)))
    blocks = meant.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    limit = largest * (0.5 / 127 + 2 * _F16_ERROR) + 1e-7
    return bool((np.abs(found.reshape(-1, 32) - blocks) <= limit).all())


def _differs(place: Path, path: str, layer: int | None) -> ModelError:
    where = path if layer is None else f"{path} of layer {layer}"
    return ModelError(
        f"{place}: {where} does not read back as it was written; it was deleted: check the disk "
        "and export again"
    )
