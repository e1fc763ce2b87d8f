"""The step benchmark's verdicts: which figures are compared, and what meets a goal."""

from __future__ import annotations

import pytest

from benchmarks import train_step
from benchmarks.measure import Counts, Measurement
from benchmarks.train_step import Ratio, better, compare, middle, start_problems, table


def measured(*, supervised=100, seconds=1.0, peak=1_000, before=0, loss=5.0):
    return Measurement(
        seconds=seconds,
        processor_s=seconds,
        num_batches=1,
        num_timed_steps=5,
        counts=Counts(positions=400, tokens=300, supervised=supervised),
        first_loss=loss,
        setup_s=1.0,
        memory_before_bytes=before,
        memory_peak_bytes=peak,
    )


FOUND = {
    "ours_packed": measured(supervised=450, seconds=3.0, peak=1_800),
    "keras_padded_4": measured(supervised=70, seconds=2.0, peak=4_000),
    "keras_padded_16": measured(supervised=300, seconds=10.0, peak=9_000),
    "peft_padded_4": measured(supervised=70, seconds=1.0),
    "peft_padded_16": measured(supervised=300, seconds=4.0),
    "ours_full": measured(supervised=1_024, seconds=5.0, peak=2_000, before=200),
    "keras_full": measured(supervised=1_024, seconds=10.0, peak=7_000, before=1_000),
}


def by_name(found):
    return {ratio.name: ratio for ratio in compare(found)}


def test_peers_are_compared_at_their_better_batch_size():
    assert better(FOUND, "keras") is FOUND["keras_padded_4"]
    assert better(FOUND, "peft") is FOUND["peft_padded_16"]
    ratios = by_name(FOUND)
    assert ratios["real rows, ours / padded stock"].value == pytest.approx(150 / 35)
    assert ratios["real rows, ours / padded PEFT"].value == pytest.approx(150 / 75)


def test_full_rows_and_memory_are_compared_like_with_like():
    ratios = by_name(FOUND)
    assert ratios["full rows, ours / stock"].value == pytest.approx(2.0)
    assert ratios["peak memory, full rows, ours / stock"].value == pytest.approx(2 / 7)
    assert ratios["peak memory above libraries, full rows"].value == pytest.approx(1.8 / 6)


def test_the_goals_are_those_that_were_asked():
    goals = {r.name: (r.at_least, r.at_most) for r in compare(FOUND) if r.goal}
    assert goals == {
        "real rows, ours / padded stock": (4.0, None),
        "real rows, ours / padded PEFT": (2.0, None),
        "full rows, ours / stock": (1.5, None),
        "peak memory, full rows, ours / stock": (None, 0.6),
    }


def test_a_goal_is_met_on_its_edge():
    assert Ratio("r", 4.0, at_least=4.0).verdict == "met"
    assert Ratio("r", 3.99, at_least=4.0).verdict == "missed"
    assert Ratio("r", 0.6, at_most=0.6).verdict == "met"
    assert Ratio("r", 0.61, at_most=0.6).verdict == "missed"
    assert Ratio("r", 1.0).verdict == ""


def test_what_was_not_measured_is_not_compared():
    assert compare({"ours_packed": FOUND["ours_packed"]}) == []
    without = {name: run for name, run in FOUND.items() if not name.startswith("peft")}
    assert "real rows, ours / padded PEFT" not in by_name(without)


def test_the_round_of_median_duration_counts():
    runs = [measured(seconds=seconds) for seconds in (9.0, 1.0, 2.0)]
    assert middle(runs) is runs[2]
    assert middle(runs[:2]) is runs[1]
    assert middle(runs[:1]) is runs[0]


def test_arms_must_start_from_the_same_loss():
    same = {"ours_full": measured(loss=5.732), "peft_full": measured(loss=5.731)}
    assert start_problems(same) == []
    (problem,) = start_problems(same | {"keras_full": measured(loss=5.9)})
    assert "keras_full 5.9" in problem
    # Stock Keras cannot keep packed examples apart, so its loss there is another one by right.
    assert start_problems({"ours_packed": measured(), "keras_packed": measured(loss=6.0)}) == []


def test_the_table_says_why_an_arm_is_missing():
    text = table(FOUND, {"peft_full": ["torch not installed (extra `peers`)"]})
    assert "PEFT bfloat16, full rows     not measured: torch not installed" in text
    assert len(text.splitlines()) == 2 + len(FOUND) + 1


def test_every_compared_arm_exists():
    names = {arm.name for arm in train_step.ARMS}
    assert FOUND.keys() <= names
    assert {name for group in train_step.SAME_START for name in group} <= names
