"""The peers' benchmark: command lines, ratios by round, rows that say why, and the exit code."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import app

from benchmarks import generate_turns, measure, peers, peers_tunix
from benchmarks.generate_arm import ArmError, Pass, Report
from benchmarks.generate_tunix import Numbered
from benchmarks.generate_turns import Measurement as Generated
from benchmarks.generate_turns import Outcome
from benchmarks.measure import Counts, Measurement
from benchmarks.peers import GENERATE_ARMS, TRAIN_ARMS, Interpreter, Interpreters, Options
from coderllm_jax.records import PackedBatch

EVERYTHING = dict.fromkeys((*peers._OWN_PACKAGES, *peers._TUNIX_PACKAGES), "1.0")
OURS, KERAS = TRAIN_ARMS[0], TRAIN_ARMS[1]


def trained(*, per_s, peak=1_000, loss=5.0):
    return Measurement(
        seconds=2.0,
        processor_s=3.0,
        num_batches=4,
        num_timed_steps=4,
        counts=Counts(positions=400, tokens=300, supervised=round(per_s * 2)),
        first_loss=loss,
        setup_s=1.0,
        memory_before_bytes=0,
        memory_peak_bytes=peak,
    )


def generated(*seconds, first=1.0, peak=1_000, tokens=((1, 2), (3, 4))):
    report = Report(
        tokens=[list(row) for row in tokens],
        num_prompt_tokens=9,
        setup_s=1.0,
        memory_before_bytes=0,
        memory_peak_bytes=peak,
        setting={},
    )
    return Generated(tuple(Pass(each, each, first * each) for each in seconds), report)


# --- training -----------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_rates():
    # By round 4, 2 and 3 times as fast; the medians' ratio would be 200 / 50 = 4.
    runs = {
        OURS.name: [trained(per_s=200), trained(per_s=100), trained(per_s=300)],
        KERAS.name: [trained(per_s=50), trained(per_s=50), trained(per_s=100)],
    }
    ours, keras = peers.training_rows((OURS, KERAS), runs, {})
    assert keras["times_as_fast"] == pytest.approx(3.0)
    assert keras["supervised_per_s"] == pytest.approx(50)
    assert ours["times_as_fast"] == pytest.approx(1.0)
    assert keras["step_s"] == pytest.approx(0.5)
    assert keras["cores"] == pytest.approx(1.5)


def test_memory_is_the_largest_of_the_rounds_and_compared_with_ours():
    runs = {
        OURS.name: [trained(per_s=1, peak=2_000), trained(per_s=1, peak=1_000)],
        KERAS.name: [trained(per_s=1, peak=3_000), trained(per_s=1, peak=5_000)],
    }
    _, keras = peers.training_rows((OURS, KERAS), runs, {})
    assert keras["memory_peak_bytes"] == 5_000
    assert keras["memory_ratio"] == pytest.approx(2.5)


def test_a_round_that_failed_is_left_out_on_both_sides():
    runs = {
        OURS.name: [trained(per_s=100), trained(per_s=300)],
        KERAS.name: [None, trained(per_s=100)],
    }
    _, keras = peers.training_rows((OURS, KERAS), runs, {KERAS.name: "boom"})
    assert keras["times_as_fast"] == pytest.approx(3.0)
    assert keras["num_runs"] == 1
    assert "problem" not in keras


def test_rounds_interleave_arms_and_give_up_on_one_that_never_ran():
    asked = []

    def measure_arm(arm):
        asked.append(arm.name)
        return "no memory" if arm is KERAS else trained(per_s=1)

    runs, problems = peers.train_in_rounds((OURS, KERAS), measure_arm, rounds=3)
    assert asked == [OURS.name, KERAS.name, OURS.name, OURS.name]
    assert problems == {KERAS.name: "no memory"}
    assert len(runs[OURS.name]) == 3


def test_without_ours_a_peer_still_has_its_figures():
    runs = {KERAS.name: [trained(per_s=50)]}
    ours, keras = peers.training_rows((OURS, KERAS), runs, {OURS.name: "broken"})
    assert ours == {"arm": OURS.name, "title": "ours", "rows": "packed", "problem": "broken"}
    assert keras["supervised_per_s"] == pytest.approx(50)
    assert keras["times_as_fast"] is None
    assert keras["memory_ratio"] is None


# --- generation ---------------------------------------------------------------------------------


def test_generation_is_compared_by_round_with_first_tokens_and_what_was_said():
    arms = GENERATE_ARMS[:3]
    outcome = Outcome(
        {
            "ours_auto": generated(1.0, 2.0, 1.0, tokens=((1, 9), (3, 4))),
            "keras_float32": generated(4.0, 4.0, 3.0, first=2.0, peak=3_000),
        },
        {"ours_float32": "gone"},
    )
    ours, failed, keras = peers.generation_rows(arms, outcome)
    assert ours["tokens_per_s"] == pytest.approx(4.0)
    assert keras["times_as_fast"] == pytest.approx(3.0)
    assert keras["first_token_s"] == pytest.approx(8.0)
    assert keras["first_token_times_as_fast"] == pytest.approx(6.0)
    assert keras["memory_ratio"] == pytest.approx(3.0)
    assert (ours["num_same_tokens"], keras["num_same_tokens"]) == (3, 4)
    assert failed["problem"] == "gone"


class Acting:
    """A running arm without a process: `fails` names the step at which it ends."""

    log: list[tuple[str, str]] = []

    def __init__(self, module, job, *, environment, python):
        self.fails, self.name, self.python = job, module.removeprefix("benchmarks."), python

    def _do(self, step, result):
        self.log.append((self.name, step))
        if self.fails == step:
            raise ArmError(f"{step} went wrong")
        return result

    def wait_ready(self):
        self._do("load", None)

    def take_pass(self):
        return self._do("pass", Pass(1.0, 1.0))

    def finish(self):
        return self._do("finish", generated(1.0).report)

    def kill(self):
        self._do("kill", None)


def test_arms_take_turns_and_one_that_ends_early_does_not_stop_the_rest(monkeypatch):
    monkeypatch.setattr(generate_turns, "RunningArm", Acting)
    monkeypatch.setattr(Acting, "log", [])
    names = ("a", "load", "pass", "finish", "b", "away")
    told = []
    outcome = generate_turns.measure_together(
        [generate_turns.Arm(name, name, name, "float32") for name in names],
        lambda arm: arm.name,
        rounds=2,
        environment={},
        absent=lambda arm: "not here" if arm.name == "away" else "",
        tell=lambda number, name, taken: told.append((number, name)),
    )
    assert outcome.found.keys() == {"a", "b"}
    assert all(len(found.passes) == 2 for found in outcome.found.values())
    assert outcome.missing == {
        "load": "load went wrong",
        "pass": "pass went wrong",
        "finish": "finish went wrong",
        "away": "not here",
    }
    assert told == [(1, "a"), (1, "finish"), (1, "b"), (2, "a"), (2, "finish"), (2, "b")]
    killed = [name for name, step in Acting.log if step == "kill"]
    assert sorted(killed) == ["finish", "load", "pass"]


# --- arms and interpreters ----------------------------------------------------------------------


def test_every_arm_is_a_module_with_known_needs():
    for arm in (*TRAIN_ARMS, *GENERATE_ARMS):
        assert importlib.util.find_spec(f"benchmarks.{arm.module}")
        assert arm.module in peers._NEEDS
    names = [arm.name for arm in (*TRAIN_ARMS, *GENERATE_ARMS)]
    assert len(set(names)) == len(names)
    assert set(peers._OURS.values()) <= set(names)


def test_tunix_runs_in_its_own_interpreter_and_the_rest_in_ours():
    interpreters = Interpreters(Interpreter("own", EVERYTHING), Interpreter("its", EVERYTHING))
    for arm in (*TRAIN_ARMS, *GENERATE_ARMS):
        path = interpreters.of(arm.module).path
        assert path == ("its" if arm.name.startswith("tunix") else "own")
        assert interpreters.problem(arm.module) == ""


def test_what_cannot_run_says_why():
    few = {name: "1" for name in EVERYTHING if name not in ("peft", "qwix")}
    absent = Interpreters(Interpreter("own", few), peers.ask_interpreter("", peers._TUNIX_PACKAGES))
    assert absent.problem("peers_torch") == "peft not installed"
    assert absent.problem("peers_tunix") == "--tunix_python is not given"
    assert absent.problem("train_ours") == ""
    lacking = Interpreters(Interpreter("own", few), Interpreter("its", few))
    assert lacking.problem("generate_tunix") == "qwix not installed"
    told = peers.ask_interpreter("/no/such/python", ("numpy",)).problem
    assert told.startswith("--tunix_python does not run: ")


def test_an_interpreter_tells_its_versions():
    found = peers.ask_interpreter(sys.executable, ("numpy", "no-such-package"))
    assert found.versions == {"numpy": np.__version__}
    assert found.problem == ""


def test_the_command_of_a_training_arm(tmp_path, monkeypatch):
    asked = {}

    def run_module(module, *arguments, environment, python):
        job = json.loads(arguments[0])
        asked[module] = (job, environment, python)
        (tmp_path / "measurement.json").write_text(json.dumps(trained(per_s=7)._asdict()))
        return ""

    monkeypatch.setattr(peers, "run_module", run_module)
    interpreters = Interpreters(Interpreter("own", EVERYTHING), Interpreter("its", EVERYTHING))
    by_name = {arm.name: arm for arm in TRAIN_ARMS}
    for name in ("peft_float32_packed", "tunix_bfloat16_padded"):
        found = peers.measure_train_arm(by_name[name], tmp_path, interpreters, Options(steps=9))
        assert found == trained(per_s=7)
    job, environment, python = asked["benchmarks.peers_torch"]
    assert (measure.Job(**job).dtype, job["steps"]) == ("float32", 9)
    assert job["batches"] == str(tmp_path / "packed.npz")
    assert (python, environment["JAX_PLATFORMS"]) == ("own", "cpu")
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    job, environment, python = asked["benchmarks.peers_tunix"]
    assert (job["dtype"], job["batches"]) == ("bfloat16", str(tmp_path / "padded_4.npz"))
    assert python == "its"


BOTH = Interpreters(Interpreter("own", EVERYTHING), Interpreter("its", EVERYTHING))


def test_each_workload_has_its_prompts_and_the_tokens_and_arms_that_were_asked_for(monkeypatch):
    asked = []

    def measure_together(arms, job_of, *, rounds, absent, python_of, **more):
        names = [arm.name for arm in arms]
        asked.append((names, job_of(arms[1]), rounds))
        assert [python_of(arm) for arm in arms] == ["own", "own", "its"]
        assert [absent(arm) for arm in arms] == ["", "", "jax not installed"]
        return Outcome({}, dict.fromkeys(names, "not here"))

    monkeypatch.setattr(generate_turns, "measure_together", measure_together)
    monkeypatch.setattr(peers, "_make_inputs", lambda *arguments: {"model": "m"})
    wanted = ["ours_auto", "torch_float32", "tunix_bfloat16"]
    without_jax = Interpreter("its", {name: "1" for name in EVERYTHING if name != "jax"})
    interpreters = Interpreters(BOTH.own, without_jax)
    found = peers.measure_generation(interpreters, Options(arms=wanted, tokens=7, rounds=5))
    assert list(found["workloads"]) == list(peers.WORKLOADS)
    assert (found["conditions"]["model"], found["conditions"]["new_tokens"]) == ("m", 7)
    for workload, (names, job, rounds) in zip(peers.WORKLOADS, asked, strict=True):
        assert (names, rounds) == (wanted, 5)
        assert Path(job.prompts).name == f"{workload}.npz"
        assert (job.num_new, job.format, job.times_first_token) == (7, "float32", True)


def test_only_arms_that_were_asked_for_are_trained(monkeypatch):
    asked = []

    def measure_train_arm(arm, folder, interpreters, options):
        asked.append(arm.name)
        return trained(per_s=1)

    monkeypatch.setattr(peers, "measure_train_arm", measure_train_arm)
    monkeypatch.setattr(peers, "_make_inputs", lambda *arguments: {"model": "m"})
    found = peers.measure_training(BOTH, Options(arms=["keras_packed"], rounds=2))
    assert asked == ["keras_packed", "keras_packed"]
    assert [row["arm"] for row in found["rows"]] == ["keras_packed"]


def test_the_time_of_a_part_is_from_its_first_arm_to_its_last():
    began = peers.start_conditions({"model": "m"}, Options())
    found = peers.end_conditions({**began, "began": began["began"] - 600})
    assert 600 <= found["wall_s"] < 6000


def test_without_inputs_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "run_module", lambda *arguments, **more: "no rows")
    with pytest.raises(SystemExit, match="train_inputs made no inputs: no rows"):
        peers._make_inputs("benchmarks.train_inputs", tmp_path)


# --- Tunix's inputs -----------------------------------------------------------------------------


def test_tunix_sees_packed_examples_apart_and_the_targets_moved_by_one():
    # Two examples of 2 and 1 positions, one of padding.
    batch = PackedBatch(
        inputs=np.array([[5, 6, 8, 0]]),
        targets=np.array([[6, 7, 9, 0]]),
        weights=np.array([[0.0, 1.0, 1.0, 0.0]]),
        positions=np.array([[0, 1, 0, 0]]),
        segments=np.array([[1, 1, 2, 0]]),
    )
    found = peers_tunix.arguments_of(batch)
    assert found["inputs"].tolist() == [[5, 6, 8, 0, 0]]
    # Logits at i are compared with the token at i + 1, where the mask at i + 1 says so.
    assert found["input_tokens"][:, 1:].tolist() == batch.targets.tolist()
    assert found["input_mask"][:, 1:].tolist() == [[False, True, True, False]]
    assert found["positions"].tolist() == [[0, 1, 0, 0, 0]]
    assert found["attention_mask"][0].astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_tunix_is_handed_ids_as_texts():
    numbered = Numbered([np.array([2, 10, 11]), np.array([2, 12])])
    assert [numbered.bos_id(), *numbered.encode("0")] == [2, 10, 11]
    assert numbered.encode("1") == [12]


# --- the report ---------------------------------------------------------------------------------


CONDITIONS = {
    "model": "m",
    "date": "2026-01-02",
    "processor": "p",
    "cores": 2,
    "load_before": 0.5,
    "load_after": 1.5,
    "rounds": 3,
    "wall_s": 120.0,
    "new_tokens": 64,
    "rows": 900,
    "tokens_per_row": 41.2,
    "lengths": {"one": [132], "sixteen": [60, 151]},
}


def figures(*, ours_fails=False, peer_fails=True):
    runs = {KERAS.name: [trained(per_s=50)], OURS.name: [trained(per_s=100)]}
    problems = {}
    for failed, arm in ((ours_fails, OURS), (peer_fails, KERAS)):
        if failed:
            runs[arm.name], problems[arm.name] = [None], "out of\nmemory | killed"
    rows = peers.training_rows((OURS, KERAS), runs, problems)
    return {"training": {"conditions": CONDITIONS, "rows": rows}}


def test_a_failed_peer_is_a_row_with_its_reason():
    text = peers.report(figures())
    (row,) = [line for line in text.splitlines() if "KerasHub, float32" in line]
    assert row.startswith("| KerasHub, float32 | padded | not run: out of memory / killed |")
    head = next(line for line in text.splitlines() if line.startswith("| arm"))
    assert row.count("|") == head.count("|")
    assert "load 0.5 before the first arm" in text
    assert "3 rounds, 2 minutes." in text
    assert "## Generation" not in text


def test_the_page_names_the_model_that_was_measured_and_no_other():
    made = figures()
    made["training"]["conditions"] = CONDITIONS | {"model": "gemma3_1b"}
    text = peers.report(made)
    assert "gemma3_1b" in text
    assert "270M" not in text


def test_the_report_shows_both_workloads():
    outcome = Outcome({"ours_auto": generated(1.0)}, {})
    rows = peers.generation_rows(GENERATE_ARMS[:1], outcome)
    text = peers.report(
        {
            **figures(),
            "generation": {"conditions": CONDITIONS, "workloads": {"one": rows, "sixteen": rows}},
        }
    )
    assert "1 prompt of 132 tokens:" in text
    assert "16 prompts of 60 to 151 tokens:" in text
    assert "| ours, auto | 4.0 | 1.00 | 1.00 | 1.00 | 0.00 | 1.00 |  |" in text


def test_a_version_is_told_once_for_both_parts():
    lines = peers.version_lines(Interpreters(Interpreter("own", {"jax": "1"}), Interpreter("", {})))
    training = {**figures()["training"], "versions": lines}
    generation = {"conditions": CONDITIONS, "workloads": {}, "versions": lines}
    text = peers.report({"training": training, "generation": generation})
    assert text.endswith("## Versions\n\n- ours, KerasHub, PEFT: jax 1\n")


@pytest.mark.parametrize("ours_fails", [True, False])
def test_only_a_failure_of_ours_is_an_error(tmp_path, monkeypatch, ours_fails):
    made = figures(ours_fails=ours_fails)["training"]
    monkeypatch.setattr(peers, "measure_training", lambda interpreters, options: made)
    store, target = tmp_path / "figures.json", tmp_path / "peers.md"
    store.write_text(json.dumps({"generation": {"conditions": CONDITIONS, "workloads": {}}}))
    options = Options(parts=["training"], json=str(store), report=str(target))
    if ours_fails:
        with pytest.raises(
            SystemExit, match="an arm of ours failed: ours_packed: out of"
        ) as raised:
            peers.run(options)
        assert isinstance(raised.value.code, str)  # told on stderr, exit code 1
    else:
        peers.run(options)
    # What another run measured stays, and is told again.
    assert json.loads(store.read_text()).keys() == {"generation", "training"}
    assert "## Generation" in target.read_text()


def test_a_failed_generating_arm_of_ours_is_an_error():
    rows = peers.generation_rows(GENERATE_ARMS[:1], Outcome({}, {"ours_auto": "gone"}))
    made = {"generation": {"conditions": CONDITIONS, "workloads": {"one": rows}}}
    assert peers.failures_of_ours(made) == ["ours_auto: gone"]


def test_flags_become_options_in_order():
    assert tuple(flag.name for flag in peers._FLAGS) == Options._fields


@pytest.mark.parametrize("options", [Options(parts=["cooking"]), Options(arms=["ours_paked"])])
def test_an_unknown_name_is_refused_with_those_there_are(options):
    with pytest.raises(app.UsageError, match="expected some of"):
        peers.run(options)
