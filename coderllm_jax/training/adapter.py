"""What was trained, in two plain files that any tool can read.

    adapter/adapter.safetensors    one tensor a leaf: query.a [N, H, D, R], query.b [N, R, K], ...
    adapter/adapter_config.json    kind, model, step, rank, alpha, targets, and the file's sha256

The layout is `model.architecture`'s: layers stacked on the first axis. After full fine-tuning the
same two files hold every weight and `kind` is `full`. safetensors is Hugging Face's format,
written here by hand because it is no more than a JSON header and raw bytes, which spares the core
a dependency:

    8 bytes     length of the header, little-endian
    header      {"query.a": {"dtype": "F32", "shape": [18, 4, 640, 8], "data_offsets": [0, ...]}}
    data        the tensors' bytes, end to end, little-endian, C order
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from coderllm_jax.errors import RunError
from coderllm_jax.training.run_folder import flatten, read_json, write_json

_TENSORS, _CONFIG = "adapter.safetensors", "adapter_config.json"
_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Trained tensors (numpy, nested as the training step had them) and what they belong to."""

    tensors: dict[str, Any]
    config: dict[str, Any]


def save_adapter(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes both files; the config last, so that a folder with a config is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).unlink(missing_ok=True)
    data = to_safetensors(flatten(tensors))
    (folder / _TENSORS).write_bytes(data)
    write_json(folder / _CONFIG, {**config, "sha256": hashlib.sha256(data).hexdigest()})


def load_adapter(folder: Path) -> Adapter:
    """Reads an adapter back; RunError where it is absent, or not the file its config names."""
    if not (folder / _CONFIG).is_file():
        raise RunError(f"{folder}: no {_CONFIG}; expected the adapter folder of a trained run")
    config = read_json(folder / _CONFIG)
    data = (folder / _TENSORS).read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), str(config.get("sha256"))
    if found != expected:
        raise RunError(
            f"{folder / _TENSORS}: sha256 is {found[:12]}…, expected {expected[:12]}…; "
            "the file is damaged: copy it from the run again"
        )
    tree: dict[str, Any] = {}
    for name, array in from_safetensors(data).items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return Adapter(tree, config)


def to_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The file's bytes; tensors are float32 or bfloat16."""
    header, parts, offset = {}, [], 0
    for name, array in sorted(tensors.items()):
        part = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(part)],
        }
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins on a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Read-only views into `data`, by name."""
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, info in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            raw = np.frombuffer(data[start + begin : start + end], _DTYPES[info["dtype"]])
            tensors[name] = raw.reshape(info["shape"])
    return tensors
