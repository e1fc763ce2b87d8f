"""The ssh way, really: two processes of `tiny` on this machine, found by one another over loopback.

attempt 1     SIGTERM to one ──► both save the same step ──► 42 and 42
attempt 2     started by the launch itself ──► the run goes on ──► 0
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.processes import CARD, Lab, checkpoints, events, free_port, losses, summary
from tests.launch.fakes import World

ROOT = Path(__file__).parents[2]
# Four starts of JAX and as many compilations, which other work may starve.
_PATIENCE_S = 280.0

SETTINGS = """
name = "real"
arguments = [
  "--config={card}:slow", "--config.workdir={workdir}", "--config.data.path={rows}",
  "--config.model.cache_dir={cache}", "--config.steps=12",
  "--config.evaluation.every_steps=0", "--config.mesh.platform=cpu",
  "--config.distributed.timeout_s=60",
]
[ssh]
hosts = ["me@127.0.0.1", "127.0.0.1"]
port = {port}
folder = "{root}"
installed = true
python = "{python}"
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_of_two_is_stopped_and_the_launch_goes_on(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.write_rows()
    workdir = tmp_path / "my run"
    settings = tmp_path / "settings.toml"
    settings.write_text(
        SETTINGS.format(
            card=CARD,
            workdir=workdir,
            rows=lab.rows,
            cache=tmp_path / "cache",
            port=free_port(),
            root=ROOT,
            python=sys.executable,
        )
    )
    world = World(tmp_path / "world")
    world.say("ssh", execute="ssh")
    home = world.folder / "home"
    home.mkdir()
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{world.bin}{os.pathsep}{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    environment.pop("XDG_STATE_HOME", None)
    log = tmp_path / "log"
    with log.open("wb") as file:
        launch = subprocess.Popen(
            [sys.executable, "-m", "launch", "ssh", f"--settings={settings}"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while max(losses(workdir), default=0) < 2:
            assert launch.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        pids = home / ".local/state/coderllm_launch/real-1/pids"
        os.kill(int(pids.read_text().split()[1]), signal.SIGTERM)
        assert launch.wait(_PATIENCE_S) == 0, log.read_text()
    finally:
        if launch.poll() is None:
            launch.terminate()
            launch.wait(60)

    said = log.read_text()
    saved = [line for line in said.splitlines() if line.startswith("interrupted: ")]
    assert len(saved) == 2, said
    assert len(set(saved)) == 1  # both, at the same step
    assert "launch: exit code 42: starting again (20 restarts left)" in said
    interrupted, finished = last_steps(workdir)
    assert 2 <= interrupted < finished == 12
    assert summary(workdir)["status"] not in ("interrupted", "diverged")
    assert checkpoints(workdir)[-1] == 12
    assert sorted(losses(workdir)) == list(range(1, 13))


def last_steps(workdir: Path) -> list[int]:
    """The steps at which its two sessions ended."""
    ends = [event for event in events(workdir) if event["event"] in ("interrupted", "finished")]
    assert [event["event"] for event in ends] == ["interrupted", "finished"]
    return [event["step"] for event in ends]
