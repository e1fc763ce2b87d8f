"""`python -m coderllm_jax.train`: rows and a model in, an adapter and a page about it out.

    configuration ──► run ──► loop ──► adapter/, report/
                (training.run) (training.loop)

A run that exists and is unfinished is continued, a finished one is left alone. Heavy imports wait
until there is something to train, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.data import DataConfig
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError, ResumableError

if TYPE_CHECKING:
    from coderllm_jax.monitoring.progress import ProgressWriter
    from coderllm_jax.monitoring.writers import FanOut
    from coderllm_jax.records import EvalItem
    from coderllm_jax.training.checkpoint import Checkpoints
    from coderllm_jax.training.record import RunRecord
    from coderllm_jax.training.run import Run
    from coderllm_jax.training.run_folder import RunFolder
    from coderllm_jax.training.signals import StopSignals
    from coderllm_jax.training.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A run as it stands: its folder and its summary (what report/summary.json holds)."""

    workdir: Path
    summary: dict[str, Any]
    was_finished: bool = False

    def __repr__(self) -> str:
        losses = (self.summary.get(name) for name in ("baseline_eval_loss", "best_eval_loss"))
        before, best = ("unknown" if loss is None else f"{loss:.3f}" for loss in losses)
        return (
            f"TrainingResult({self.summary['status']} after {self.summary['steps']} steps, "
            f"evaluation loss {before} → {best}, adapter={str(self.adapter)!r}, "
            f"report={str(self.report)!r})"
        )

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter."""
        return self.workdir / "adapter"

    @property
    def report(self) -> Path:
        """The page."""
        return self.workdir / "report" / "index.html"


def main(config: TrainingConfig) -> int:
    """Trains and says in a few lines how it went.

    Returns 0 where the run is finished or was stopped on purpose, 42 where a signal interrupted it
    and the same command goes on, 1 where it diverged: also where nobody reads what it says.
    """
    result = train_model(config)
    from coderllm_jax.training.distributed import is_first

    status = result.summary["status"]
    if status == "interrupted":
        with entry.may_be_unread(sys.stderr):
            print(
                f"interrupted: {result.workdir} is saved at step {result.summary['steps']}; "
                "the same command goes on",
                file=sys.stderr,
            )
        return 42
    if is_first():
        from coderllm_jax.reporting.training_text import describe_run

        with entry.may_be_unread(sys.stdout):
            if result.was_finished:
                kept = "is finished and left as it is; raise steps or epochs to go on"
                print(f"{result.workdir} {kept}")
            print(describe_run(result.workdir))
    if status == "diverged":
        with entry.may_be_unread(sys.stderr):
            print(f"error: {describe_failure(result)}", file=sys.stderr)
        return 1
    return 0


def describe_failure(result: TrainingResult) -> str:
    """Why a run diverged, from where it can go on, and with what."""
    step = result.summary["last_checkpoint"]
    origin = f"the same command goes on from step {step}" if step else "it starts anew"
    return (
        f"{result.summary['failure']}; {origin}, after a change that keeps the run's identity "
        "(live.yaml with learning_rate_scale, other safety limits); for another learning_rate or "
        "other data name another workdir"
    )


def train_model(config: TrainingConfig | Mapping[str, Any]) -> TrainingResult:
    """Trains as `config` says (frozen, or what `create_default()` gave) and returns the result.

    SIGTERM and SIGINT save and end the run; its summary's status is then `interrupted`. Raises a
    UserError that names the remedy, before anything is computed, where configuration, data, model,
    device or folder cannot be used, and ResumableError where a signal came before the first step.
    """
    started = time.perf_counter()
    if not isinstance(config, TrainingConfig):
        config = TrainingConfig.from_config_dict(config)
    from coderllm_jax.training.run_folder import RunFolder

    folder = RunFolder(Path(config.workdir).expanduser())
    several = config.distributed.means_several(os.environ) or _has_joined_others()
    # Several processes look once all are there: one of them may have begun to write.
    if not several and (finished := _find_finished(config, folder)):
        return finished
    folder.check_writable()

    from coderllm_jax.training.devices import check_platform, prepare_process

    prepare_process(platform=config.mesh.platform, cache_dir=config.model.cache_dir)
    from coderllm_jax.training import distributed

    _check_sources(config)
    distributed.start(config.distributed)
    with distributed.ends_for_all(str):
        check_platform(config.mesh.platform)
        if several:
            distributed.must_agree("configuration", flatten_comparable(config))
            finished = _find_finished(config, folder)
            distributed.barrier("folder looked at")
            if finished:
                return finished
    return _train(config, folder, started)


def _has_joined_others() -> bool:
    """Whether a program that calls `train_model` has made itself one of several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _check_sources(config: TrainingConfig) -> None:
    """The files and packages that the options name, before any device is touched."""
    from coderllm_jax.data.files import find_files
    from coderllm_jax.model.load import check_source

    for option in ("data.path", "data.evaluation_path"):
        if path := config.get(option):
            find_files(path, option=option)
    check_source(config.model_name)


def flatten_comparable(config: TrainingConfig) -> dict[str, Any]:
    """Options by path, without those in which processes of one run differ."""
    return {
        info.path: config.get(info.path)
        for info in config.options()
        if not info.path.startswith("distributed.")
    }


def _train(config: TrainingConfig, folder: RunFolder, started: float) -> TrainingResult:
    import jax

    from coderllm_jax.monitoring.progress import ProgressWriter
    from coderllm_jax.training.agreement import first_decides
    from coderllm_jax.training.distributed import barrier, ends_for_all, is_first
    from coderllm_jax.training.run import open_run
    from coderllm_jax.training.signals import StopSignals
    from coderllm_jax.training.watchdog import Watchdog

    progress = ProgressWriter(quiet=not (config.logging.progress and is_first()))
    signals = StopSignals(grace_period_s=config.checkpoint.grace_period_s, note=progress.note)
    watchdog = Watchdog(
        folder.processes,
        rank=jax.process_index(),
        count=jax.process_count(),
        timeout_s=config.safety.hang_timeout_s,
    )

    def note(text: str) -> None:
        """What happens before the first step: a moment at which a signal can be obeyed at once."""
        progress.note(text)
        watchdog.beat(text, 0)
        if signals.received:
            raise ResumableError(f"{signals.received} before the first step; nothing was lost")

    with signals, watchdog, ends_for_all(watchdog.wait_for_silence):
        # The first process prepares what is missing; the others wait for it.
        if not is_first():
            barrier("data is prepared")
        items = find_evaluation_items(config, note)
        if is_first():
            barrier("data is prepared")
        with contextlib.ExitStack() as stack:

            @functools.cache
            def hold() -> None:
                """Takes the folder before the first write; mistakes found earlier leave none."""
                first_decides(lambda: stack.enter_context(folder.locked()))

            run = open_run(config, folder, items, note=note, hold=hold)
            hold()
            return _run(run, started, progress=progress, signals=signals, watchdog=watchdog)


def _run(
    run: Run, started: float, *, progress: ProgressWriter, signals: StopSignals, watchdog: Watchdog
) -> TrainingResult:
    """Trains an opened run from where it is."""
    from coderllm_jax.generation.samples import make_sampler
    from coderllm_jax.monitoring.writers import open_writers
    from coderllm_jax.training.distributed import barrier, is_first
    from coderllm_jax.training.live import LiveFile
    from coderllm_jax.training.loop import Observers, train
    from coderllm_jax.training.run_folder import read_json
    from coderllm_jax.training.steering import Steering

    config, folder = run.config, run.folder

    def journal(event: str, step: int, details: Mapping[str, Any]) -> None:
        rows = {"rows": run.inputs.rows_of_step(step)} if event == "skipped" else {}
        run.journal.write(event, step, {**details, **rows})

    with contextlib.ExitStack() as stack:
        progress.note("looking for checkpoints")
        checkpoints = stack.enter_context(run.open_checkpoints(progress.note))
        state, record, was_restored = run.restore(checkpoints)
        if _is_finished(folder):
            summary = read_json(folder.summary)
            if (summary["steps"], summary["planned_steps"]) == (record.step, run.num_steps):
                return TrainingResult(folder.path, summary, was_finished=True)
        run.write_beginning(record)
        watchdog.begin()
        progress.begin(num_steps=run.num_steps, step=record.step)
        batches = run.inputs.batches(config, start_step=record.step, stop_step=run.num_steps)
        writer = open_writers(
            config,
            folder,
            progress,
            resumed_from=record.step if was_restored else None,
            owes_evaluation=record.is_unevaluated,
        )
        live = None
        if is_first():
            live = LiveFile(
                folder.live, run.journal, values=record.live, step=record.step, note=progress.note
            )
        wall_before_s = record.wall_s
        record.setup_s += time.perf_counter() - started
        record.wall_s += time.perf_counter() - started

        report = _Report(run, checkpoints, writer, progress.note)
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
                    after_evaluation=report.try_to_write,
                    note=progress.note,
                    journal=journal,
                    beat=watchdog.beat,
                ),
                steering=Steering(config, record, signals=signals, live=live),
            )
        finally:
            batches.close()
            writer.close()
        signal = {"signal": signals.received} if record.status == "interrupted" else {}
        run.journal.write(record.status, record.step, signal)
        if record.status != "interrupted":  # there may be seconds left only
            watchdog.beat("writing the adapter", record.step)
            run.save_best_adapter(checkpoints, state, record)
        record.wall_s = wall_before_s + time.perf_counter() - started
        report.write(record)
        barrier("summary is written")
    return TrainingResult(folder.path, read_json(folder.summary))


class _Report:
    """The summary and the page: at every evaluation, as far as that is possible, and at the end."""

    def __init__(
        self, run: Run, checkpoints: Checkpoints, writer: FanOut, note: Callable[[str], None]
    ) -> None:
        self._run, self._checkpoints, self._writer, self._note = run, checkpoints, writer, note

    def write(self, record: RunRecord) -> None:
        """Called by all processes; the first one writes."""
        from coderllm_jax.monitoring.resources import peak_memory_bytes
        from coderllm_jax.reporting.training_report import write_report

        record.peak_memory_bytes = max(record.peak_memory_bytes, peak_memory_bytes())
        self._run.write_figures(
            record,
            before_summary=functools.partial(write_report, self._run.folder),
            last_checkpoint=max(self._checkpoints.steps(), default=None),
            set_aside=[each._asdict() for each in self._checkpoints.set_aside],
            failed_saves=[each._asdict() for each in self._checkpoints.failures],
            failed_writers=self._writer.failures,
        )

    def try_to_write(self, record: RunRecord) -> None:
        """On the way, a full disk costs the page alone: the next evaluation writes it anew."""
        try:
            self.write(record)
        except OSError as error:
            self._note(f"the page is not written ({error})")


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


def _find_finished(config: TrainingConfig, folder: RunFolder) -> TrainingResult | None:
    """The run of exactly this configuration, if it is finished; RunError on a foreign folder."""
    from coderllm_jax.training.run_folder import read_json

    if not (folder.check_usable() and _is_finished(folder)):
        return None
    asked = {name: value for name, value in config.to_dict().items() if name != "distributed"}
    before = read_json(folder.config)
    if any(before.get(name) != value for name, value in asked.items()):
        return None
    return TrainingResult(folder.path, read_json(folder.summary), was_finished=True)


def _is_finished(folder: RunFolder) -> bool:
    from coderllm_jax.training.run_folder import read_json

    return folder.summary.is_file() and read_json(folder.summary).get("status") == "finished"


if __name__ == "__main__":
    entry.run(main, TrainingConfig, "configs/lora.py", computes=True)
