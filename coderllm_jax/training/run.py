"""One run, read and compiled: what lies between a configuration and the loop.

    open_run(config) ──► Run(config, folder, model, inputs, program, num_steps)
        .restore(checkpoints)    where to begin
        .write_beginning()       config.json, manifest.json, a line in journal.jsonl
        .write_figures(record)   training_rows.json, report/summary.json
        .save_best_adapter(...)  adapter/

Any number of processes and devices. Process 0 writes; see `distributed` about how the others agree.
"""

from __future__ import annotations

import dataclasses
import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.pipeline import BatchPart
from coderllm_jax.errors import RunError
from coderllm_jax.model.load import LoadedModel, open_model, place_model
from coderllm_jax.model.precision import resolve_precision
from coderllm_jax.model.sharding import (
    fetch,
    host_rows,
    make_mesh,
    row_multiple,
    sharding_by_path,
)
from coderllm_jax.model.weights import Dtype
from coderllm_jax.records import EvalItem
from coderllm_jax.training.adapter import save_adapter
from coderllm_jax.training.calibrated import calibrated_kernels, is_calibrated
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.devices import peak_flops
from coderllm_jax.training.distributed import must_agree
from coderllm_jax.training.inputs import Consumption, Inputs, read_inputs, read_rows
from coderllm_jax.training.journal import Journal
from coderllm_jax.training.manifest import build_manifest
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.run_folder import RunFolder, flatten, plain, read_json, write_json
from coderllm_jax.training.step import Program, TrainState, build_program, lora_base
from coderllm_jax.training.summary import summarize


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run needs but its state, which the loop hands on from step to step."""

    config: TrainingConfig
    folder: RunFolder
    model: LoadedModel
    inputs: Inputs
    program: Program
    num_steps: int
    kernels_sha256: str | None = None  # of kernels that were rounded on the run's rows

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What two sessions of one run must share; see `RunFolder.check_identity`."""
        asked = self.config.to_dict()
        data = {
            key: asked["data"][key] for key in ("sequence_length", "on_long_example", "packing")
        }
        return {
            "model": {
                "sha256": self.model.sha256,
                "tokenizer": self.model.tokenizer.fingerprint,
            },
            "data": {
                "sha256": self.inputs.sha256,
                "evaluation_sha256": self.inputs.statistics["evaluation_sha256"],
                **data,
            },
            "lora": self._lora_identity(asked["lora"]),
            "optimizer": {**asked["optimizer"], "learning_rate": self.config.learning_rate},
            "batch_size": self.config.batch_size,
            "seed": self.config.seed,
            "precision": asked["step"]["precision"],
        }

    def _lora_identity(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.config.lora.enabled:
            return {"enabled": False}
        # A run from before there was another base has no such fields, and goes on.
        left_out = {"float": ("base", "base_int8"), "int8": ("base_int8",)}.get(asked["base"], ())
        if self.kernels_sha256 is None:
            left_out = (*left_out, "base_rounding", "base_tokens")
        else:
            asked = asked | {"kernels_sha256": self.kernels_sha256}
        return {name: value for name, value in asked.items() if name not in left_out}

    @functools.cached_property
    def consumption(self) -> Consumption:
        """Which rows have been trained on."""
        return Consumption(self.inputs)

    @functools.cached_property
    def journal(self) -> Journal:
        """The run's history; kept by the first process."""
        return Journal(None if jax.process_index() else self.folder.journal)

    def open_checkpoints(self, note: Callable[[str], None]) -> Checkpoints:
        """The run's checkpoints, to be closed after use; `note` is told of damage and failures."""
        section = self.config.checkpoint
        return Checkpoints(
            self.folder.checkpoints,
            keep_latest=section.keep_latest,
            keep_best=section.keep_best,
            note=note,
        )

    def restore(self, checkpoints: Checkpoints) -> tuple[TrainState, RunRecord, bool]:
        """State and record to go on from, and whether they come from a checkpoint."""
        restored = checkpoints.restore_latest(self.program.abstract_state)
        if restored is None:
            return self.program.init_state(), RunRecord(), False
        state, record = restored
        if record.step > self.num_steps:
            raise RunError(
                f"{self.folder.path} is at step {record.step}, past the {self.num_steps} asked "
                "for; a run can only grow: raise steps or name another workdir"
            )
        return state, record, True

    def write_beginning(self, record: RunRecord) -> None:
        """Writes what is known before the first step of this session, and that it begins."""
        if jax.process_index():
            return
        before = read_json(self.folder.manifest) if self.folder.manifest.is_file() else {}
        manifest = build_manifest(
            run_id=before.get("run_id") or secrets.token_hex(8),
            identity=self.identity,
            model={
                "name": self.model.name,
                "source": self.model.source,
                "sha256": self.model.sha256,
                "architecture": dataclasses.asdict(self.model.architecture),
            },
            data=self.inputs.statistics,
            program=self.program.description,
            num_steps=self.num_steps,
        )
        origins = {"origins": dict(self.config.origins)}
        write_json(self.folder.config, self.config.to_dict() | origins)
        write_json(self.folder.manifest, manifest)
        self.journal.write("started", record.step, {"devices": manifest["devices"]})

    def write_figures(
        self,
        record: RunRecord,
        *,
        before_summary: Callable[[Mapping[str, Any]], object] = lambda summary: None,
        **more: Any,
    ) -> None:
        """Writes which rows were consumed so far, and the summary with `more` in it.

        The summary comes last, because a run is finished once it says so: whatever must be there
        by then is written by `before_summary`, which is handed what the summary will hold.
        """
        if jax.process_index():
            return
        self.consumption.advance(record.step, skipped=record.skipped_steps)
        description = self.program.description
        flops = (
            record.tokens * description["flops_per_token"]
            + record.loss_tokens * description["flops_per_loss_token"]
        )
        summary = summarize(
            record,
            model=self.model.name,
            examples=self.consumption.examples,
            adapter_parameters=description["trainable_parameters"],
            flops_per_step=flops / record.step if record.step else None,
            peak_flops=peak_flops(),
            planned_steps=self.num_steps,
            **more,
        )
        write_json(self.folder.training_rows, self.consumption.to_dict())
        before_summary(plain(summary))
        write_json(self.folder.summary, summary)

    def save_best_adapter(
        self, checkpoints: Checkpoints, state: TrainState, record: RunRecord
    ) -> None:
        """Writes adapter/ from the step with the lowest evaluation loss."""
        best = record.best
        if best is None:
            return
        if best["step"] != record.step or record.status == "diverged":
            restored = checkpoints.restore_best(self.program.abstract_state)
            if restored is None:
                raise RunError(
                    f"{self.folder.checkpoints}: neither step {best['step']}, which was the best, "
                    "nor any other can be read any more; train again in a new workdir"
                )
            state, found = restored
            rows = [row for row in record.evaluations if row["step"] == found.step]
            best = rows[-1] if rows else {"step": found.step, "eval_loss": None}
        tensors = fetch(state.trainable)
        if jax.process_index():
            return
        lora = self.config.lora
        config: dict[str, Any] = {
            "kind": "lora" if lora.enabled else "full",
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "step": best["step"],
            "eval_loss": best["eval_loss"],
        }
        if lora.enabled:
            config |= {
                "rank": lora.rank,
                "alpha": lora.alpha,
                "targets": list(lora.targets),
                "base": lora.base,
                "base_int8": list(lora_base(self.config).int8),
            }
            if self.kernels_sha256 is not None:
                config["kernels_sha256"] = self.kernels_sha256
        save_adapter(self.folder.adapter, tensors, config)


def open_run(
    config: TrainingConfig,
    folder: RunFolder,
    items: Sequence[EvalItem] | None,
    *,
    note: Callable[[str], None],
    hold: Callable[[], None],
) -> Run:
    """Loads the model, reads the data and builds the program; see `read_inputs` about `items`.

    hold: takes the folder for this run, before anything is written into it.

    What is cheap comes first: the mesh, then the rows, then the model. Raises RunError where the
    folder's run is not the one that `config` asks for, and ConfigError where another process has
    other data or another model.
    """
    mesh = make_mesh(config.mesh)
    multiple = row_multiple(mesh, config.optimizer.accumulation_steps)
    missing = -config.batch_size % multiple
    held = host_rows(mesh, config.batch_size + missing)
    if missing:
        note(
            f"{missing} of {config.batch_size + missing} rows of every step stay empty on this "
            f"mesh; make batch_size a multiple of {multiple} to use them"
        )
    note("reading the rows")
    rows = read_rows(config)
    precision = resolve_precision(config.step.precision, mesh.devices.flat[0].platform)
    # Weights that are trained stay whole; frozen ones are kept as they are multiplied.
    keeps_half = config.lora.enabled and precision.weights == "bfloat16"
    dtype: Dtype = "bfloat16" if keeps_half else "float32"
    opened = open_model(config.model_name, dtype=dtype, cache_dir=config.model.cache_dir)
    note("tokenizing the rows")
    part = BatchPart(held.start, held.stop)
    inputs = read_inputs(config, opened.tokenizer, items, rows=rows, part=part)
    base, kernels, sha256 = lora_base(config), None, None
    if is_calibrated(config):
        opened = opened._replace(leaves=tuple(opened.leaves))  # read here and once more below
        hold()
        kernels, sha256 = calibrated_kernels(
            config, folder, opened, inputs, base=base, precision=precision, note=note
        )
    note(f"loading {config.model_name}")
    model = place_model(
        config.model_name,
        opened,
        dtype=dtype,
        sharding=sharding_by_path(mesh),
        base=base,
        kernels=kernels,
    )
    num_steps = inputs.num_steps(config)
    program = build_program(config, model, num_steps=num_steps, mesh=mesh)
    # The program has the weights; in full fine-tuning a second reference would keep a copy.
    run = Run(config, folder, model._replace(weights={}), inputs, program, num_steps, sha256)
    must_agree("run", flatten(run.identity))
    if folder.manifest.is_file():
        folder.check_identity(run.identity)
    return run
