"""`python -m coderllm_jax.train`: rows and a model in, an adapter and a page about it out.

    configuration ──► model, inputs ──► program ──► loop ──► adapter/, report/
                      (training.inputs) (training.step) (training.loop)

The order of things is here; each thing is somewhere else. A run that exists and is unfinished is
continued, a finished one is left alone.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.training import TrainingConfig

if TYPE_CHECKING:
    from coderllm_jax.model.load import LoadedModel
    from coderllm_jax.records import EvalItem, Writer
    from coderllm_jax.training.inputs import Inputs
    from coderllm_jax.training.record import RunRecord
    from coderllm_jax.training.run_folder import RunFolder
    from coderllm_jax.training.step import Program


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A run as it stands: its folder and its summary (see report/summary.json)."""

    workdir: Path
    summary: dict[str, Any]
    was_finished: bool = False

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter."""
        return self.workdir / "adapter"

    @property
    def report(self) -> Path:
        """The page."""
        return self.workdir / "report" / "index.html"

    @property
    def best_eval_loss(self) -> float | None:
        """The lowest evaluation loss; None if no trained step was evaluated."""
        return self.summary["best_eval_loss"]


def main(config: TrainingConfig) -> int:
    """Trains, says in a few lines how it went; 1 where the run diverged."""
    result = train_model(config)
    from coderllm_jax.reporting.training_text import describe_result

    if result.was_finished:
        print(f"{result.workdir} is finished; raise steps or epochs to go on")
    print(describe_result(result.workdir))
    return 1 if result.summary["status"] == "diverged" else 0


def train_model(config: TrainingConfig | Mapping[str, Any]) -> TrainingResult:
    """Trains as `config` says (frozen, or what `create_default()` gave) and returns the result.

    Raises a UserError, with the remedy, before anything is computed where the configuration, the
    data, the model or the folder is not usable.
    """
    started = time.perf_counter()
    config = TrainingConfig.from_config_dict(config)
    from coderllm_jax.training.devices import check_platform, prepare_process
    from coderllm_jax.training.run_folder import RunFolder, read_json

    folder = RunFolder(Path(config.workdir))
    continues = folder.check_usable()
    if continues and _is_finished(folder) and read_json(folder.config) == config.to_dict():
        return TrainingResult(folder.path, read_json(folder.summary), was_finished=True)

    prepare_process(platform=config.mesh.platform, cache_dir=config.model.cache_dir)
    check_platform(config.mesh.platform)
    return _train(config, folder, continues=continues, started=started)


def _train(
    config: TrainingConfig, folder: RunFolder, *, continues: bool, started: float
) -> TrainingResult:
    import jax

    from coderllm_jax.data.pipeline import make_train_iterator
    from coderllm_jax.errors import RunError
    from coderllm_jax.generation.samples import make_sampler
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.monitoring.progress import ProgressWriter
    from coderllm_jax.monitoring.resources import peak_memory_bytes
    from coderllm_jax.monitoring.writers import open_writers
    from coderllm_jax.reporting.training_report import write_report
    from coderllm_jax.training.checkpoint import Checkpoints
    from coderllm_jax.training.inputs import Consumption, read_inputs
    from coderllm_jax.training.loop import Observers, train
    from coderllm_jax.training.record import RunRecord
    from coderllm_jax.training.run_folder import read_json, write_json
    from coderllm_jax.training.step import build_program

    is_first = jax.process_index() == 0
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    progress = ProgressWriter(quiet=not (config.logging.progress and is_first))

    items = _find_evaluation_items(config, progress.note)
    progress.note(f"loading {config.model_name}")
    mesh = make_mesh(config.mesh)
    model = _load_model(config, mesh)
    progress.note("reading the rows")
    inputs = read_inputs(config, model.tokenizer, items, **hosts)
    num_steps = inputs.num_steps(config)
    identity = _identity(config, model, inputs)
    if continues:
        folder.check_identity(identity)
    program = build_program(config, model, num_steps=num_steps, mesh=mesh)
    if is_first:
        _write_beginning(config, folder, model, inputs, program, identity, num_steps)

    with Checkpoints(
        folder.checkpoints,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
    ) as checkpoints:
        fresh = program.init_state()
        restored = checkpoints.restore_latest(fresh)
        state, record = restored or (fresh, RunRecord())
        if record.step > num_steps:
            raise RunError(
                f"{folder.path} is at step {record.step}, past the {num_steps} asked for; "
                "a run can only grow: raise steps or name another workdir"
            )
        if record.step == num_steps and _is_finished(folder):
            return TrainingResult(folder.path, read_json(folder.summary), was_finished=True)
        consumption = Consumption(inputs)

        def report(record: RunRecord) -> None:
            record.peak_memory_bytes = max(record.peak_memory_bytes, peak_memory_bytes())
            if is_first:
                consumption.advance(record.step)
                write_json(folder.training_rows, consumption.to_dict())
                write_json(folder.summary, _summarize(model, program, record, consumption.examples))
                write_report(folder)

        progress.begin(num_steps=num_steps, step=record.step)
        writer: Writer = open_writers(
            config,
            folder,
            progress,
            resumed_from=record.step if restored else None,
            is_first=is_first,
        )
        batches = make_train_iterator(
            inputs.rows,
            start_step=record.step,
            stop_step=num_steps,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            **hosts,
        )
        setup_s = time.perf_counter() - started
        record.setup_s += setup_s
        record.wall_s += setup_s
        try:
            state = train(
                config,
                program,
                state,
                record,
                num_steps=num_steps,
                batches=batches,
                evaluation=inputs.evaluation,
                checkpoints=checkpoints,
                observers=Observers(
                    writer,
                    make_sampler(config, model, program, inputs.questions),
                    after_evaluation=report,
                    note=progress.note,
                ),
            )
        finally:
            batches.close()
            writer.close()
        _save_best_adapter(config, folder, model, checkpoints, state, record)
    report(record)
    return TrainingResult(folder.path, read_json(folder.summary))


def _is_finished(folder: RunFolder) -> bool:
    from coderllm_jax.training.run_folder import read_json

    return folder.summary.is_file() and read_json(folder.summary).get("status") == "finished"


def _find_evaluation_items(
    config: TrainingConfig, note: Callable[[str], None]
) -> list[EvalItem] | None:
    """The items of evaluation_path or of the default data, which is prepared if it is missing.

    None where data.path came without any: rows are then held out of it.
    """
    from coderllm_jax.training.inputs import DEFAULT_EVALUATION, DEFAULT_TRAINING

    if config.data.path and not config.data.evaluation_path:
        return None
    from coderllm_jax.data.preparation import prepare_data, read_evaluation_items

    if config.data.evaluation_path:
        return read_evaluation_items(Path(config.data.evaluation_path))
    if not DEFAULT_TRAINING.is_dir():
        from coderllm_jax.config.data import DataConfig

        card = str(entry.find_card(config.data.prepare_config) or config.data.prepare_config)
        note("preparing the default data")
        prepare_data(DataConfig.from_config_dict(entry.load_card(card)))
    return read_evaluation_items(DEFAULT_EVALUATION)


def _load_model(config: TrainingConfig, mesh: Any) -> LoadedModel:
    from coderllm_jax.model.load import load_model
    from coderllm_jax.model.precision import resolve_precision
    from coderllm_jax.model.sharding import sharding_by_path

    platform = mesh.devices.flat[0].platform
    precision = resolve_precision(config.step.precision, platform)
    is_bfloat16 = config.lora.enabled and precision.weights == "bfloat16"
    return load_model(
        config.model_name,
        dtype="bfloat16" if is_bfloat16 else "float32",
        cache_dir=config.model.cache_dir,
        sharding=sharding_by_path(mesh),
    )


def _identity(config: TrainingConfig, model: LoadedModel, inputs: Inputs) -> dict[str, Any]:
    """What two sessions of one run must share; see `RunFolder.check_identity`."""
    asked = config.to_dict()
    return {
        "model": {"sha256": model.sha256, "tokenizer": model.tokenizer.fingerprint},
        "data": {
            "sha256": inputs.sha256,
            "evaluation_sha256": inputs.statistics["evaluation_sha256"],
            **{
                key: asked["data"][key] for key in ("sequence_length", "on_long_example", "packing")
            },
        },
        "lora": asked["lora"] if config.lora.enabled else {"enabled": False},
        "optimizer": {**asked["optimizer"], "learning_rate": config.learning_rate},
        "batch_size": config.batch_size,
        "seed": config.seed,
    }


def _write_beginning(
    config: TrainingConfig,
    folder: RunFolder,
    model: LoadedModel,
    inputs: Inputs,
    program: Program,
    identity: Mapping[str, Any],
    num_steps: int,
) -> None:
    """Everything that is known before the first step."""
    from coderllm_jax.monitoring.manifest import build_manifest
    from coderllm_jax.training.run_folder import read_json, write_json

    before = read_json(folder.manifest) if folder.manifest.is_file() else {}
    write_json(folder.config, config.to_dict())
    write_json(
        folder.manifest,
        build_manifest(
            run_id=before.get("run_id") or secrets.token_hex(8),
            identity=identity,
            model={
                "name": model.name,
                "source": model.source,
                "sha256": model.sha256,
                "architecture": dataclasses.asdict(model.architecture),
            },
            data=inputs.statistics,
            num_steps=num_steps,
            program=program.description,
        ),
    )


def _summarize(
    model: LoadedModel, program: Program, record: RunRecord, examples: int
) -> dict[str, Any]:
    from coderllm_jax.monitoring.resources import peak_flops
    from coderllm_jax.monitoring.summary import summarize

    return summarize(
        record,
        model=model.name,
        examples=examples,
        adapter_parameters=program.description["trainable_parameters"],
        flops_per_step=program.description.get("flops_per_step"),
        peak_flops=peak_flops(),
    )


def _save_best_adapter(
    config: TrainingConfig,
    folder: RunFolder,
    model: LoadedModel,
    checkpoints: Any,
    state: Any,
    record: RunRecord,
) -> None:
    """Writes adapter/ from the best checkpoint, and which rows were trained on until the end."""
    import jax

    from coderllm_jax.training.adapter import fetch, save_adapter

    best = record.best
    if best is None:
        return
    if best["step"] != record.step or record.status == "diverged":
        state, _ = checkpoints.restore(best["step"], state)
    tensors = fetch(state.trainable)
    if jax.process_index() == 0:
        save_adapter(
            folder.adapter,
            tensors,
            {
                "kind": "lora" if config.lora.enabled else "full",
                "model": model.name,
                "model_sha256": model.sha256,
                "step": best["step"],
                "eval_loss": best["eval_loss"],
                "rank": config.lora.rank,
                "alpha": config.lora.alpha,
                "targets": list(config.lora.targets),
            },
        )


if __name__ == "__main__":
    entry.run(main, TrainingConfig, "configs/lora.py")
