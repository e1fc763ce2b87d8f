"""Many writers behind one: whoever fails is named and left out, and the run goes on.

Only metrics.jsonl is required: where it cannot be written, the run ends.

    FanOut ── JsonLinesWriter     metrics.jsonl, samples.jsonl       (monitoring.metrics_log)
           ├─ CluWriter           TensorBoard summaries through CLU
           ├─ WandbWriter         Weights & Biases, where WANDB_PROJECT is set
           └─ ProgressWriter      a line on the terminal             (monitoring.progress)

TensorFlow, CLU and wandb are imported when their writer is made, and nowhere else.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.monitoring.metrics_log import JsonLinesWriter
from coderllm_jax.monitoring.resources import memory_bytes
from coderllm_jax.records import Sample, Writer
from coderllm_jax.redaction import redact
from coderllm_jax.training.run_folder import RunFolder, read_json

_log = logging.getLogger(__name__)
_NOT_SCALARS = ("step", "time")
_EVENTS = "events.out.tfevents.*"


def open_writers(
    config: TrainingConfig,
    folder: RunFolder,
    progress: Writer,
    *,
    resumed_from: int | None,
    owes_evaluation: bool = False,
) -> FanOut:
    """The writers that `config` and the environment ask for; none but on the first process."""
    writers: dict[str, Callable[[], Writer]] = {}
    if jax.process_index() == 0:
        writers["metrics.jsonl"] = lambda: JsonLinesWriter(
            folder, resumed_from=resumed_from, owes_evaluation=owes_evaluation
        )
        writers["progress"] = lambda: progress
        if config.logging.clu:
            writers["CLU"] = lambda: CluWriter(folder.metrics)
        if os.environ.get("WANDB_PROJECT"):
            writers["W&B"] = lambda: WandbWriter(folder, config)
    return FanOut(
        writers,
        enrich=lambda: {"memory_bytes": memory_bytes()},
        required=("metrics.jsonl",),
    )


class FanOut:
    """Hands everything to all writers; `enrich` adds figures (such as memory) to every row.

    What a `required` writer raises goes on to the caller. `failures` holds what the others raised,
    by name; `close` says it once more, where a warning in the middle of a run has scrolled away.
    """

    def __init__(
        self,
        writers: Mapping[str, Callable[[], Writer]],
        *,
        enrich: Callable[[], Mapping[str, Any]] = dict,
        required: Collection[str] = (),
    ) -> None:
        self._enrich, self._required = enrich, required
        self.failures: dict[str, str] = {}
        self._writers: dict[str, Writer] = {}
        for name, make in writers.items():
            made = self._guarded(name, make)
            if made is not None:
                self._writers[name] = made

    def write(self, row: Mapping[str, Any]) -> None:
        """The row, enriched, to every writer."""
        full = {**row, **self._enrich()}
        for name, writer in list(self._writers.items()):
            self._guarded(name, functools.partial(writer.write, full))

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """The samples to every writer."""
        for name, writer in list(self._writers.items()):
            self._guarded(name, functools.partial(writer.write_samples, step, samples))

    def close(self) -> None:
        """Closes all of them, the required ones last, and names those that failed."""
        for name, writer in sorted(self._writers.items(), key=lambda kv: kv[0] in self._required):
            self._guarded(name, writer.close)
        self._writers.clear()
        if self.failures:
            _log.warning("the run is not whole in: %s", ", ".join(self.failures))

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """Runs `call`; on any failure the writer is dropped, with a warning where it may be."""
        try:
            return call()
        except Exception as error:
            if name in self._required:
                raise
            self.failures[name] = redact(f"{type(error).__name__}: {error}")
            self._writers.pop(name, None)
            _log.warning("writer %s failed and is left out: %s", name, self.failures[name])
            return None


class CluWriter:
    """TensorBoard summaries: training figures under train/, evaluation figures under eval/.

    Every session of a run adds an events file. Rows that an interrupted session wrote after its
    last checkpoint stay in its own: CLU knows no purge, so TensorBoard shows those steps twice.
    metrics.jsonl, which everything of ours reads, holds them once.
    """

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf
        from clu.metric_writers import AsyncWriter, SummaryWriter

        # TensorFlow writes files here and computes nothing; left alone it takes the GPU's memory.
        tf.config.set_visible_devices([], "GPU")
        self._writer = AsyncWriter(SummaryWriter(str(folder)))

    def write(self, row: Mapping[str, Any]) -> None:
        """Scalars of the row at its step."""
        self._writer.write_scalars(row["step"], named_scalars(row))
        if "eval_loss" in row:
            self._writer.flush()

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Answers as text summaries."""
        texts = {
            f"samples/{i}": f"**{sample.question}**\n\n{sample.answer}"
            for i, sample in enumerate(samples)
        }
        self._writer.write_texts(step, texts)

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


def write_clu_scalars(folder: Path, scalars: Mapping[str, float], *, step: int = 0) -> None:
    """Writes named scalars as CLU (TensorBoard) summaries; earlier events in `folder` go.

    For results that are made again as a whole: a second evaluation takes the first one's place,
    where TensorBoard would draw both at the same step. What cannot be written is a warning, because
    the figures themselves lie elsewhere.
    """
    try:
        earlier = list(folder.glob(_EVENTS)) if folder.is_dir() else []
        _write_events(folder, scalars, step)
        for path in earlier:
            path.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001 - TensorFlow raises many kinds
        reason = redact(f"{type(error).__name__}: {error}")
        _log.warning("%s: CLU summaries were not written: %s", folder, reason)


def _write_events(folder: Path, scalars: Mapping[str, float], step: int) -> None:
    import tensorflow as tf
    from clu.metric_writers import SummaryWriter

    tf.config.set_visible_devices([], "GPU")  # see CluWriter
    writer = SummaryWriter(str(folder))
    writer.write_scalars(step, dict(scalars))
    writer.close()


class WandbWriter:
    """Weights & Biases, with its own environment variables (WANDB_MODE=offline stays local)."""

    def __init__(self, folder: RunFolder, config: TrainingConfig) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError(
                "WANDB_PROJECT is set and wandb is not installed; "
                "pip install 'coderllm-jax[wandb]' or unset it"
            )
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ["WANDB_PROJECT"],
            dir=str(folder.path),
            name=folder.path.name,
            # The folder's own id, so that a resumed run goes on in the same W&B run.
            id=read_json(folder.manifest)["run_id"],
            resume="allow",
            config=config.to_dict(),
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Scalars of the row at its step."""
        self._run.log(named_scalars(row), step=row["step"])

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Answers as a table."""
        table = self._wandb.Table(columns=["question", "answer"])
        for sample in samples:
            table.add_data(sample.question, sample.answer)
        self._run.log({"samples": table}, step=step)

    def close(self) -> None:
        """Ends the W&B run."""
        self._run.finish()


def named_scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """`{"step": 3, "loss": 2.0}` becomes `{"train/loss": 2.0}`; missing figures are left out."""
    prefix = "eval" if "eval_loss" in row else "train"
    return {
        f"{prefix}/{name.removeprefix('eval_')}": float(value)
        for name, value in row.items()
        if name not in _NOT_SCALARS and value is not None
    }
