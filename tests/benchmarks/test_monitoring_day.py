"""The simulated days are what they say, a clean one raises nothing, and a planted fault does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.monitoring_day import (
    FAULTS,
    Fault,
    Trial,
    draw_day,
    missed,
    plant,
    table,
    watch_day,
)


def test_a_day_has_a_rhythm_and_nothing_in_it_is_out_of_place():
    day = draw_day(np.random.default_rng(0))
    assert 20_000 < len(day.times) < 24_000
    assert (np.diff(day.times) >= 0).all()
    hourly = np.bincount((day.times / 3600).astype(int), minlength=24)
    assert hourly.max() > 3 * hourly.min()
    assert (day.status == 500).mean() == pytest.approx(0.003, abs=0.002)
    assert day.figures["refused"][day.is_rag].mean() == pytest.approx(0.06, abs=0.01)


def test_a_clean_day_raises_nothing():
    assert watch_day(draw_day(np.random.default_rng(1))) == []


def test_a_planted_drift_is_raised_and_resolved_once():
    fault = next(fault for fault in FAULTS if fault.name == "answers 1 sd longer")
    trial = plant(fault, np.random.default_rng(2))
    assert (trial.raised, trial.resolved, trial.others) == (1, 1, [])
    assert 0 < trial.delay_requests <= 500
    assert trial.resolved_after_s > 0


def test_a_table_notices_what_is_missed():
    good = Trial(1, 1, 10.0, 20.0, 30.0, [])
    trials = {"disk at 97 %": [good, good._replace(raised=2)], "answers 1 sd longer": [good]}
    assert missed(trials) == ["disk at 97 %"]
    assert missed({"answers 1 sd longer": [good._replace(delay_requests=501.0)]})
    assert "1 of 2" in table(1, 100, [(0, "disk: full")], trials)
    assert all(isinstance(fault, Fault) for fault in FAULTS)
