"""metrics.jsonl: every line is a row, whatever happened to the process that wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from coderllm_jax.monitoring.metrics_log import JsonLinesWriter, read_rows
from coderllm_jax.records import Sample
from coderllm_jax.training.run_folder import RunFolder


def write_steps(folder: RunFolder, steps: range, *, resumed_from: int | None) -> None:
    writer = JsonLinesWriter(folder, resumed_from=resumed_from)
    for step in steps:
        writer.write({"step": step, "loss": float(step)})
        writer.write_samples(step, [Sample("q", f"a{step}")])
    writer.close()


def steps_in(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def test_a_row_can_be_read_before_the_writer_is_closed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    writer = JsonLinesWriter(folder, resumed_from=None)
    writer.write({"step": 1, "loss": 2.5})
    assert read_rows(folder.metrics_log) == [{"step": 1, "loss": 2.5}]
    writer.close()


def test_a_resume_drops_what_lies_after_its_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_steps(folder, range(8), resumed_from=None)
    write_steps(folder, range(6, 10), resumed_from=5)
    assert steps_in(folder.metrics_log) == list(range(10))
    assert steps_in(folder.samples_log) == list(range(10))


def test_a_start_without_checkpoint_drops_everything(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_steps(folder, range(3), resumed_from=None)
    write_steps(folder, range(2), resumed_from=None)
    assert steps_in(folder.metrics_log) == [0, 1]


def test_half_a_line_is_passed_over_and_removed_by_a_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_steps(folder, range(3), resumed_from=None)
    with folder.metrics_log.open("a") as file:
        file.write('{"step": 3, "lo')
    assert steps_in(folder.metrics_log) == [0, 1, 2]
    write_steps(folder, range(3, 5), resumed_from=2)
    assert steps_in(folder.metrics_log) == [0, 1, 2, 3, 4]
    for line in folder.metrics_log.read_text().splitlines():
        json.loads(line)


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    writer = JsonLinesWriter(folder, resumed_from=None)
    writer.write({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    writer.close()
    assert read_rows(folder.metrics_log) == [{"step": 1, "loss": None, "grad_norm": None}]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == []


def test_answers_keep_their_line_ends_and_letters(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    sample = Sample("wie?", "def f():\n\treturn 'ü\u2028'", "r")
    writer = JsonLinesWriter(folder, resumed_from=None)
    writer.write_samples(0, [sample])
    writer.close()
    assert read_rows(folder.samples_log) == [{"step": 0, **sample._asdict()}]
