"""The monitor's benchmark: what it concludes from figures, and the rows that it writes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.monitored import write_long_run
from benchmarks.monitoring import (
    cost_table,
    follow_table,
    interval,
    missed_goals,
    page,
    size_table,
)

FOLLOW = {
    "moments": [{"at_s": 9.0, "written": 3, "drawn": 2}, {"at_s": 11.0, "written": 5, "drawn": 5}],
    "eta_s": [8.0, 10.0, 13.0],
    "drawn": 50,
    "num_missing": 0,
    "status": "finished",
    "is_same_page": True,
    "eta_step": 20,
    "steps": 40,
    "took_s": 12.5,
    "eta_error": 0.2,
}
COST = {
    "rounds": 2,
    "turn_s": 6.0,
    "step_s": 0.05,
    "read_ratio": [0.99, 1.002, 1.03],
    "drawn_ratio": [1.01, 1.04, 1.07],
    "processor_share": 0.006,
}
SIZE = {
    "runs": 5,
    "rows": 100_000,
    "read_s": 41.0,
    "read_processor_s": 9.9,
    "memory_bytes": 93 * 2**20,
    "memory_peak_bytes": 95 * 2**20,
    "processor_share": 0.011,
    "watch_s": 60.0,
    "open_s": 1.2,
    "opened": [("#/", 1.1), ("#/", 1.3), ("#/run/a", 1.4)],
}


def test_an_interval_holds_the_median() -> None:
    low, middle, high = interval([0.9, 1.0, 1.1, 1.2, 1.3], seed=0)
    assert middle == 1.1
    assert 0.9 <= low < middle < high <= 1.3
    assert interval([2.0, 2.0], seed=1) == [2.0, 2.0, 2.0]


def test_goals_are_missed_by_what_is_more_and_by_nothing_else() -> None:
    found = {"follow": FOLLOW, "cost": COST, "size": SIZE}
    assert missed_goals(found) == []
    worse = found | {"size": SIZE | {"open_s": 2.1}, "cost": COST | {"processor_share": 0.02}}
    assert missed_goals(worse) == [
        "missed: cost, processor_share is 0.02; at most 0.01",
        "missed: size, open_s is 2.1; at most 2",
    ]


def test_tables_say_what_was_measured() -> None:
    assert "50 points at the end, 0 missing, status finished" in follow_table(FOLLOW)
    assert "10.0 s (8.0 to 13.0); it took 12.5 s: 20% off" in follow_table(FOLLOW)
    assert "BY MISTAKE" in follow_table(FOLLOW | {"is_same_page": False})
    assert "another machine      +0.20 %   (-1.00 to +3.00)" in cost_table(COST)
    assert "same cores      +4.00 %   (+1.00 to +7.00)" in cost_table(COST)
    assert "93 MiB (at most 95)" in size_table(SIZE)
    conditions = {
        "date": "2026-11-26",
        "cores": 2,
        "machine": "x86_64",
        "python": "3.11.7",
        "versions": {"starlette": "1.10.0"},
        "load_before": (0.5, 0.4, 0.3),
        "wall_s": 480.0,
    }
    assert "2 cores, x86_64, Python 3.11.7, starlette 1.10.0; load 0.5 before; 8 min" in page(
        "text", conditions
    )


def test_a_long_run_is_written_as_a_training_writes_it(tmp_path: Path) -> None:
    write_long_run(tmp_path / "long", 2000, seed=0)
    lines = (tmp_path / "long" / "metrics" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 2001))
    assert [row["step"] for row in rows if "eval_loss" in row] == [1000, 2000]
    assert len({row["loss"] for row in rows if "loss" in row}) > 900
