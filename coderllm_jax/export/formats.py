"""Each format's way through an export: what is written, how it is read back, what it weighs.

huggingface, keras   one folder                      number format: dtype
peft                 one folder                      float32, over a base that is one as well
gguf                 a file for each of gguf_types   number format: that type
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from coderllm_jax.config.export import ExportConfig
from coderllm_jax.export.gguf_file import GgufType, write_gguf
from coderllm_jax.export.huggingface_folder import context_length, write_huggingface
from coderllm_jax.export.keras_preset import write_keras
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.peft_folder import write_peft
from coderllm_jax.export.reading_back import check_folder, check_gguf, check_peft
from coderllm_jax.model import gguf as gguf_reader
from coderllm_jax.model import presets
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.weights import Dtype, Leaves, leaf_shapes

_BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}


class Artifact(NamedTuple):
    """One thing that a library loads: a format's folder, or one GGUF of several in it.

    name: the format's, or the file's.
    """

    name: str
    path: Path
    number_format: str

    @property
    def is_rounded(self) -> bool:
        """Whether its weights are other numbers than those that were merged."""
        return self.number_format not in ("float32", "f32")


def write_format(
    format: str,
    folder: Path,
    model: MergedModel,
    config: ExportConfig,
    *,
    name: str,
    base: str,
    base_is_multimodal: bool,
) -> list[Artifact]:
    """Writes one format into its folder and reads every tensor back.

    name: what the model is called; base: what an adapter names as its base, and whether that holds
    more than the text model. Raises ModelError where the format cannot hold the model, or the disk
    did not.
    """
    dtype = cast(Dtype, config.dtype)
    if format == "huggingface":
        write_huggingface(folder, model, dtype=dtype, max_shard_bytes=config.max_shard_bytes)
        check_folder(folder, model, dtype=dtype)
    elif format == "keras":
        write_keras(folder, model, dtype=dtype)
        check_folder(folder, model, dtype=dtype)
    elif format == "peft":
        max_length = context_length(model.architecture)
        write_peft(
            folder,
            model,
            base_model=base,
            max_length=max_length,
            is_multimodal=base_is_multimodal,
        )
        check_peft(folder, model, is_multimodal=base_is_multimodal)
        return [Artifact(format, folder, "float32")]
    else:
        return [_write_one_gguf(folder, model, kind, name) for kind in config.gguf_types]
    return [Artifact(format, folder, dtype)]


def _write_one_gguf(folder: Path, model: MergedModel, number_format: str, name: str) -> Artifact:
    file, kind = folder / f"{name}-{number_format}.gguf", cast(GgufType, number_format)
    write_gguf(file, model, kind=kind, name=name)
    check_gguf(file, model, kind=kind)
    return Artifact(file.name, file, number_format)


def read_leaves(artifact: Artifact) -> Leaves:
    """A merged artifact's weights through our own reader, as they are after rounding."""
    if artifact.path.is_dir():
        return presets.open_folder(artifact.path).leaves
    file = gguf_reader.open_gguf(artifact.path)
    return gguf_reader.read_weights(file, gguf_reader.architecture_of(file))


def bytes_needed(architecture: Architecture, config: ExportConfig) -> int:
    """What the export will take on disk, about, with the base that an adapter is proven on."""
    weights = sum(math.prod(shape) for shape in leaf_shapes(architecture).values())
    kinds: Sequence[str] = [
        kind
        for wanted in config.formats
        for kind in {
            "huggingface": (config.dtype,),
            "keras": (config.dtype,),
            "peft": ("float32",) if config.verify else (),
            "gguf": config.gguf_types,
        }[wanted]
    ]
    return round(weights * sum(_BYTES_PER_WEIGHT[kind] for kind in kinds))
