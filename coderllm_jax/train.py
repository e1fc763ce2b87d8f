"""`python -m coderllm_jax.train`: rows and a model in, an adapter and a page about it out.

    configuration ──► run ──► loop ──► adapter/, report/
                (training.run) (training.loop)

A run that exists and is unfinished is continued, a finished one is left alone. Heavy imports wait
until there is something to train, so that --help answers at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.data import DataConfig
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from coderllm_jax.records import EvalItem
    from coderllm_jax.training.record import RunRecord
    from coderllm_jax.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A run as it stands: its folder and its summary (what report/summary.json holds)."""

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


def main(config: TrainingConfig) -> int:
    """Trains and says in a few lines how it went; 1 where the run diverged."""
    result = train_model(config)
    from coderllm_jax.reporting.training_text import describe_run

    if result.was_finished:
        print(f"{result.workdir} is finished and left as it is; raise steps or epochs to go on")
    print(describe_run(result.workdir))
    return 1 if result.summary["status"] == "diverged" else 0


def train_model(config: TrainingConfig | Mapping[str, Any]) -> TrainingResult:
    """Trains as `config` says (frozen, or what `create_default()` gave) and returns the result.

    Raises a UserError that names the remedy, before anything is computed, where configuration,
    data, model, device or folder cannot be used.
    """
    started = time.perf_counter()
    if not isinstance(config, TrainingConfig):
        config = TrainingConfig.from_config_dict(config)
    from coderllm_jax.training.run_folder import RunFolder, read_json

    folder = RunFolder(Path(config.workdir).expanduser())
    exists = folder.check_usable()
    if exists and _is_finished(folder) and read_json(folder.config) == config.to_dict():
        return TrainingResult(folder.path, read_json(folder.summary), was_finished=True)

    from coderllm_jax.training.devices import check_platform, prepare_process

    prepare_process(platform=config.mesh.platform, cache_dir=config.model.cache_dir)
    check_platform(config.mesh.platform)
    return _train(config, folder, started)


def _train(config: TrainingConfig, folder: RunFolder, started: float) -> TrainingResult:
    import jax

    from coderllm_jax.generation.samples import make_sampler
    from coderllm_jax.monitoring.progress import ProgressWriter
    from coderllm_jax.monitoring.resources import peak_memory_bytes
    from coderllm_jax.monitoring.writers import open_writers
    from coderllm_jax.reporting.training_report import write_report
    from coderllm_jax.training.loop import Observers, train
    from coderllm_jax.training.run import open_run
    from coderllm_jax.training.run_folder import read_json

    is_first = jax.process_index() == 0
    progress = ProgressWriter(quiet=not (config.logging.progress and is_first))
    items = find_evaluation_items(config, progress.note)
    run = open_run(config, folder, items, note=progress.note)

    def report(record: RunRecord) -> None:
        record.peak_memory_bytes = max(record.peak_memory_bytes, peak_memory_bytes())
        run.write_figures(record)
        if is_first:
            write_report(folder)

    with run.open_checkpoints() as checkpoints:
        state, record, was_restored = run.restore(checkpoints)
        if record.step == run.num_steps and _is_finished(folder):
            return TrainingResult(folder.path, read_json(folder.summary), was_finished=True)
        run.write_beginning()
        progress.begin(num_steps=run.num_steps, step=record.step)
        batches = run.inputs.batches(config, start_step=record.step, stop_step=run.num_steps)
        writer = open_writers(
            config, folder, progress, resumed_from=record.step if was_restored else None
        )
        wall_before_s = record.wall_s
        record.setup_s += time.perf_counter() - started
        record.wall_s += time.perf_counter() - started
        try:
            state = train(
                config,
                run.program,
                state,
                record,
                num_steps=run.num_steps,
                batches=batches,
                evaluation=run.inputs.evaluation,
                checkpoints=checkpoints,
                observers=Observers(
                    writer,
                    sample=make_sampler(config, run.model, run.program, run.inputs.questions),
                    after_evaluation=report,
                    note=progress.note,
                ),
            )
        finally:
            batches.close()
            writer.close()
        run.save_best_adapter(checkpoints, state, record)
    record.wall_s = wall_before_s + time.perf_counter() - started
    report(record)
    return TrainingResult(folder.path, read_json(folder.summary))


def find_evaluation_items(
    config: TrainingConfig, note: Callable[[str], None]
) -> list[EvalItem] | None:
    """The items of evaluation_path or of the default data, which is prepared if it is missing.

    None where the training rows came without any: some are then held out of them.
    """
    from coderllm_jax.data.preparation import read_evaluation_items
    from coderllm_jax.training.inputs import DEFAULT_EVALUATION

    if not config.data.path:
        _prepare_default(config.data.prepare_config, note)
    if config.data.evaluation_path:
        return read_evaluation_items(config.data.evaluation_path)
    if config.data.path:
        return None
    return read_evaluation_items(DEFAULT_EVALUATION) if _has_files(DEFAULT_EVALUATION) else None


def _prepare_default(card: str, note: Callable[[str], None]) -> None:
    """Runs `prepare` with the card where no training rows lie, or only parts of a killed run's.

    Rows without a manifest are the user's own, and used.
    """
    from coderllm_jax.data.preparation import prepare_data, was_interrupted
    from coderllm_jax.training.inputs import DEFAULT_TRAINING

    if _has_files(DEFAULT_TRAINING) and not was_interrupted(DEFAULT_TRAINING.parent):
        return
    note("preparing the default data")
    values = entry.load_card(card, option="data.prepare_config")
    try:
        prepare_data(DataConfig.from_config_dict(values))
    except ConfigError as error:
        raise ConfigError(f"{card}: {error}") from error


def _has_files(folder: Path) -> bool:
    """Whether somebody, `prepare` or the user, has put something there."""
    return folder.is_dir() and any(path.is_file() for path in folder.iterdir())


def _is_finished(folder: RunFolder) -> bool:
    from coderllm_jax.training.run_folder import read_json

    return folder.summary.is_file() and read_json(folder.summary).get("status") == "finished"


if __name__ == "__main__":
    entry.run(main, TrainingConfig, "configs/lora.py", computes=True)
