"""A run's rounded kernels where its own rows say how (`lora.base_rounding=calibrated`).

    first start     rows of the first steps ──> kernels.safetensors in the run's folder
    every later     kernels.safetensors

Made once and kept: another machine would round a few weights otherwise, and an adapter belongs to
the kernels it was trained on. The first process makes them, on one device, and the others wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.pipeline import PackedRows
from coderllm_jax.errors import RunError
from coderllm_jax.model.calibration import round_layers
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.quantization import BaseFormat
from coderllm_jax.model.rounded_file import RoundedKernels, open_kernels, write_kernels
from coderllm_jax.model.weights import OpenedModel
from coderllm_jax.records import PackedBatch
from coderllm_jax.training.distributed import barrier, is_first
from coderllm_jax.training.inputs import Inputs
from coderllm_jax.training.run_folder import RunFolder

# Rows go through a layer in batches of about so many positions.
_BATCH_TOKENS = 2048


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
) -> RoundedKernels:
    """The kernels in the run's folder, made first where the run begins.

    RunError where the folder's run has others, or has lost them.
    """
    origin = {
        "base": base.base,
        "base_int8": list(base.int8),
        "model_sha256": opened.sha256,
        "data_sha256": inputs.sha256,
        "tokens": config.lora.base_tokens,
        "sequence_length": config.data.sequence_length,
        "seed": config.seed,
    }
    if is_first() and not _has(folder, origin):
        batches = first_rows(inputs.rows, config.lora.base_tokens)
        num_rows = sum(len(batch.inputs) for batch in batches)
        note(f"rounding {config.model_name} to {base.base} on {num_rows} rows")
        # Alone among several processes: nothing here may wait for another device.
        with jax.default_device(jax.local_devices()[0]):
            layers = round_layers(opened, batches, base=base, precision=precision)
            write_kernels(folder.kernels, layers, opened.architecture, base=base, origin=origin)
    barrier("kernels")
    return open_kernels(folder.kernels)


def kernels_sha256(kernels: RoundedKernels) -> str:
    """What tells these kernels from all others."""
    return sha256_of(kernels.file)


def first_rows(rows: PackedRows, num_tokens: int) -> list[PackedBatch]:
    """As many of the first epoch's first rows as have `num_tokens` positions, as batches [B, L]."""
    num_rows = min(-(-num_tokens // rows.sequence_length), len(rows.plan(0)))
    chosen = [rows[place] for place in range(num_rows)]
    size = max(1, _BATCH_TOKENS // rows.sequence_length)
    return [
        PackedBatch(*map(np.stack, zip(*chosen[start : start + size], strict=True)))
        for start in range(0, len(chosen), size)
    ]


def _has(folder: RunFolder, origin: dict[str, Any]) -> bool:
    """Whether the folder's kernels are those; without a run in it, others may be replaced."""
    is_run = folder.manifest.is_file()
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
