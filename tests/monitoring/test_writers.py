"""Writers side by side: each gets everything, and none can end a run."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import RunError
from coderllm_jax.monitoring import metrics_log, writers
from coderllm_jax.monitoring.progress import ProgressWriter
from coderllm_jax.monitoring.writers import (
    CluWriter,
    FanOut,
    named_scalars,
    open_writers,
    write_clu_scalars,
)
from coderllm_jax.records import Sample
from coderllm_jax.training.run_folder import RunFolder, write_json

STEP = {"step": 3, "time": 1.0, "loss": 2.0, "grad_norm": None}
EVALUATION = {"step": 4, "time": 2.0, "eval_loss": 1.5, "perplexity": 4.5}


class Broken:
    """Fails at whatever it is asked to fail at."""

    def __init__(self, *at: str) -> None:
        self.at = at
        self.rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        if "write" in self.at:
            raise OSError("disk full")
        self.rows.append(row)

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        if "write_samples" in self.at:
            raise OSError("disk full")

    def close(self) -> None:
        if "close" in self.at:
            raise OSError("disk full")


@pytest.mark.parametrize("at", ["make", "write", "write_samples", "close"])
def test_a_failing_writer_is_named_once_and_the_others_go_on(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Broken:
        if at == "make":
            raise OSError("disk full")
        return Broken(at)

    sound = Broken()
    fan_out = FanOut({"bad": make, "good": lambda: sound})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fan_out.write(STEP)
            fan_out.write_samples(3, [Sample("q", "a")])
        fan_out.close()
    assert [record.getMessage() for record in caplog.records] == [
        "writer bad failed and is left out: OSError: disk full",
        "the run is not whole in: bad",
    ]
    assert fan_out.failures == {"bad": "OSError: disk full"}
    assert len(sound.rows) == 3


@pytest.mark.parametrize("at", ["make", "write", "write_samples", "close"])
def test_a_required_writer_that_fails_ends_the_run(at: str) -> None:
    def make() -> Broken:
        if at == "make":
            raise OSError("disk full")
        return Broken(at)

    def run() -> None:
        with contextlib.closing(FanOut({"main": make}, required=("main",))) as fan_out:
            fan_out.write(STEP)
            fan_out.write_samples(3, [Sample("q", "a")])

    with pytest.raises(OSError, match="disk full"):
        run()


def test_an_interrupt_is_not_a_failing_writer() -> None:
    class Interrupted(Broken):
        def write(self, row: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FanOut({"bar": Interrupted}).write(STEP)


def test_a_full_disk_under_metrics_jsonl_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    fan_out = open_all(a_folder(tmp_path), clu=False)
    monkeypatch.setattr(metrics_log.json, "dumps", fail)
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written \(No space left"):
        fan_out.write(EVALUATION | {"token_accuracy": 0.5})
    fan_out.close()


def test_rows_are_enriched_for_everyone() -> None:
    sound = Broken()
    FanOut({"good": lambda: sound}, enrich=lambda: {"memory_bytes": 7}).write(STEP)
    assert sound.rows == [{**STEP, "memory_bytes": 7}]


def test_names_say_training_or_evaluation_and_nothing_is_made_up() -> None:
    assert named_scalars(STEP) == {"train/loss": 2.0}
    assert named_scalars(EVALUATION) == {"eval/loss": 1.5, "eval/perplexity": 4.5}


def test_clu_summaries_are_read_back_by_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("clu.metric_writers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = CluWriter(tmp_path)
    writer.write(STEP)
    writer.write(EVALUATION)
    writer.write_samples(4, [Sample("q", "a")])
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    scalar = events.Tensors("train/loss")[0]
    assert scalar.step == 3
    assert "eval/perplexity" in events.Tags()["tensors"]
    assert "samples/0" in events.Tags()["tensors"]


def a_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    write_json(folder.manifest, {"run_id": "abc"})
    return folder


def open_all(folder: RunFolder, **logging_options: Any) -> FanOut:
    values = TrainingConfig.create_default()
    values.logging.update(logging_options)
    config = TrainingConfig.from_config_dict(values)
    return open_writers(config, folder, ProgressWriter(quiet=True), resumed_from=None)


def test_tensorflow_is_not_touched_where_clu_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    fan_out = open_all(a_folder(tmp_path), clu=False)
    fan_out.write(STEP | {"step_time_s": 1.0, "tokens_per_s": 1.0})
    fan_out.close()
    assert fan_out.failures == {}


def test_wandb_is_asked_for_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, values: Mapping[str, Any], step: int) -> None:
            calls.append(("log", (dict(values), step)))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**options: Any) -> Run:
        calls.append(("init", {k: options[k] for k in ("project", "id", "resume")}))
        return Run()

    stand_in = types.ModuleType("wandb")
    stand_in.init = init
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("WANDB_PROJECT", "coding")
    fan_out = open_all(a_folder(tmp_path), clu=False)
    fan_out.write(EVALUATION | {"token_accuracy": 0.5})
    fan_out.close()
    assert fan_out.failures == {}
    assert calls[0] == ("init", {"project": "coding", "id": "abc", "resume": "allow"})
    values, step = calls[1][1]
    assert step == 4
    assert values["eval/loss"] == 1.5
    assert calls[-1] == ("finish", None)


def test_wandb_that_is_asked_for_and_absent_is_a_warning_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("WANDB_PROJECT", "coding")
    fan_out = open_all(a_folder(tmp_path), clu=False)
    fan_out.close()
    assert "pip install 'coderllm-jax[wandb]' or unset it" in fan_out.failures["W&B"]


def test_wandb_offline_leaves_a_run_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "coding")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fan_out = open_all(a_folder(tmp_path), clu=False)
    fan_out.write(STEP | {"step_time_s": 1.0, "tokens_per_s": 1.0})
    fan_out.write_samples(3, [Sample("q", "a")])
    fan_out.close()
    assert fan_out.failures == {}
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def read_scalars(folder: Path) -> dict[str, tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder)).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)  # one event a name
        found[tag] = (event.step, float(make_ndarray(event.tensor_proto)))
    return found


def test_scalars_of_a_result_are_read_back_and_a_second_result_takes_their_place(
    tmp_path: Path,
) -> None:
    pytest.importorskip("clu.metric_writers")
    folder = tmp_path / "metrics"
    write_clu_scalars(folder, {"qa_accuracy/seen/fact_f1": 0.25, "code/human_eval/pass@1": 0.5})
    other = folder / "metrics.jsonl"
    other.write_text("{}\n")
    assert read_scalars(folder) == {
        "qa_accuracy/seen/fact_f1": (0, 0.25),
        "code/human_eval/pass@1": (0, 0.5),
    }
    write_clu_scalars(folder, {"qa_accuracy/seen/fact_f1": 0.75}, step=7)
    assert read_scalars(folder) == {"qa_accuracy/seen/fact_f1": (7, 0.75)}
    assert other.read_text() == "{}\n"


def test_scalars_that_cannot_be_written_are_a_warning_and_the_earlier_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = tmp_path / "events.out.tfevents.1"
    earlier.write_text("earlier")
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    with caplog.at_level(logging.WARNING):
        write_clu_scalars(tmp_path, {"a": 1.0})
    (record,) = caplog.records
    assert "CLU summaries were not written" in record.getMessage()
    assert earlier.read_text() == "earlier"
