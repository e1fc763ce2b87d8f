"""Every field of `export`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

from coderllm_jax.config.schema import Config, option, section
from coderllm_jax.config.training import ModelSection
from coderllm_jax.errors import ConfigError

FORMATS = ("huggingface", "peft", "gguf", "keras")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")


@dataclasses.dataclass(frozen=True)
class ExportConfig(Config):
    """What is written, where, and whether it is proven."""

    title: ClassVar[str] = (
        "Writes a trained model for other programs: merged Hugging Face folder, PEFT adapter, "
        "GGUF, Keras preset. Each is reloaded by its own ecosystem's loader and compared before "
        "it is called done; what differs is deleted, exit code 1."
    )

    model_path: str = option(
        "runs/lora", "A run, a checkpoint, an adapter, a model's folder, or a model by name."
    )
    formats: tuple[str, ...] = option(
        ("huggingface", "gguf"), "What is written, one folder each.", choices=FORMATS
    )
    out: str = option(
        "",
        "The folder that receives them. Empty: export/ in the run, else exports/NAME. It may be "
        "given to evaluate and ask: --config.model_path=OUT/huggingface.",
    )
    name: str = option(
        "",
        "What the model, and a GGUF's file, is called: letters, digits, '.', '_', '-'. Empty: its "
        "base and its run.",
    )
    overwrite: bool = option(
        False, "Replaces what an earlier export left, once the new one is proven."
    )
    verify: bool = option(
        True,
        "Reloads each artifact with its own ecosystem's library. Off: tensors are only read back, "
        "and the model card says that it is unverified.",
    )
    dtype: str = option(
        "float32",
        "Number format of huggingface and keras; norms stay float32. bfloat16 halves the files "
        "and rounds what was trained.",
        choices=("float32", "bfloat16"),
    )
    gguf_types: tuple[str, ...] = option(
        ("f16",), "Number formats of gguf, a file each.", choices=GGUF_TYPES
    )
    max_shard_bytes: int = option(
        5_000_000_000, "Largest safetensors file; one tensor is never split.", low=1
    )
    base_model: str = option(
        "",
        "The published model that a PEFT adapter names as its base, as the hub calls it. Empty: "
        "the one the run's base was made from.",
    )

    model: ModelSection = section(ModelSection)

    def check(self) -> None:
        """Lists that would write nothing, or the same twice; a name that no file can have."""
        for name, values in (("formats", self.formats), ("gguf_types", self.gguf_types)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"{name} is {','.join(values) or 'empty'}; expected one or more, each once"
                )
        if self.name and self.name != safe_name(self.name):
            raise ConfigError(
                f"name is '{self.name}', and a file is to be called so; expected letters, digits, "
                f"'.', '_' and '-', such as '{safe_name(self.name)}'"
            )


def safe_name(path: str) -> str:
    """The last part of a path or a model's name, in letters that are safe in a file's name."""
    last = path.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-.") or "model"


get_config = ExportConfig.create_default
