"""The GPU benchmark's arithmetic and verdicts: what is counted, compared, left out and told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver

from benchmarks import gpu
from benchmarks.gpu import Arm, Ratio, all_arms, chosen, compare, fused_is_right, table, why
from benchmarks.gpu_cells import (
    GEMMA3_1B,
    GEMMA3_4B,
    SMALL,
    Cell,
    needed_flops,
    packed_batch,
    rates,
)
from benchmarks.measure import Counts, count
from coderllm_jax.model.weights import leaf_shapes


@pytest.fixture(autouse=True)
def _parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver():
        yield


@pytest.mark.parametrize(
    ("architecture", "parameters"), [(GEMMA3_1B, 999_885_952), (GEMMA3_4B, 3_880_099_328)]
)
def test_models_have_as_many_weights_as_keras_hubs_presets(architecture, parameters):
    assert sum(math.prod(shape) for shape in leaf_shapes(architecture).values()) == parameters


def test_rows_are_full_and_their_examples_apart():
    batch = packed_batch(Cell("1b", 2, 2048))
    assert count(batch).tokens == count(batch).positions == 4096
    assert batch.segments.max() > 1
    starts = batch.positions == 0
    assert starts.sum() == sum(len(np.unique(row)) for row in batch.segments)
    assert 0.45 < batch.weights.mean() < 0.55
    # An example's answer is its later half: the last token is always part of one.
    assert batch.weights[:, -1].all()


def test_a_batch_is_a_function_of_its_cell():
    one, other = (packed_batch(Cell("1b", 2, 256)) for _ in range(2))
    assert all((x == y).all() for x, y in zip(one, other, strict=True))


def test_flops_by_hand():
    """Two heads of 4 · 64 · 16 queries, two of keys and values, ...: 4 FLOPs each, 3 layers."""
    query, key = 4 * 64 * 16, 2 * 64 * 16
    layer = query + 2 * key + query + 3 * 64 * 128
    counts = Counts(positions=12, tokens=10, supervised=5)
    assert needed_flops(SMALL, counts) == 4 * (10 * 3 * layer + 5 * 512 * 64)


def test_flops_are_those_that_the_step_describes():
    from coderllm_jax.config.training import TrainingConfig
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training import step

    recipe = step._recipe(TrainingConfig(), GEMMA3_4B, mesh=make_mesh(TrainingConfig().mesh))
    token, loss_token = step._flops(recipe)
    counts = Counts(positions=100, tokens=100, supervised=40)
    assert needed_flops(GEMMA3_4B, counts) == 100 * token + 40 * loss_token


def test_rates_and_mfu():
    cell = Cell("4b", 1, 2048)
    counts = count(packed_batch(cell))
    found = rates({"step_s": 0.5}, cell, device="NVIDIA H200")
    assert found["tokens_per_s"] == 4096
    assert found["mfu"] == pytest.approx(needed_flops(GEMMA3_4B, counts) / 0.5 / 989e12)
    assert rates({"step_s": 0.5}, cell, device="GeForce")["mfu"] is None


def test_the_page_names_the_peak_of_the_device_that_was_measured():
    conditions = dict.fromkeys(("date", "driver", "jax", "torch", "rank"), "")
    for device, said in (
        ("NVIDIA H100 80GB HBM3", "over 989 TFLOP/s"),
        ("NVIDIA H100 PCIe", "over 756 TFLOP/s"),
        ("GeForce", "over a peak that is not known here"),
    ):
        assert said in gpu.report("", conditions | {"device": device})
    cell = Cell("4b", 1, 2048)
    found = [
        rates({"step_s": 0.5}, cell, device=f"NVIDIA {name}") for name in ("H100", "H100 PCIe")
    ]
    assert found[1]["mfu"] / found[0]["mfu"] == pytest.approx(989 / 756)


def run(step_s=1.0, peak_bytes=1e9):
    return {
        "step_s": step_s,
        "peak_bytes": peak_bytes,
        "compile_s": 1.0,
        "first_loss": 12.5,
        "wall_s": 2.0,
    }


FOUND = {
    "4b-2048/ours-fused": run(0.2, 5e9),
    "4b-2048/ours-dense": run(0.5, 4e9),
    "4b-2048/ours-lean": run(0.3, 2e9),
    "4b-2048/peft": run(0.5, 10e9),
    "4b-2048/peft-lean": run(0.8, 4e9),
    "4b-8192/ours-fused": {"error": "out of memory"},
    "4b-8192/peft": run(0.5),
}


def test_like_is_compared_with_like():
    ratios = {ratio.name: ratio for ratio in compare(FOUND, device="H200")}
    name = "Gemma 3 4B, 4 x 2,048: "
    # PEFT's faster way, which is without checkpointing; memory each beside its like.
    assert ratios[name + "speed, ours / PEFT's faster"].value == pytest.approx(2.5)
    assert ratios[name + "peak memory, ours-fused / peft"].value == pytest.approx(0.5)
    assert ratios[name + "peak memory, ours-lean / peft-lean"].value == pytest.approx(0.5)
    assert ratios[name + "MFU"].at_least == 0.5
    assert not any("8,192" in each for each in ratios)
    assert compare({}, device="H200") == []


def test_a_goal_is_met_on_its_edge():
    assert Ratio("r", 2.0, at_least=2.0).verdict == "at least 2: met"
    assert Ratio("r", 0.61, at_most=0.6).verdict == "at most 0.6: missed"
    assert Ratio("r", 1.0).verdict == ""


def test_the_table_tells_figures_and_reasons():
    text = table(all_arms(quick=False), FOUND, device="H200")
    assert "not measured: out of memory" in text
    assert text.index("ours, fused ") < text.index("PEFT ")
    assert "40960" in text


def test_every_cell_has_every_way_once():
    names = [arm.name for arm in all_arms(quick=False)]
    assert len(set(names)) == len(names) == 1 + 4 * 6 + 1
    assert names[0] == "check"


def test_arms_are_chosen_by_name_and_by_cell():
    arms = all_arms(quick=False)
    assert [arm.name for arm in chosen(arms, ["check", "1b-8192/peft"])] == [
        "check",
        "1b-8192/peft",
    ]
    assert {arm.cell for arm in chosen(arms, ["4b-2048"])} == {Cell("4b", 4, 2048)}
    assert chosen(arms, []) == arms
    with pytest.raises(app.UsageError, match="4b-2049"):
        chosen(arms, ["4b-2049"])


def test_fused_attention_must_have_been_found_right():
    good, bad = {"fused": {"ok": True}}, {"fused": {"ok": False}}
    assert fused_is_right({"attention": {"a": good, "b": good}})
    assert not fused_is_right({"attention": {"a": good, "b": bad}})
    assert not fused_is_right({"attention": {"a": good, "b": {"error": "no"}}})
    assert not fused_is_right({"attention": {}})
    assert not fused_is_right({"error": "out of memory"})


def test_why_a_process_failed():
    assert why("... RESOURCE_EXHAUSTED: Out of memory ...", 1) == "out of memory"
    assert why("torch.OutOfMemoryError: CUDA out of memory", 1) == "out of memory"
    assert why("Traceback\nValueError: no\n", 1) == "ValueError: no"
    assert why("", -9) == "ended by signal 9"
    assert why("", 3) == "exit code 3"


class FakeProcess:
    """An arm's process that answers as it is told, and knows whether it was let go."""

    def __init__(self, output, answer):
        self.output, self.answer, self.returncode = output, answer, None
        self.stdin = self
        self.closed = False

    def communicate(self, word, timeout):
        assert json.loads(word) == {}
        assert timeout > 0
        self.returncode = 0 if self.answer else 1
        if self.answer:
            self.output.write_text(json.dumps(self.answer))

    def close(self):
        self.closed = True

    def wait(self):
        self.returncode = 0


def test_what_is_measured_is_written_as_it_comes(tmp_path, monkeypatch):
    """One arm fails, fused attention is wrong: the rest is measured, and the log has them all."""
    answers = {
        "check": {"devices": {}, "training": {}, "attention": {"c": {"fused": {"ok": False}}}},
        "fused": run(),
        "dies": None,
        "peft": run(),
    }
    started = []

    def start(arm, folder):
        output, errors = folder / f"{arm.name}.json", folder / f"{arm.name}.err"
        errors.write_text("ValueError: no")
        process = FakeProcess(output, answers[arm.name])
        started.append(process)
        return gpu.Started(arm, process, output, errors)

    monkeypatch.setattr(gpu, "start", start)
    flags.FLAGS.log = str(tmp_path / "log.jsonl")
    cell = Cell("4b", 4, 2048)
    arms = [Arm(name, cell, name, "m", {}, needs_fused=name == "fused") for name in answers]
    found = gpu.measure_all(arms, tmp_path, begin=gpu.time.perf_counter())
    assert "not right" in found["fused"]["error"]
    assert found["dies"]["error"] == "ValueError: no"
    assert found["peft"]["step_s"] == 1.0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == list(answers)
    # Nobody is left waiting: each process was let go, or its input was closed.
    assert all(process.closed or process.returncode is not None for process in started)


def test_of_an_arm_that_is_cut_short_what_it_had_counts(tmp_path):
    class Slow:
        def communicate(self, word, timeout):
            raise gpu.subprocess.TimeoutExpired("arm", timeout)

        def kill(self):
            pass

        wait = kill

    output, errors = tmp_path / "out.json", tmp_path / "err"
    errors.write_text("compiling")
    started = gpu.Started(all_arms(quick=True)[0], Slow(), output, errors)
    assert "not done after 7 s" in gpu.finish(started, limit_s=7)["error"]
    output.write_text('{"attention": {}}')
    assert gpu.finish(started, limit_s=7) == {"attention": {}}


def test_nothing_is_begun_after_the_time_is_used_up(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "start", lambda *_: pytest.fail("an arm was begun"))
    flags.FLAGS.budget_s = 5.0
    found = gpu.measure_all(all_arms(quick=False), tmp_path, begin=gpu.time.perf_counter())
    assert {each["error"] for each in found.values()} == {"not reached: the time was used up"}
