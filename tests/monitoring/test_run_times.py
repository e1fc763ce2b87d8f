"""Where time went and how long it will still take, from rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from coderllm_jax.monitoring.run_times import Plan, RunTimes, time_split

PLAN = Plan(num_steps=60, evaluation_every_steps=20, checkpoint_every_steps=30)


def row(step, time, step_time_s=1.0, data_wait_s=0.0):
    return {"step": step, "time": time, "step_time_s": step_time_s, "data_wait_s": data_wait_s}


def steady(num_steps, *, plan=PLAN, pause_s=5.0):
    """A second a step, five for an evaluation, two for a save by itself."""
    times, now = RunTimes(), 100.0
    times.add({"step": 0, "time": now, "eval_loss": 5.0}, plan=plan)
    for step in range(1, num_steps + 1):
        now += 1.0
        times.add(row(step, now, data_wait_s=0.1), plan=plan)
        if step % plan.evaluation_every_steps == 0:
            times.add({"step": step, "time": now + 4.0, "eval_loss": 4.0}, plan=plan)
            now += pause_s
        elif plan.checkpoint_every_steps and step % plan.checkpoint_every_steps == 0:
            now += 2.0
    return times, now


@pytest.mark.parametrize(
    ("step", "evaluations", "saves"),
    [(0, 3, 1), (1, 3, 1), (20, 3, 1), (21, 2, 1), (30, 2, 1), (31, 2, 0), (60, 1, 0)],
)
def test_pauses_left(step, evaluations, saves):
    assert PLAN.pauses_left(step) == (evaluations, saves)


def test_pauses_at_the_end_only():
    assert Plan(120, 20, 30).pauses_left(0) == (6, 2)  # 30 and 90; 60 and 120 go along
    assert Plan(100, 0, 30).pauses_left(31) == (1, 2)
    assert Plan(50, 0, 0).pauses_left(10) == (1, 0)
    assert Plan(50, 20, 0).pauses_left(10) == (3, 0)  # 20, 40 and the end


def test_sums_say_what_the_gaps_were():
    times, _ = steady(45)
    assert times.sums["compute"] == pytest.approx(45 * 0.9)
    assert times.sums["data_wait"] == pytest.approx(45 * 0.1)
    assert times.sums["evaluation"] == pytest.approx(8.0)
    assert times.sums["sampling"] == pytest.approx(2.0)
    assert times.sums["checkpoint"] == pytest.approx(2.0)
    assert times.step_time_s == 1.0


def test_the_time_left_counts_what_is_still_to_come():
    times, now = steady(45)
    left = times.remaining(PLAN, now=now)
    # 15 steps, and the last evaluation; the save at 60 goes along with it.
    assert left.expected == pytest.approx(15 + 5, abs=0.01)
    assert left.low < left.expected < left.high
    later = times.remaining(PLAN, now=now + 3)
    assert later.expected == pytest.approx(left.expected - 3)
    assert times.remaining(PLAN, now=now + 1000).expected == 0.0


def test_during_an_evaluation_its_rest_is_counted():
    times, _ = steady(39)
    times.add(row(40, times.last_time + 1.0), plan=PLAN)
    left = times.remaining(PLAN, now=times.last_time + 2.0)
    assert left.expected == pytest.approx(5 + 20 + 5 - 2, abs=0.01)


def test_rows_of_several_steps():
    times = RunTimes()
    plan = Plan(100, 0, 0)
    for step in range(10, 60, 10):
        times.add(row(step, 100.0 + step * 2, step_time_s=2.0), plan=plan)
    assert times.sums["compute"] == pytest.approx(100.0)
    assert times.remaining(plan, now=200.0).expected == pytest.approx(100.0)


def test_a_pause_between_two_sessions_is_none_of_the_runs():
    times = RunTimes()
    times.begin_sessions([0.0, 5000.0])
    for step, time in ((19, 100.0), (20, 101.0), (21, 5020.0), (22, 5021.0)):
        times.add(row(step, time), plan=PLAN)
    assert times.sums.get("other", 0.0) == 0.0
    assert "evaluation" not in times.sums


def test_nothing_is_known_before_the_first_step():
    assert RunTimes().remaining(PLAN, now=0.0) is None


def test_half_way_the_time_left_is_right_and_the_interval_holds_as_often_as_it_says():
    """200 runs whose speed wanders as that of a shared machine does; half time, 20 %."""
    generator = np.random.default_rng(0)
    plan = Plan(200, 50, 50)
    near = held = 0
    for _ in range(200):
        wander = np.zeros(200)
        for i in range(1, 200):
            wander[i] = 0.9 * wander[i - 1] + generator.normal(0, 0.05)
        seconds = np.exp(wander + generator.normal(0, 0.05, 200))
        times, now, at_half = RunTimes(), 0.0, None
        times.add({"step": 0, "time": now, "eval_loss": 5.0}, plan=plan)
        for step in range(1, 201):
            now += seconds[step - 1]
            times.add(row(step, now, step_time_s=seconds[step - 1]), plan=plan)
            if step == 101:
                at_half = times.remaining(plan, now=now), now
            if step % 50 == 0:
                pause = generator.uniform(4, 6)
                times.add({"step": step, "time": now + pause, "eval_loss": 4.0}, plan=plan)
                now += pause
        left, then = at_half
        near += abs(left.expected - (now - then)) < 0.2 * (now - then)
        held += left.low <= now - then <= left.high
    assert near >= 195
    assert 0.75 <= held / 200 <= 0.97


def test_the_split_takes_the_summarys_word_and_counts_what_nobody_accounts_for():
    summary = {
        "train_s": 60.0,
        "data_wait_fraction": 0.1,
        "evaluation_s": 20.0,
        "checkpoint_wait_s": 2.0,
        "sampling_s": 3.0,
        "compile_s": 5.0,
        "setup_s": 0.0,
    }
    split = time_split({"compute": 50.0, "data_wait": 5.0, "other": 40.0}, summary, total_s=100.0)
    assert split == pytest.approx(
        {
            "compute": 0.54,
            "data_wait": 0.06,
            "evaluation": 0.20,
            "checkpoint": 0.02,
            "sampling": 0.03,
            "compile": 0.05,
            "lost": 0.10,
        }
    )


def test_the_split_of_rows_alone():
    assert time_split({"compute": 30.0, "evaluation": 10.0}, {}, total_s=50.0) == pytest.approx(
        {"compute": 0.6, "evaluation": 0.2, "lost": 0.2}
    )
    assert time_split({}, {}, total_s=50.0) == {}
    assert sum(time_split({"compute": 70.0}, {}, total_s=50.0).values()) == pytest.approx(1.0)
