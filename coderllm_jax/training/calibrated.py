"""A run's rounded kernels where its own rows say how (`lora.base_rounding=calibrated`).

    first start     rows of the first steps ──> kernels.safetensors in the run's folder
    every later     kernels.safetensors

Made once and kept: another machine would round a few weights otherwise, and an adapter belongs to
the kernels it was trained on. The first process makes them, on one device, and the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.pipeline import PackedRows
from coderllm_jax.errors import RunError
from coderllm_jax.model.calibration import round_layers
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.quantization import BaseFormat, Quantized
from coderllm_jax.model.rounded_file import RoundedKernels, open_kernels, write_kernels
from coderllm_jax.model.weights import OpenedModel
from coderllm_jax.records import PackedBatch
from coderllm_jax.training.agreement import first_decides
from coderllm_jax.training.inputs import Inputs
from coderllm_jax.training.run_folder import RunFolder, read_json

# Rows go through a layer in batches of about so many positions.
_BATCH_TOKENS = 2048
# Of a longer row the beginning: what a layer sees of all heads at once grows with its square.
_LONGEST_ROW = 2048


def is_calibrated(config: TrainingConfig) -> bool:
    """Whether the run's rows are asked; kernels of 8 bits lose nothing that rows could mend."""
    return config.lora.base_rounding == "calibrated" and config.lora.base in ("int4", "nf4")


def calibrated_kernels(
    config: TrainingConfig,
    folder: RunFolder,
    opened: OpenedModel,
    inputs: Inputs,
    *,
    base: BaseFormat,
    precision: Precision,
    note: Callable[[str], None],
) -> tuple[RoundedKernels, str]:
    """The kernels in the run's folder, made first where the run begins, and the file's sha256.

    RunError where the folder's run has others, or has lost them.
    """
    base.check(opened.architecture)  # here and not in one process alone
    data, lora = config.data, config.lora
    origin = {
        "base": base.base,
        "base_int8": list(base.int8),
        "model_sha256": opened.sha256,
        "data_sha256": inputs.sha256,
        "base_tokens": lora.base_tokens,
        "sequence_length": data.sequence_length,
        "on_long_example": data.on_long_example,
        "packing": data.packing,
        "seed": config.seed,
        "precision": config.step.precision,  # as asked: a run may go on elsewhere
    }

    def decide() -> str:
        if not _has(folder, origin):
            batches = first_rows(inputs.rows, lora.base_tokens)
            rounded = round_layers(opened, batches, base=base, precision=precision)
            layers = _told(rounded, opened.architecture.num_layers, base.in_words, note)
            # Alone among several processes: nothing here may wait for another device.
            with jax.default_device(jax.local_devices()[0]):
                write_kernels(folder.kernels, layers, opened.architecture, base=base, origin=origin)
        return sha256_of(folder.kernels)

    sha256 = first_decides(decide)
    return open_kernels(folder.kernels), sha256


def _told(
    layers: Iterator[dict[str, Quantized]], count: int, format: str, note: Callable[[str], None]
) -> Iterator[dict[str, Quantized]]:
    """The layers, each announced before it is made; a signal is obeyed then."""
    for number in range(1, count + 1):
        note(f"rounding layer {number} of {count} to {format}")
        yield next(layers)


def first_rows(rows: PackedRows, num_tokens: int) -> list[PackedBatch]:
    """As many of the first epoch's first rows as have `num_tokens` positions, as batches [B, L]."""
    length = min(rows.sequence_length, _LONGEST_ROW)
    num_rows = min(-(-num_tokens // length), len(rows.plan(0)))
    chosen = [rows[place] for place in range(num_rows)]
    size = max(1, _BATCH_TOKENS // length)
    groups = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    return [
        PackedBatch(*(np.stack(part)[:, :length] for part in zip(*group, strict=True)))
        for group in groups
    ]


def _has(folder: RunFolder, origin: dict[str, Any]) -> bool:
    """Whether the folder's kernels are those; without a run in it, others may be replaced."""
    is_run = folder.manifest.is_file()
    if is_run:
        lora = read_json(folder.manifest).get("identity", {}).get("lora", {})
        if "kernels_sha256" not in lora:
            raise RunError(
                f"{folder.path} holds another run and cannot be continued: lora.base_rounding was "
                "'nearest', is 'calibrated'; restore this value or name another workdir"
            )
    if not folder.kernels.is_file():
        if is_run:
            raise RunError(
                f"{folder.kernels} is missing, on which {folder.path} was trained; restore it, or "
                "name another workdir"
            )
        return False
    found = open_kernels(folder.kernels).origin
    changed = [
        f"{name} was {found.get(name)!r}, is {value!r}"
        for name, value in origin.items()
        if found.get(name) != value
    ]
    if changed and is_run:
        raise RunError(
            f"{folder.path} holds another run and cannot be continued: {'; '.join(changed)}; "
            "restore these values or name another workdir"
        )
    return not changed
