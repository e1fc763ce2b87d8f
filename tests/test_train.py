"""A run from rows to adapter and page, on the tiny model: what is promised about it, end to end."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from coderllm_jax import TrainingConfig, TrainingResult, train_model
from coderllm_jax.config.data import DataConfig
from coderllm_jax.data.prepared import is_prepared
from coderllm_jax.errors import ConfigError, DataError, RunError
from coderllm_jax.monitoring.metrics_log import read_rows
from coderllm_jax.reporting import training_report
from coderllm_jax.train import find_evaluation_items
from coderllm_jax.training.adapter import load_adapter
from coderllm_jax.training.run_folder import RunFolder, read_json
from tests.data.sources import write_package
from tests.fakes import run_unread

STEPS = 8
# Between two checkpoints, so that a run that ends here has to go back.
INTERRUPTED_AT, CHECKPOINT_EVERY = 5, 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that a model of bytes can get better at: they differ in one word."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    with path.open("w") as file:
        for i in range(80):
            row = {"question": f"What is f{i}?", "answer": f"It adds {i % 5}.", "symbol": f"m.f{i}"}
            file.write(json.dumps({**row, "source": "m", "kind": "what", "license": "MIT"}) + "\n")
    return path


@pytest.fixture(scope="module")
def base(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfigDict]:
    """A configuration whose runs share their compiled programs."""
    values = TrainingConfig.create_default()
    values.model_name = "tiny"
    values.steps = STEPS
    values.learning_rate = 2e-2
    values.model.cache_dir = str(tmp_path_factory.mktemp("cache"))
    values.data.path = str(rows)
    values.data.sequence_length = 128
    values.evaluation.every_steps = INTERRUPTED_AT
    values.evaluation.max_items = 4
    values.evaluation.samples = 1
    values.evaluation.sample_tokens = 4
    values.checkpoint.every_steps = CHECKPOINT_EVERY
    values.logging.clu = False
    values.logging.progress = False
    before = jax.config.jax_compilation_cache_dir
    yield values
    jax.config.update("jax_compilation_cache_dir", before)


def changed(base: ConfigDict, workdir: Path, **changes: Any) -> ConfigDict:
    values = ConfigDict(base.to_dict(), convert_dict=True)
    values.workdir = str(workdir)
    values.update_from_flattened_dict(changes)
    return values


@pytest.fixture(scope="module")
def whole(base: ConfigDict, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """One uninterrupted run, with everything that is written."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return train_model(changed(base, workdir, **{"logging.clu": True}))


def figures(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what is measured by a clock."""
    timed = ("time", "tokens_per_s", "loss_tokens_per_s", "step_time_s", "data_wait_s")
    return [
        {name: value for name, value in row.items() if name not in (*timed, "memory_bytes")}
        for row in read_rows(path)
    ]


def test_learns(whole: TrainingResult) -> None:
    assert whole.summary["status"] == "finished"
    assert whole.summary["best_eval_loss"] < 0.95 * whole.summary["baseline_eval_loss"]
    assert whole.summary["baseline_few_shot_loss"] > 0


def test_writes_what_is_promised(whole: TrainingResult) -> None:
    written = {
        path.relative_to(whole.workdir).as_posix()
        for path in whole.workdir.rglob("*")
        if "checkpoints/" not in path.as_posix()
    }
    assert written >= {
        "config.json",
        "manifest.json",
        "training_rows.json",
        "metrics/metrics.jsonl",
        "metrics/samples.jsonl",
        "report/summary.json",
        "report/index.html",
        "report/loss.png",
        "adapter/adapter.safetensors",
        "adapter/adapter_config.json",
    }
    assert any(name.startswith("metrics/events.out.tfevents") for name in written)


def test_rows_of_metrics_hold_what_is_promised(whole: TrainingResult) -> None:
    rows = read_rows(whole.workdir / "metrics" / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    promised = {"step", "time", "loss", "learning_rate", "grad_norm", "tokens_per_s", "data_wait_s"}
    assert all(row.keys() >= promised for row in steps)
    evaluations = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [0, INTERRUPTED_AT, STEPS]
    for row in evaluations:
        assert row["perplexity"] == pytest.approx(math.exp(row["eval_loss"]))
        assert 0 <= row["token_accuracy"] <= 1


def test_the_manifest_says_what_the_run_was_made_of(
    whole: TrainingResult, base: ConfigDict
) -> None:
    manifest = read_json(whole.workdir / "manifest.json")
    assert len(manifest["identity"]["data"]["sha256"]) == 64
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["devices"]["platform"] == "cpu"
    assert manifest["program"]["precision"] in ("float32", "mixed")
    assert manifest["program"]["mesh"] == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}
    assert manifest["versions"]["jax"] == jax.__version__
    asked = read_json(whole.workdir / "config.json")
    assert asked["learning_rate"] == base.learning_rate
    assert asked.pop("origins")["learning_rate"] == "program"
    assert TrainingConfig.from_config_dict(asked).to_dict() == asked


def test_trained_rows_are_those_of_the_steps_and_no_evaluation_question(
    whole: TrainingResult,
) -> None:
    seen = read_json(whole.workdir / "training_rows.json")
    counts = {int(times): rows for times, rows in seen["rows_by_times_seen"].items()}
    assert sum(times * rows for times, rows in counts.items()) == whole.summary["examples"]
    assert sum(seen["times_seen_by_symbol"].values()) == whole.summary["examples"]
    asked = {row["question"] for row in read_rows(whole.workdir / "metrics" / "samples.jsonl")}
    trained = {f"What is {symbol.removeprefix('m.')}?" for symbol in seen["times_seen_by_symbol"]}
    assert asked
    assert asked.isdisjoint(trained)


def test_the_adapter_is_the_best_steps(whole: TrainingResult) -> None:
    adapter = load_adapter(whole.adapter)
    assert adapter.config["step"] == whole.summary["best_step"]
    assert adapter.config["targets"] == ["query", "value"]
    assert {name: sorted(leaf) for name, leaf in adapter.tensors.items()} == {
        "query": ["a", "b"],
        "value": ["a", "b"],
    }
    assert any(np.abs(leaf["b"]).max() > 0 for leaf in adapter.tensors.values())


def test_resumed_is_uninterrupted_bit_for_bit(
    whole: TrainingResult, base: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report = training_report.write_report

    def interrupted(folder: RunFolder, summary: Mapping[str, Any]) -> Path:
        if summary["steps"] == INTERRUPTED_AT:
            raise KeyboardInterrupt
        return write_report(folder, summary)

    config = changed(base, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training_report, "write_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_model(config)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == [
        str(CHECKPOINT_EVERY)
    ]
    resumed = train_model(config)

    assert figures(resumed.workdir / "metrics/metrics.jsonl") == figures(
        whole.workdir / "metrics/metrics.jsonl"
    )
    assert read_rows(resumed.workdir / "metrics/samples.jsonl") == read_rows(
        whole.workdir / "metrics/samples.jsonl"
    )
    adapters = [load_adapter(run.adapter).tensors for run in (resumed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *adapters)
    for name in ("tokens", "loss_tokens", "examples", "best_step", "best_eval_loss"):
        assert resumed.summary[name] == whole.summary[name]


def test_a_page_that_cannot_be_written_on_the_way_does_not_end_the_run(
    base: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report, refused = training_report.write_report, []

    def full_disk(folder: RunFolder, *args: Any, **options: Any) -> Any:
        if not refused:
            refused.append(folder)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_report(folder, *args, **options)

    monkeypatch.setattr(training_report, "write_report", full_disk)
    result = train_model(changed(base, tmp_path / "run", steps=2))
    assert refused
    assert result.summary["status"] == "finished"
    assert result.report.is_file()


def test_a_finished_run_is_left_alone_and_says_so(whole: TrainingResult, base: ConfigDict) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")}
    again = train_model(changed(base, whole.workdir, **{"logging.clu": True}))
    assert again.was_finished
    # Other periods make it another configuration, and the same run.
    again = train_model(changed(base, whole.workdir, **{"checkpoint.every_steps": 7}))
    assert again.was_finished
    assert again.summary == whole.summary
    assert {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")} == before


def test_the_command_says_that_a_run_is_finished_and_exits_with_0(whole: TrainingResult) -> None:
    asked = json.loads((whole.workdir / "config.json").read_text())
    del asked["origins"]
    card = whole.workdir.parent / "card.py"
    card.write_text(
        "from ml_collections import ConfigDict\n"
        "from coderllm_jax import TrainingConfig\n"
        "def get_config():\n"
        "    values = TrainingConfig.create_default()\n"
        f"    values.update({asked!r})\n"
        "    return values\n"
    )
    command = [sys.executable, "-m", "coderllm_jax.train", f"--config={card}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "is finished and left as it is; raise steps or epochs to go on" in done.stdout
    assert "evaluation loss" in done.stdout


@pytest.mark.parametrize(
    ("status", "code"), [("finished", 0), ("interrupted", 42), ("diverged", 1)]
)
def test_the_exit_code_stands_where_nobody_reads_what_is_said(status: str, code: int) -> None:
    summary = {"status": status, "steps": 5, "failure": "too large", "last_checkpoint": 3}
    program = f"""
from pathlib import Path
from coderllm_jax import entry, train
from coderllm_jax.reporting import training_text
training_text.describe_run = lambda workdir: "a run"
result = train.TrainingResult(Path("runs/x"), {summary!r}, was_finished=True)
train.train_model = lambda config: result
entry.run(train.main, train.TrainingConfig, "", argv=["train"])
"""
    assert run_unread(program) == code


def test_more_steps_go_on_and_fewer_are_refused(
    whole: TrainingResult, base: ConfigDict, tmp_path: Path
) -> None:
    # A schedule that does not know the number of steps: one compiled program serves both.
    constant = {"optimizer.schedule": "constant", "optimizer.warmup_fraction": 0.0}
    short = train_model(changed(base, tmp_path, steps=2, **constant))
    assert short.summary["steps"] == 2
    longer = train_model(changed(base, tmp_path, steps=3, **constant))
    assert longer.summary["steps"] == 3
    losses = [row["step"] for row in figures(tmp_path / "metrics/metrics.jsonl") if "loss" in row]
    assert losses == [1, 2, 3]
    with pytest.raises(RunError, match="is at step 3, past the 1 asked for; a run can only grow"):
        train_model(changed(base, tmp_path, steps=1, **constant))


def test_another_run_is_refused_with_its_differences(
    whole: TrainingResult, base: ConfigDict
) -> None:
    changes = {"lora.rank": 4, "seed": 3, "learning_rate": 1e-3}
    with pytest.raises(RunError) as raised:
        train_model(changed(base, whole.workdir, **changes))
    for difference in ("lora.rank was 8, is 4", "seed was 0, is 3", "learning_rate was 0.02"):
        assert difference in str(raised.value)


def test_other_rows_are_another_run(
    whole: TrainingResult, base: ConfigDict, rows: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("It adds 4.", "It adds 5."))
    with pytest.raises(RunError, match=r"data\.sha256 was"):
        train_model(changed(base, whole.workdir, **{"data.path": str(other)}))


def test_a_folder_of_something_else_is_not_touched(base: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds notes\.txt but no run of ours"):
        train_model(changed(base, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture
def default_data(base: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """A working directory without data, and a card that prepares a toy."""
    monkeypatch.chdir(tmp_path)
    values = DataConfig.create_default()
    values.packages, values.source_trees = (), (str(write_package(tmp_path / "project")),)
    (tmp_path / "card.py").write_text(
        "from coderllm_jax.config import DataConfig\n"
        "def get_config():\n"
        "    values = DataConfig.create_default()\n"
        f"    values.packages, values.source_trees = (), {values.source_trees!r}\n"
        "    values.evaluation.unseen_fraction = 0.3\n"
        "    return values\n"
    )
    return changed(base, tmp_path / "run", **{"data.path": "", "data.prepare_config": "card.py"})


def find_items(values: ConfigDict) -> tuple[int, list[str]]:
    notes: list[str] = []
    items = find_evaluation_items(TrainingConfig.from_config_dict(values), notes.append)
    return -1 if items is None else len(items), notes


def test_default_rows_are_prepared_also_with_items_of_ones_own(default_data: ConfigDict) -> None:
    item = {"id": "i", "question": "q", "answer": "a", "split": "unseen"}
    Path("items.jsonl").write_text(json.dumps(item))
    default_data.data.evaluation_path = "items.jsonl"
    assert find_items(default_data) == (1, ["preparing the default data"])
    assert is_prepared(Path("data"))
    assert find_items(default_data) == (1, [])


def test_rows_of_ones_own_are_used_and_those_of_a_killed_run_are_not(
    default_data: ConfigDict,
) -> None:
    count, _ = find_items(default_data)
    assert count > 0
    Path("data/.prepare-x/new").mkdir(parents=True)
    Path("data/manifest.json").rename("data/.prepare-x/new/manifest.json")
    assert find_items(default_data) == (count, ["preparing the default data"])
    assert is_prepared(Path("data"))
    Path("data/manifest.json").unlink()
    assert find_items(default_data) == (count, [])


def test_a_missing_card_of_prepare_is_named_by_its_option(default_data: ConfigDict) -> None:
    default_data.data.prepare_config = "nowhere.py"
    with pytest.raises(ConfigError, match=r"^data\.prepare_config is 'nowhere\.py'"):
        find_items(default_data)


def test_a_tilde_in_workdir_is_the_home_folder(
    whole: TrainingResult, base: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(whole.workdir.parent))
    with pytest.raises(RunError, match=r"data\.sequence_length|steps"):
        train_model(changed(base, Path("~/run"), steps=1))


def test_a_mistake_leaves_no_folder_behind(base: ConfigDict, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError):
        train_model(changed(base, workdir, batch_size=0))
    with pytest.raises(DataError, match=r"none\.jsonl"):
        train_model(changed(base, workdir, **{"data.path": str(tmp_path / "none.jsonl")}))
    assert not workdir.exists()


def test_every_weight_can_be_trained_and_is_written(base: ConfigDict, tmp_path: Path) -> None:
    changes = {"lora.enabled": False, "steps": 2, "learning_rate": 1e-3}
    result = train_model(changed(base, tmp_path, **changes))
    adapter = load_adapter(result.adapter)
    assert adapter.config["kind"] == "full"
    assert sorted(adapter.tensors) == ["blocks", "embedding", "final_norm"]
    assert result.summary["final_eval_loss"] < result.summary["baseline_eval_loss"]


@pytest.mark.long
def test_a_run_goes_on_where_there_are_other_devices(base: ConfigDict, tmp_path: Path) -> None:
    """Four simulated devices first, in a process of their own; then what is here."""
    changes = {"steps": 2, "evaluation.every_steps": 0, "mesh.data": 1}
    flags = {"mesh.fsdp": 2, "mesh.tensor": 2, **changes}
    config = changed(base, tmp_path / "run", **flags)
    code = (
        "import sys, json; from coderllm_jax import train_model, TrainingConfig; "
        "values = TrainingConfig.create_default(); values.update(json.loads(sys.argv[1])); "
        "print(train_model(values).summary['final_eval_loss'])"
    )
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, config.to_json()],
        env={**os.environ, **devices},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = changed(base, tmp_path / "run", **{**changes, "steps": 3})
    longer = train_model(here).summary
    assert longer["steps"] == 3
    assert longer["final_eval_loss"] < float(done.stdout)


def test_help_answers_at_once_and_without_heavy_imports() -> None:
    code = (
        "import sys, coderllm_jax.train; "
        "sys.exit(', '.join({'jax', 'keras', 'tensorflow', 'orbax', 'grain'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
