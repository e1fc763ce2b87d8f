"""How a run is, told from what it left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from coderllm_jax.monitoring.run_status import Process, judge

NOW = 10_000.0
STARTED = {"event": "started", "time": NOW - 5000}


def process(
    *,
    silent_s=1.0,
    since=NOW - 1,
    pid=0,
    host="elsewhere",
    phase="training",
    rank=0,
    written=1e12,
):
    return Process(rank, host, pid, phase, 40, since, silent_s, written)


def status(events, processes, *, last_row=NOW - 2, step_time_s=1.0):
    return judge(events, processes, last_row=last_row, step_time_s=step_time_s, now=NOW)


@pytest.mark.parametrize(
    ("event", "expected"),
    [("finished", "finished"), ("interrupted", "interrupted"), ("diverged", "failed")],
)
def test_the_journals_last_word(event, expected):
    found = status([STARTED, {"event": event, "time": NOW - 10}], [process(silent_s=500)])
    assert (found.status, found.idle_s) == (expected, None)


def test_a_run_that_was_gone_on_with_runs():
    events = [STARTED, {"event": "interrupted", "time": NOW - 60}, {**STARTED, "time": NOW - 30}]
    assert status([*events, {"event": "skipped", "time": NOW}], [process()]).status == "running"


def test_a_process_that_says_nothing_is_stalled():
    found = status([STARTED], [process(silent_s=30.0, since=NOW - 31)], last_row=NOW - 32)
    assert found.status == "stalled"
    assert "has not been heard of for 30 s" in found.reason
    assert found.idle_s == pytest.approx(31)


def test_the_silent_one_of_several_is_named():
    found = status([STARTED], [process(), process(rank=1, silent_s=60.0, since=NOW - 60)])
    assert found.status == "stalled"
    assert found.reason.startswith("process 1 (elsewhere")


def test_one_that_is_alive_and_does_nothing_is_stalled_after_many_steps_time():
    stuck = [process(since=NOW - 100, phase="waiting for a batch")]
    found = status([STARTED], stuck, last_row=NOW - 101)
    assert found.status == "stalled"
    assert "has been waiting for a batch for 100 s" in found.reason
    assert status([STARTED], stuck, last_row=NOW - 101, step_time_s=10.0).status == "running"


def test_compiling_may_take_its_time():
    new = [{**STARTED, "time": NOW - 400}]
    waiting = [process(since=NOW - 400)]
    assert status(new, waiting, last_row=NOW - 500).status == "running"
    assert status(new, waiting, last_row=None, step_time_s=None).status == "running"


def test_a_process_that_is_gone_has_failed():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone = process(silent_s=30.0, pid=child.pid, host=socket.gethostname())
    found = status([STARTED], [gone])
    assert found.status == "failed"
    assert "gone without a word" in found.reason


def test_a_number_that_another_process_has_by_now():
    mine = {"silent_s": 30.0, "pid": os.getpid(), "host": socket.gethostname()}
    assert status([STARTED], [process(**mine)]).status == "stalled"
    assert status([STARTED], [process(**mine, written=1e9)]).status == "failed"


def test_a_suspended_process_is_named_as_one():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(child.pid, signal.SIGSTOP)
        for _ in range(500):
            here = process(silent_s=30.0, pid=child.pid, host=socket.gethostname())
            found = status([STARTED], [here])
            if "suspended" in found.reason:
                break
            time.sleep(0.01)
        assert found.status == "stalled"
        assert "suspended" in found.reason
    finally:
        child.kill()
        child.wait()


def test_rows_alone_say_little():
    assert status([], []).status == "running"
    found = status([], [], last_row=NOW - 3600)
    assert (found.status, found.idle_s) == ("unknown", None)
    assert found.reason == "nothing new for 60 min"
    assert status([], [], last_row=None).status == "unknown"


def test_a_report_of_the_wrong_shape_counts_as_nothing():
    found = Process.from_report({"rank": "x", "pid": None, "since": "now"}, silent_s=1.0)
    assert found == Process(0, "", 0, "", 0, 0.0, 1.0, 0.0)
