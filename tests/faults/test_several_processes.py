"""Two processes as one run: one is told to stop, killed, suspended; one has another configuration.

    session   1            2           3           4           5
    ended by  kill -9 of 1 SIGTERM to 1 kill -9 of 0 SIGSTOP of 1 itself
    while     step 40      step 45     step 60     step 80

As in `test_signals`, one run, whose folder must in the end be that of two processes that nothing
happened to. Its live.yaml changes at step 30, which session 2 must do again: session 1 had done so
after its last checkpoint.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from coderllm_jax.training.run_folder import read_json
from tests.faults.processes import (
    Ended,
    Lab,
    Running,
    adapter_bytes,
    checkpoints,
    evaluations,
    events,
    figures,
    given,
    losses,
)

LIVE = "live=30:learning_rate_scale: 0.5"
# A process that is alone knows it by a closed connection, and who it was by eight seconds' silence.
_SOON_S = 25.0


@pytest.fixture(scope="module")
def whole_pair(lab: Lab) -> Path:
    for each in lab.launch_pair("whole-pair", faults=(LIVE, "")):
        ended = each.wait()
        assert ended.code == 0, ended.err
    return lab.folder / "whole-pair"


@pytest.fixture(scope="module")
def workdir(lab: Lab) -> Path:
    return lab.folder / "pair"


def fault(pair: tuple[Running, Running], *, at: int, rank: int, number: signal.Signals) -> Ended:
    """Sends one of two a signal at a step; returns the other's end, which comes soon."""
    pair[0].wait_for_step(at)
    began = time.monotonic()
    pair[rank].send(number)
    ended = pair[1 - rank].wait()
    if number == signal.SIGSTOP:
        pair[rank].kill()
    assert time.monotonic() - began < _SOON_S
    return ended


@pytest.fixture(scope="module")
def kill_1(lab: Lab) -> Ended:
    pair = lab.launch_pair("pair", faults=(f"slow,{LIVE}", "slow"))
    return fault(pair, at=40, rank=1, number=signal.SIGKILL)


def test_kill_9_of_a_peer(kill_1: Ended, workdir: Path) -> None:
    assert kill_1.code == 42
    assert kill_1.last_line.startswith("interrupted: process 0 of 2: another process is gone")
    assert "process 1 (" in kill_1.last_line  # by name
    assert kill_1.last_line.endswith("the same command goes on from the last checkpoint")
    assert checkpoints(workdir) == [25]


@pytest.fixture(scope="module")
def sigterm(lab: Lab, kill_1: Ended) -> tuple[Ended, Ended]:
    pair = lab.launch_pair("pair", faults=("slow", "slow"))
    pair[0].wait_for_step(45)
    pair[1].send(signal.SIGTERM)
    return pair[0].wait(), pair[1].wait()


def test_sigterm_to_one_of_two(sigterm: tuple[Ended, Ended], workdir: Path) -> None:
    assert [each.code for each in sigterm] == [42, 42]
    step = checkpoints(workdir)[-1]
    assert 45 <= step < 100
    for each in sigterm:
        assert each.last_line == (
            f"interrupted: {workdir} is saved at step {step}; the same command goes on"
        )


@pytest.fixture(scope="module")
def kill_0(lab: Lab, sigterm: tuple[Ended, Ended]) -> Ended:
    pair = lab.launch_pair("pair", faults=("slow", "slow"))
    return fault(pair, at=60, rank=0, number=signal.SIGKILL)


def test_kill_9_of_the_process_that_coordinates(kill_0: Ended) -> None:
    assert kill_0.code == 42
    assert kill_0.last_line.startswith("interrupted: ")
    assert kill_0.last_line.endswith("the same command goes on from the last checkpoint")
    assert "process 0" in kill_0.last_line or "coordinates this run is gone" in kill_0.last_line


@pytest.fixture(scope="module")
def hung(lab: Lab, kill_0: Ended) -> Ended:
    pair = lab.launch_pair("pair", faults=("slow", "slow"), safety__hang_timeout_s=10)
    return fault(pair, at=80, rank=1, number=signal.SIGSTOP)


@pytest.mark.long
def test_a_suspended_peer(hung: Ended, workdir: Path) -> None:
    assert hung.code == 42
    assert "s (safety.hang_timeout_s); process 1 (" in hung.last_line
    assert "has not been heard of for" in hung.last_line
    assert "MainThread" in hung.err or "Thread 0x" in hung.err
    assert "loop.py" in (workdir / "processes" / "0.stacks.txt").read_text()


@pytest.mark.long
def test_what_was_left_alone_four_times_is_a_run_that_nothing_happened_to(
    lab: Lab, hung: Ended, workdir: Path, whole_pair: Path
) -> None:
    for each in lab.launch_pair("pair"):
        ended = each.wait()
        assert ended.code == 0, ended.err
    assert figures(workdir) == figures(whole_pair)
    assert adapter_bytes(workdir) == adapter_bytes(whole_pair)
    assert read_json(workdir / "training_rows.json") == read_json(whole_pair / "training_rows.json")
    (live,) = [event for event in events(workdir) if event["event"] == "live"]
    assert (live["step"], live["values"]) == (30, {"learning_rate_scale": 0.5})


# ---------------------------------------------------------------- another number of them


@pytest.mark.long
def test_two_then_one_then_two_processes(lab: Lab, whole: Path) -> None:
    """Each row once an epoch, and the losses of one process."""

    def files(session: int) -> list[Path]:
        return [lab.folder / f"given-{session}-{rank}" for rank in (0, 1)]

    faults = [f"given={file},live=40:stop: true" for file in files(1)]
    two = lab.launch_pair("two-one-two", faults=(faults[0], faults[1]))
    assert [each.wait().code for each in two] == [0, 0]
    one = lab.launch("two-one-two", faults=f"given={files(2)[0]},SIGTERM=training@70").wait()
    assert one.code == 42
    faults = [f"given={file}" for file in files(3)]
    two = lab.launch_pair("two-one-two", faults=(faults[0], faults[1]))
    for each in two:
        ended = each.wait()
        assert ended.code == 0, ended.err

    workdir = lab.folder / "two-one-two"
    assert_same_run(workdir, whole)
    sessions = [given(*files(1)), given(files(2)[0]), given(*files(3))]
    assert [min(steps) for steps in sessions] == [1, 42, 72]  # step after the one that was saved
    together = {step: rows for steps in sessions for step, rows in steps.items()}
    assert together == given(lab.folder / "given-whole")
    halves = [given(file) for file in files(1)]
    assert all(halves[0][step].isdisjoint(halves[1][step]) for step in halves[0])


@pytest.mark.long
def test_eight_then_four_devices(lab: Lab, whole: Path) -> None:
    """Half of the eight get empty rows: four rows a step are too few for them."""
    files = [lab.folder / f"given-{count}" for count in (8, 4)]
    codes = []
    for count, file, word in zip((8, 4), files, ("SIGTERM=training@50", ""), strict=True):
        devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        faults = f"given={file},{word}"
        codes.append(lab.launch("devices", faults=faults, env=devices).wait().code)
    assert codes == [42, 0]
    assert_same_run(lab.folder / "devices", whole)
    assert given(files[0]) | given(files[1]) == given(lab.folder / "given-whole")


def assert_same_run(workdir: Path, whole: Path) -> None:
    assert losses(workdir) == pytest.approx(losses(whole), rel=0, abs=1e-5)
    assert evaluations(workdir) == pytest.approx(evaluations(whole), rel=0, abs=1e-5)
    seen = read_json(workdir / "training_rows.json")
    assert seen == read_json(whole / "training_rows.json")
    times = {int(times) for times in seen["rows_by_times_seen"]}
    assert max(times) - min(times) <= 1  # once an epoch


@pytest.mark.long
def test_two_processes_round_the_kernels_of_one_and_fail_together(lab: Lab) -> None:
    """The first rounds them, and what it finds wrong all of them say."""
    rounded = {"steps": 4, "lora__base": "nf4", "lora__base_rounding": "calibrated"}
    runs = [*lab.launch_pair("rounded-pair", **rounded), lab.launch("rounded", **rounded)]
    for each in runs:
        ended = each.wait()
        assert ended.code == 0, ended.err
    files = [lab.folder / name / "kernels.safetensors" for name in ("rounded-pair", "rounded")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for each in lab.launch_pair("rounded-pair", **rounded, lora__base_tokens=999):
        ended = each.wait()
        assert ended.code == 1, ended.err
        assert "base_tokens was 16384, is 999" in ended.last_line
        assert "Traceback" not in ended.err


# -------------------------------------------------------------- another configuration


def test_processes_with_other_configurations(lab: Lab) -> None:
    pair = lab.launch_pair("unlike", each=({}, {"learning_rate": 0.03, "lora__rank": 4}))
    line = "process 1 has another configuration than process 0 (learning_rate, lora.rank)"
    assert_refused(lab, pair, line)


def test_processes_with_other_cards(lab: Lab) -> None:
    card = lab.folder / "card.py"
    card.write_text(
        "import runpy\n"
        "def get_config(words=''):\n"
        f"    config = runpy.run_path({str(Path(__file__).with_name('card.py'))!r})\n"
        "    config = config['get_config']()\n"
        "    config.optimizer.b1 = 0.5\n"
        "    return config\n"
    )
    line = "process 1 has another configuration than process 0 (optimizer.b1)"
    assert_refused(lab, lab.launch_pair("unlike", each=({}, {"card": card})), line)


def test_processes_with_other_rows(lab: Lab) -> None:
    """The same path on two hosts, which holds other rows on one of them."""
    pair = lab.launch_pair("unlike", faults=("", "other-rows"))
    assert_refused(lab, pair, "process 1 has another run than process 0 (data.")


def assert_refused(lab: Lab, pair: tuple[Running, Running], line: str) -> None:
    for each in pair:
        ended = each.wait()
        assert ended.code == 1, ended.err
        assert line in ended.last_line
        assert ended.last_line.startswith("error: ")
        assert "Traceback" not in ended.err
    assert not (lab.folder / "unlike" / "config.json").exists()
