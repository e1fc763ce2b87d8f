"""How an arm is timed: medians by batch, enough passes, the process's own figures."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Counts, Measurement, median_by_batch, num_passes, run_job, run_module
from benchmarks.train_inputs import load_batches, save_batches
from coderllm_jax.records import PackedBatch


def test_medians_are_taken_over_passes_and_not_over_batches():
    passes = [[1.0, 10.0], [3.0, 30.0], [2.0, 99.0]]
    assert median_by_batch([step for one in passes for step in one], 2) == [2.0, 30.0]


@pytest.mark.parametrize(
    ("steps", "batches", "passes"), [(5, 1, 5), (5, 2, 3), (5, 4, 3), (13, 4, 4), (1, 4, 1)]
)
def test_passes_make_enough_steps(steps, batches, passes):
    assert num_passes(steps, batches) == passes
    assert passes * batches >= steps


def test_rates_follow_from_counts_and_seconds():
    run = Measurement(
        seconds=4.0,
        processor_s=6.0,
        num_batches=2,
        num_timed_steps=6,
        counts=Counts(positions=2048, tokens=2000, supervised=800),
        first_loss=5.0,
        setup_s=9.0,
        memory_before_bytes=100,
        memory_peak_bytes=350,
    )
    assert run.supervised_per_s == 200
    assert run.cores == 1.5
    assert run.memory_added_bytes == 250
    assert measure.read_measurement(json.loads(json.dumps(run._asdict()))) == run


def test_a_job_is_measured_after_its_warm_up(tmp_path, monkeypatch):
    """With a clock that only steps move: 100 s for each warm-up step, then 1 s and 2 s."""
    row = np.ones((1, 4), np.int32)
    batches = [PackedBatch(row * n, row, row.astype(np.float32), row, row) for n in (1, 2)]
    save_batches(tmp_path / "batches.npz", batches)
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure.time, "process_time", lambda: 2 * clock[0])
    job = measure.Job(
        batches=str(tmp_path / "batches.npz"),
        steps=1,
        model_name="",
        huggingface="",
        attention="",
        output=str(tmp_path / "out.json"),
    )
    monkeypatch.setattr(sys, "argv", ["arm", json.dumps(job._asdict())])
    order = []

    def train(batches, on_step):
        for step, batch in enumerate(batches):
            number = int(batch.inputs[0, 0])
            order.append(number)
            clock[0] += 100 if step < 2 else number
            on_step(7.0 - step)

    run_job(lambda: None, lambda _: train)
    found = measure.read_measurement(json.loads((tmp_path / "out.json").read_text()))
    assert order == [1, 2] * 2
    assert found.seconds == 3.0
    assert found.processor_s == 6.0
    assert found.setup_s == 200.0
    assert found.num_timed_steps == 2
    assert found.first_loss == 7.0
    assert found.counts == Counts(positions=8, tokens=8, supervised=8)
    # Two kernel counters of different grain: the peak may read a page below what was before.
    assert min(found.memory_peak_bytes, found.memory_before_bytes) > 0
    assert len(load_batches(tmp_path / "batches.npz")) == 2


def test_a_process_that_fails_is_told_in_one_line():
    assert run_module("benchmarks.no_such_module", environment={}).endswith("no_such_module")
    told = run_module("json.tool", "--no-such-flag", environment={})
    assert told.endswith("error: unrecognized arguments: --no-such-flag")
    assert "\n" not in told
    assert run_module("this", environment={}) == ""
