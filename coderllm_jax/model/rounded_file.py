"""Rounded kernels in a file: codes and scales that the weights alone do not give again.

    kernels.safetensors │ header │ 0.query.codes │ 0.query.scales │ 0.key.codes │ …

A safetensors file, one tensor a layer and part, in the order in which layers are rounded; what the
kernels are of (format, model, texts) stands in its metadata. Written whole or not at all, a layer
at a time; read as leaves that are mapped when they are asked for.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from coderllm_jax.errors import DeviceError, ModelError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.lora import is_kernel
from coderllm_jax.model.mapped import MappedTensor
from coderllm_jax.model.quantization import BaseFormat, Quantized, quantized_shapes
from coderllm_jax.model.weights import LazyLeaf, RoundedLeaf

_DTYPES = {
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class RoundedKernels(NamedTuple):
    """What a file holds: a leaf for every kernel by path (`blocks/query`), and of what they are.

    origin: {"base": "nf4", "base_int8": [], "model_sha256": …} and what else the writer said.
    """

    file: Path
    origin: dict[str, Any]
    leaves: dict[str, RoundedLeaf]

    def check(self, base: BaseFormat) -> None:
        """ModelError where these are kernels in another format."""
        kept = BaseFormat.make(self.origin["base"], self.origin["base_int8"])
        if kept != base:
            raise ModelError(
                f"{self.file}: holds kernels in {kept.in_words}; expected {base.in_words}; bring "
                "the file that was written with the adapter"
            )


def write_kernels(
    file: Path,
    layers: Iterable[dict[str, Quantized]],
    architecture: Architecture,
    *,
    base: BaseFormat,
    origin: Mapping[str, Any],
) -> None:
    """Writes what `calibration.round_layers` yields, as it comes.

    Raises DeviceError where there is no room.
    """
    parts = _parts(architecture, base)
    header: dict[str, Any] = {"__metadata__": {"origin": json.dumps(dict(origin))}}
    offset = 0
    for name, (shape, dtype) in parts.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        _write(unfinished, len(text).to_bytes(8, "little") + text, layers, parts)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)  # a full disk gets its room back
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeviceError(
                f"{file}: no room for {(8 + len(text) + offset) / 1e6:,.0f} MB of rounded kernels; "
                "free some, or name another workdir"
            ) from error
        raise
    unfinished.replace(file)


def _write(
    file: Path,
    header: bytes,
    layers: Iterable[dict[str, Quantized]],
    parts: Mapping[str, tuple[tuple[int, ...], np.dtype]],
) -> None:
    """The file's bytes, to the disk."""
    with file.open("wb") as stream:
        stream.write(header)
        names = iter(parts)
        for number, layer in enumerate(layers):
            for name in itertools.islice(names, 2 * len(layer)):
                _, kernel, part = name.split(".")
                values = np.asarray(jax.device_get(getattr(layer[kernel], part)))
                assert name.startswith(f"{number}."), (name, number)
                assert (values.shape, values.dtype) == parts[name], (name, values.shape)
                stream.write(values.tobytes())
        assert next(names, None) is None, "layers are missing"
        stream.flush()
        os.fsync(stream.fileno())


def open_kernels(file: Path) -> RoundedKernels:
    """Describes a file; ModelError where it is missing or not one of ours."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        origin = json.loads(header.pop("__metadata__")["origin"])
        tensors = {
            name: MappedTensor(
                file,
                tuple(entry["shape"]),
                _DTYPES[entry["dtype"]],
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
        end = max(tensor.offset + tensor.num_bytes for tensor in tensors.values())
        if (size := file.stat().st_size) != end:
            raise ValueError(f"{size} bytes where its header tells of {end}")
        by_path: dict[str, dict[str, dict[int, MappedTensor]]] = {}
        for name, tensor in tensors.items():
            number, kernel, part = name.split(".")
            by_path.setdefault(f"blocks/{kernel}", {}).setdefault(part, {})[int(number)] = tensor
        base = BaseFormat.make(origin["base"], origin["base_int8"])
        leaves = {
            path: RoundedLeaf(_leaf(parts["codes"]), _leaf(parts["scales"]), base.of(path))
            for path, parts in by_path.items()
        }
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; bring the one that the run wrote") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"{file}: not a file of rounded kernels ({error}); bring the one that the run wrote"
        ) from None
    return RoundedKernels(file, origin, leaves)


def _parts(
    architecture: Architecture, base: BaseFormat
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Every tensor's shape and dtype by name, in the order of the file."""
    found = {}
    for number in range(architecture.num_layers):
        for name, shape in architecture.block_shapes().items():
            if is_kernel(name):
                codes, scales = quantized_shapes(shape, base.of(name))
                is_whole = base.of(name) == "int8"
                found[f"{number}.{name}.codes"] = (codes, _DTYPES["I8" if is_whole else "U8"])
                found[f"{number}.{name}.scales"] = (scales, _DTYPES["BF16"])
    return found


def _leaf(tensors: Mapping[int, MappedTensor]) -> LazyLeaf:
    layers = [tensors[number] for number in range(len(tensors))]
    return LazyLeaf((len(layers), *layers[0].shape), lambda i: layers[i].view(), is_stacked=True)
