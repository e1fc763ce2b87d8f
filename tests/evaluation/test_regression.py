"""The gate: silent where nothing changed, loud where it did, and clear about what it compared."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from coderllm_jax.config.evaluation import EvaluationConfig
from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.baseline import find_baseline, load_baseline, store_baseline
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.regression import find_regressions, gate_failed, run_regression
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.records import Estimate
from tests.fakes import FakeAnswerer, FakeClock, Reply

NOTHING = {"manifest": {}, "suites": {}}


def rows(values, *, suite="qa_accuracy", group="seen", score="fact_f1", **more):
    """One sample a value."""
    return [
        {
            "suite": suite,
            "split": group,
            "id": f"qa/{number}",
            "question": f"What is {number}?",
            "answer": f"It is {value}.",
            "scores": {score: float(value)},
            **more,
        }
        for number, value in enumerate(values)
    ]


def gate_of(now, then, *, results=NOTHING, baseline=NOTHING, margin=0.02, **options):
    return find_regressions(
        results,
        now,
        baseline,
        then,
        margin=margin,
        alpha=0.05,
        **{"num_resamples": 500} | options,
    )


def change_of(gate, name):
    (found,) = [c for c in gate.result.details["changes"] if c["figure"] == name]
    return found


# ------------------------------------------------------------------------------------ by hand


def test_mcnemar_by_hand():
    # 7 items got worse, none better: one-sided (1/2)^7; one figure, so Holm changes nothing.
    then = [1.0] * 30 + [0.0] * 10
    now = [0.0] * 7 + [1.0] * 23 + [0.0] * 10
    gate = gate_of(rows(now), rows(then))
    change = change_of(gate, "qa_accuracy/seen/fact_f1")
    assert change["test"] == "mcnemar"
    assert change["p_value"] == pytest.approx(2**-7)
    assert change["adjusted_p"] == change["p_value"]
    assert (change["baseline"], change["current"]) == (0.75, 0.575)
    assert change["change"]["value"] == pytest.approx(-0.175)
    assert [item["id"] for item in change["worse_items"]] == [f"qa/{n}" for n in range(7)]
    assert change["worse_items"][0] == {
        "id": "qa/0",
        "baseline": 1.0,
        "current": 0.0,
        "baseline_answer": "It is 1.0.",
    }
    assert gate.verdict.outcome == "failed"
    assert gate.verdict.regressions == ("qa_accuracy/seen/fact_f1",)
    assert "0.750 → 0.575 on 40 pairs, 7 worse and 0 better" in gate.verdict.reason
    assert gate.result.figures["qa_accuracy/seen/fact_f1_change"].value == pytest.approx(-0.175)


def test_sign_flips_by_hand():
    # 8 items lost 0.3, the others nothing: all flips of 8 signs, one of them this extreme.
    then = [0.8] * 8 + [0.5] * 22
    now = [0.5] * 30
    change = change_of(gate_of(rows(now), rows(then)), "qa_accuracy/seen/fact_f1")
    assert change["test"] == "sign_flip"
    assert change["p_value"] == pytest.approx(2**-8)


def test_holm_counts_every_figure_that_may_fail():
    then, now = [1.0] * 30, [0.0] * 5 + [1.0] * 25  # p = 1/32
    others = [rows([1.0] * 30, score=name) for name in ("runs", "passed")]
    same = [row for other in others for row in other]
    alone = gate_of(rows(now) + same, rows(then) + same, scores=("fact_f1",))
    assert alone.verdict.outcome == "failed"
    among = gate_of(rows(now) + same, rows(then) + same)
    assert change_of(among, "qa_accuracy/seen/fact_f1")["adjusted_p"] == pytest.approx(3 / 32)
    assert among.verdict.outcome == "passed"
    # Those that may not fail are shown all the same.
    assert change_of(alone, "qa_accuracy/seen/runs")["adjusted_p"] is None


def test_a_score_that_is_not_gated_never_fails():
    gate = gate_of(rows([0.0] * 50), rows([1.0] * 50), scores=("passed",))
    assert gate.verdict.outcome == "not_comparable"


def test_a_certain_drop_within_the_margin_passes():
    then, now = np.full(300, 0.5), np.full(300, 0.485)
    assert gate_of(rows(now), rows(then)).verdict.outcome == "passed"
    assert gate_of(rows(now), rows(then), margin=0.01).verdict.outcome == "failed"


def test_an_improvement_passes():
    gate = gate_of(rows([1.0] * 100), rows([0.0] * 100))
    assert gate.verdict.outcome == "passed"
    assert gate.result.figures["qa_accuracy/seen/fact_f1_change"].value == 1.0
    assert change_of(gate, "qa_accuracy/seen/fact_f1")["p_value"] == pytest.approx(1.0)


@pytest.mark.parametrize("listed", [False, True])
def test_a_loss_is_worse_when_it_grows(listed):
    score = "surprise" if listed else "negative_log_likelihood"
    results = {"suites": {"qa_accuracy": {"details": {"lower_is_better": ["seen/surprise"]}}}}
    results["suites"]["qa_accuracy"]["figures"] = {}
    options = {"results": results, "baseline": results} if listed else {}
    low, high = np.linspace(2.0, 3.0, 60), np.linspace(2.2, 3.2, 60)
    worse = gate_of(rows(high, score=score), rows(low, score=score), **options)
    assert worse.verdict.outcome == "failed"
    assert worse.result.figures[f"qa_accuracy/seen/{score}_change"].value == pytest.approx(-0.2)
    better = gate_of(rows(low, score=score), rows(high, score=score), **options)
    assert better.verdict.outcome == "passed"


def test_the_margin_of_other_scales_is_a_part_of_the_baseline():
    then = np.linspace(20.0, 60.0, 50)
    assert gate_of(rows(then - 0.7), rows(then)).verdict.outcome == "passed"  # 2 % of 40 is 0.8
    assert gate_of(rows(then - 0.9), rows(then)).verdict.outcome == "failed"


# ------------------------------------------------------------------------------------- pairing


def test_only_common_items_that_were_asked_alike_are_compared():
    then, now = rows([1.0] * 60), rows([1.0] * 50)
    for row in now[:20]:
        row["question"] = "another"
        row["scores"]["fact_f1"] = 0.0
    now[45]["id"] = "qa/new"
    gate = gate_of(now, then)
    assert change_of(gate, "qa_accuracy/seen/fact_f1")["num_pairs"] == 29
    assert gate.result.details["left_out"]["qa_accuracy/seen/fact_f1"] == {
        "asked differently": 20,
        "only in the baseline": 11,
        "only in this result": 1,
    }
    assert any("20 asked differently" in note for note in gate.result.notes)
    assert gate.verdict.outcome == "passed"


def test_too_few_items_are_not_comparable():
    gate = gate_of(rows([0.0] * 19), rows([1.0] * 19))
    assert gate.verdict.outcome == "not_comparable"
    assert any("19 common items are too few" in note for note in gate.result.notes)
    assert not gate_failed(gate.result)


def test_what_was_not_measured_again_is_said():
    code = rows([1.0] * 30, suite="code_generation", score="passed")
    gate = gate_of(rows([1.0] * 30), rows([1.0] * 30) + code)
    assert "in the baseline, but not in this result: code_generation/seen/passed" in (
        gate.result.notes
    )


def test_samples_of_one_problem_are_one_item():
    def samples(passes):
        return [
            {
                "suite": "code_generation",
                "set": "human_eval",
                "task_id": f"HumanEval/{task}",
                "id": f"code/HumanEval/{task}/{number}",
                "verdict": "passed" if number < passes else "failed",
                "scores": {"passed": float(number < passes)},
            }
            for task in range(25)
            for number in range(4)
        ]

    change = change_of(gate_of(samples(1), samples(3)), "code_generation/human_eval/passed")
    assert (change["num_pairs"], change["baseline"], change["current"]) == (25, 0.75, 0.25)
    assert change["test"] == "sign_flip"


def test_what_was_not_executed_has_no_score():
    now = rows([0.0] * 40, score="passed", verdict="refused")
    gate = gate_of(now + rows([1.0] * 30), rows([1.0] * 40, score="passed") + rows([1.0] * 30))
    assert [c["figure"] for c in gate.result.details["changes"]] == ["qa_accuracy/seen/fact_f1"]


def test_items_of_a_cluster_do_not_count_as_independent():
    then = rows([1.0] * 100)
    now = rows([0.0] * 16 + [1.0] * 84)
    assert change_of(gate_of(now, then), "qa_accuracy/seen/fact_f1")["p_value"] == 2.0**-16
    for row in now:
        row["cluster"] = f"item {int(row['id'][3:]) // 4}"  # four ways to ask the same
    change = change_of(gate_of(now, then), "qa_accuracy/seen/fact_f1")
    assert change["test"] == "sign_flip"
    assert change["p_value"] == 2.0**-4
    for row in now:
        row["cluster"] = f"item {int(row['id'][3:]) // 10}"
    assert gate_of(now, then).verdict.outcome == "not_comparable"  # ten items, however often asked


# --------------------------------------------------------------------------- chance and power


def difficulties(generator, count=300):
    return generator.beta(0.5, 0.5, count)


def binary(generator, share):
    return (generator.random(share.size) < share).astype(float)


def continuous(generator, share):
    return generator.beta(1 + 4 * share, 5 - 4 * share)


@pytest.mark.parametrize("draw", [binary, continuous])
def test_two_evaluations_of_one_model_pass(draw):
    """A/A: 30 pairs of evaluations, three figures of 300 items each, and no margin to help.

    At 5 %, more than 4 alarms in 30 come about once in 60 times.
    """
    alarms = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        now, then = [], []
        for group in "abc":
            share = difficulties(generator)
            now += rows(draw(generator, share), group=group)
            then += rows(draw(generator, share), group=group)
        gate = gate_of(now, then, margin=0.0, num_resamples=200)
        alarms += gate.verdict.outcome == "failed"
    assert alarms <= 4


def planted(generator, share):
    """The same items, 10 points harder on average."""
    return share * (1 - 0.1 / share.mean())


@pytest.mark.parametrize("draw", [binary, continuous])
def test_a_planted_drop_of_ten_points_on_300_items_fails(draw):
    """Answers are drawn anew on both sides, as a sampling model would: the hardest case."""
    found = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        share = difficulties(generator)
        now, then = draw(generator, planted(generator, share)), draw(generator, share)
        gate = gate_of(rows(now), rows(then), num_resamples=200)
        found += gate.verdict.outcome == "failed"
    assert found >= 18


def test_thirty_of_300_answers_turned_wrong_fail():
    """A greedy model answers alike what it still knows: only the planted drop differs."""
    generator = np.random.default_rng(0)
    then = binary(generator, difficulties(generator))
    now = then.copy()
    now[np.flatnonzero(then)[:30]] = 0.0
    same = [row for name in "abcdefghi" for row in rows(then, group=name)]
    gate = gate_of(rows(now) + same, rows(then) + same)
    assert gate.verdict.regressions == ("qa_accuracy/seen/fact_f1",)


# ----------------------------------------------------------------------------------- the files


def suite(values, **more):
    return SuiteResult(
        "qa_accuracy",
        {"seen/fact_f1": Estimate(float(np.mean(values)), num_items=len(values))},
        samples=rows(values),
        **more,
    )


def write(folder, result, *, status="finished", **manifest):
    folder.mkdir(parents=True, exist_ok=True)
    samples = "".join(json.dumps(row) + "\n" for row in result.samples)
    (folder / "samples.jsonl").write_text(samples)
    content = {
        "status": status,
        "manifest": manifest,
        "suites": {result.name: result.to_json()},
    }
    (folder / "results.json").write_text(json.dumps(content))


def context(folder, **options):
    section = dataclasses.replace(EvaluationConfig().regression, **options)
    config = dataclasses.replace(EvaluationConfig(), regression=section)
    answerer = FakeAnswerer(FakeClock(), Reply())
    answerer.identity = {"model": {"sha256": "b"}, "setting": {"num_slots": 8}}
    return Context(config, answerer, lambda queries: [], (), folder, lambda line: None)


def test_a_stored_baseline_is_found_and_judged_by(tmp_path):
    assert run_regression(context(tmp_path), [suite([1.0] * 40)]) is None
    write(tmp_path, suite([1.0] * 40))
    assert store_baseline(tmp_path) == tmp_path / "baseline.json"
    write(tmp_path, suite([0.0] * 40))  # what comes later does not touch it
    same = run_regression(context(tmp_path), [suite([1.0] * 40)])
    assert same.details["gate"] == "passed"
    assert not gate_failed(same)
    worse = run_regression(context(tmp_path), [suite([1.0] * 20 + [0.0] * 20)])
    assert worse.details["gate"] == "failed"
    assert gate_failed(worse)
    json.dumps(worse.to_json())  # goes into results.json


@pytest.mark.parametrize("named", ["", "results.json", ".."])
def test_an_earlier_result_is_named_by_file_folder_or_run(tmp_path, named):
    folder = tmp_path / "lora" / "evaluation"
    write(folder, suite([1.0] * 40))
    option = str((folder / named).resolve())
    result = run_regression(context(tmp_path, baseline=option), [suite([0.0] * 40)])
    assert gate_failed(result)
    assert result.details["baseline"] == str(folder / "results.json")


def test_what_else_differs_is_said_and_the_model_is_expected_to(tmp_path):
    identity = {"model": {"sha256": "a"}, "setting": {"num_slots": 16}}
    write(tmp_path / "old", suite([1.0] * 40), answerer=identity)
    now = context(tmp_path, baseline=str(tmp_path / "old"))
    notes = run_regression(now, [suite([1.0] * 40)]).notes
    said = [note for note in notes if "this is not as it was" in note]
    assert said == [
        "besides the model, this is not as it was for the baseline: "
        "answerer.setting.num_slots 16 → 8"
    ]


def test_times_are_shown_and_never_judged(tmp_path):
    def speed(value):
        return SuiteResult("performance", {"tokens_per_s": Estimate(value)})

    write(tmp_path / "old", speed(100.0))
    now = context(tmp_path, baseline=str(tmp_path / "old"))
    result = run_regression(now, [speed(1.0)])
    assert result.details["unpaired_figures"] == [
        {"figure": "performance/tokens_per_s", "baseline": 100.0, "current": 1.0}
    ]
    assert result.details["gate"] == "not_comparable"


def test_a_named_baseline_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"regression.baseline: .*gone is no file"):
        find_baseline(str(tmp_path / "gone"), tmp_path)


def test_samples_of_another_store_are_noticed(tmp_path):
    write(tmp_path, suite([1.0] * 40))
    path = store_baseline(tmp_path)
    with (tmp_path / "baseline_samples.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match=r"is not what baseline.json was stored with"):
        load_baseline(path)


def test_a_store_that_was_killed_halfway_keeps_no_mixture(tmp_path, monkeypatch):
    write(tmp_path, suite([1.0] * 40))
    store_baseline(tmp_path)
    write(tmp_path, suite([0.0] * 40))
    from coderllm_jax.evaluation import baseline

    replace = baseline._replace

    def killed(path, content):
        if path.name == "baseline.json":
            raise KeyboardInterrupt
        replace(path, content)

    monkeypatch.setattr(baseline, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store_baseline(tmp_path)
    with pytest.raises(DataError, match="store both again"):
        load_baseline(tmp_path / "baseline.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a result"),
        ("[]", "holds no 'suites'"),
        ('{"suites": {}}', "samples.jsonl: no such file"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_baseline(tmp_path / "results.json")


def test_a_damaged_sample_is_named_by_its_line(tmp_path):
    write(tmp_path, suite([1.0, 1.0]))
    (tmp_path / "samples.jsonl").write_text('{"suite": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"samples.jsonl:2: "):
        load_baseline(tmp_path / "results.json")


def test_only_a_finished_result_becomes_the_baseline(tmp_path):
    write(tmp_path, suite([1.0]), status="running")
    with pytest.raises(DataError, match="only a finished evaluation"):
        store_baseline(tmp_path)
    assert not (tmp_path / "baseline.json").exists()
