"""What was trained, in two plain files that any tool can read.

    adapter/adapter.safetensors    one tensor a leaf: query.a [N, H, D, R], query.b [N, R, K], ...
    adapter/adapter_config.json    kind, model, step, rank, alpha, targets, and the file's sha256

The layout is `model.architecture`'s: layers stacked on the first axis. After full fine-tuning the
same two files hold every weight and `kind` is `full`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from coderllm_jax.errors import RunError
from coderllm_jax.training.run_folder import flatten, read_json, write_json

_TENSORS, _CONFIG = "adapter.safetensors", "adapter_config.json"
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Trained tensors (numpy, nested as the training step had them) and what they belong to."""

    tensors: dict[str, Any]
    config: dict[str, Any]


def save_adapter(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes both files; the config last, so that a folder with a config is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {
        name: np.ascontiguousarray(leaf) for name, leaf in flatten(jax.device_get(tensors)).items()
    }
    data = safetensors.numpy.save(leaves)
    (folder / _CONFIG).unlink(missing_ok=True)
    (folder / _TENSORS).write_bytes(data)
    write_json(folder / _CONFIG, {**config, "sha256": hashlib.sha256(data).hexdigest()})


def load_adapter(folder: Path) -> Adapter:
    """Reads an adapter back; RunError where it is absent, or not the file its config names."""
    if not (folder / _CONFIG).is_file():
        raise RunError(f"{folder}: no {_CONFIG}; expected the adapter folder of a trained run")
    config = read_json(folder / _CONFIG)
    data = (folder / _TENSORS).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != config.get("sha256"):
        raise RunError(
            f"{folder / _TENSORS}: sha256 is {found[:12]}…, expected "
            f"{str(config.get('sha256'))[:12]}…; the file is damaged: take it from the run again"
        )
    tree: dict[str, Any] = {}
    for name, info in safetensors.deserialize(data):
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        # safetensors.numpy.load knows no bfloat16; the buffer is the same either way.
        array = np.frombuffer(info["data"], _DTYPES[info["dtype"]])
        node[leaf] = array.reshape(info["shape"])
    return Adapter(tree, config)
