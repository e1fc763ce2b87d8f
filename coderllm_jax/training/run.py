"""One run, read and compiled: what lies between a configuration and the loop.

    open_run(config) ──► Run(config, folder, model, inputs, program, num_steps)
        .restore(checkpoints)    where to begin
        .write_beginning()       config.json, manifest.json
        .write_figures(record)   training_rows.json, report/summary.json
        .save_best_adapter(...)  adapter/

One process with any number of devices; `open_run` refuses several, which nothing starts yet.
"""

from __future__ import annotations

import dataclasses
import functools
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import DeviceError, RunError
from coderllm_jax.model.load import LoadedModel, load_model
from coderllm_jax.model.precision import resolve_precision
from coderllm_jax.model.sharding import make_mesh, row_multiple, sharding_by_path
from coderllm_jax.records import EvalItem
from coderllm_jax.training.adapter import fetch, save_adapter
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.devices import peak_flops
from coderllm_jax.training.inputs import Consumption, Inputs, read_inputs, read_rows
from coderllm_jax.training.manifest import build_manifest
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.run_folder import RunFolder, read_json, write_json
from coderllm_jax.training.step import Program, TrainState, build_program
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
            "lora": asked["lora"] if self.config.lora.enabled else {"enabled": False},
            "optimizer": {**asked["optimizer"], "learning_rate": self.config.learning_rate},
            "batch_size": self.config.batch_size,
            "seed": self.config.seed,
        }

    @functools.cached_property
    def consumption(self) -> Consumption:
        """Which rows have been trained on."""
        return Consumption(self.inputs)

    def open_checkpoints(self) -> Checkpoints:
        """The run's checkpoints, to be closed after use."""
        section = self.config.checkpoint
        return Checkpoints(
            self.folder.checkpoints, keep_latest=section.keep_latest, keep_best=section.keep_best
        )

    def restore(self, checkpoints: Checkpoints) -> tuple[TrainState, RunRecord, bool]:
        """State and record to go on from, and whether they come from a checkpoint."""
        fresh = self.program.init_state()
        restored = checkpoints.restore_latest(fresh)
        if restored is None:
            return fresh, RunRecord(), False
        state, record = restored
        if record.step > self.num_steps:
            raise RunError(
                f"{self.folder.path} is at step {record.step}, past the {self.num_steps} asked "
                "for; a run can only grow: raise steps or name another workdir"
            )
        return state, record, True

    def write_beginning(self) -> None:
        """Writes what is known before the first step."""
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
        write_json(self.folder.config, self.config.to_dict())
        write_json(self.folder.manifest, manifest)

    def write_figures(self, record: RunRecord) -> None:
        """Writes which rows were consumed so far, and the summary."""
        if jax.process_index():
            return
        self.consumption.advance(record.step)
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
        )
        write_json(self.folder.training_rows, self.consumption.to_dict())
        write_json(self.folder.summary, summary)

    def save_best_adapter(
        self, checkpoints: Checkpoints, state: TrainState, record: RunRecord
    ) -> None:
        """Writes adapter/ from the step with the lowest evaluation loss."""
        best = record.best
        if best is None:
            return
        if best["step"] != record.step or record.status == "diverged":
            state, _ = checkpoints.restore(best["step"], state)
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
            config |= {"rank": lora.rank, "alpha": lora.alpha, "targets": list(lora.targets)}
        save_adapter(self.folder.adapter, tensors, config)


def open_run(
    config: TrainingConfig,
    folder: RunFolder,
    items: Sequence[EvalItem] | None,
    *,
    note: Callable[[str], None],
) -> Run:
    """Loads the model, reads the data and builds the program; see `read_inputs` about `items`.

    What is cheap comes first: the mesh, then the rows, then the model. Raises
    RunError where the folder's run is not the one that `config` asks for, and DeviceError where
    JAX was started as several processes.
    """
    if jax.process_count() > 1:
        raise DeviceError(
            f"JAX runs as {jax.process_count()} processes; expected one, with all of its host's "
            "devices: start this command once, without jax.distributed"
        )
    mesh = make_mesh(config.mesh)
    multiple = row_multiple(mesh, config.optimizer.accumulation_steps)
    if missing := -config.batch_size % multiple:
        note(
            f"{missing} of {config.batch_size + missing} rows of every step stay empty on this "
            f"mesh; make batch_size a multiple of {multiple} to use them"
        )
    note("reading the rows")
    rows = read_rows(config)
    precision = resolve_precision(config.step.precision, mesh.devices.flat[0].platform)
    note(f"loading {config.model_name}")
    model = load_model(
        config.model_name,
        # Weights that are trained stay whole; frozen ones are kept as they are multiplied.
        dtype="bfloat16" if config.lora.enabled and precision.weights == "bfloat16" else "float32",
        cache_dir=config.model.cache_dir,
        sharding=sharding_by_path(mesh),
    )
    note("tokenizing the rows")
    inputs = read_inputs(config, model.tokenizer, items, rows=rows)
    num_steps = inputs.num_steps(config)
    program = build_program(config, model, num_steps=num_steps, mesh=mesh)
    run = Run(config, folder, model, inputs, program, num_steps)
    if folder.manifest.is_file():
        folder.check_identity(run.identity)
    return run
