"""host.sh and slurm.sh, really run: signals in, exit codes out, nothing left over."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.fakes import World, arguments_given, fake_python

ROOT = Path(__file__).parents[2]
HOST = ROOT / "launch" / "host.sh"
_PATIENCE_S = 100.0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["host.sh", "slurm.sh"])
def test_shellcheck(name: str) -> None:
    command = ["shellcheck", "--severity=style", str(ROOT / "launch" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake Python leaves what it saw; home and state are the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    folder = tmp_path / "left"
    fake_python(folder, monkeypatch)
    return folder


def host(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(HOST), *words])


def ask(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HOST), *words],
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
        timeout=_PATIENCE_S,
    )


def said(*words: str) -> str:
    return ask(*words).stdout.strip()


def run(left: Path, *arguments: str, state: str = "trial") -> subprocess.Popen[bytes]:
    return host("run", state, f"--python={left}/python", "--", *arguments)


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def started(left: Path) -> int:
    return len(list(left.glob("started.*")))


def alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


@pytest.mark.parametrize("code", [0, 1, 42, 137])
def test_the_runs_exit_code_is_passed_on_and_kept(
    left: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    assert said("result", "trial") == "none"
    monkeypatch.setenv("FAKE_RUN", str(code))
    nasty = ["--a=it's", "--b=$HOME", "", "--c=x y", "--", "--d"]
    assert run(left, *nasty).wait(_PATIENCE_S) == code
    assert arguments_given(left) == [["-m", "coderllm_jax.train", *nasty]]
    assert said("result", "trial") == str(code)
    said("clean", "trial")
    assert said("result", "trial") == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_run_which_saves(
    left: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("FAKE_RUN", "forever")
    monkeypatch.setenv("FAKE_SAVE_S", "0.3")
    process = run(left)
    wait_until(lambda: started(left) == 1)
    assert said("result", "trial") == "running"
    process.send_signal(number)
    # The code is the run's, not that of a shell that was interrupted.
    assert process.wait(_PATIENCE_S) == 42
    assert (left / "saved").read_text() == "saved\n"
    assert said("result", "trial") == "42"


def test_stop_waits_until_the_run_has_saved(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said("stop", "trial")  # nothing there: nothing to do
    monkeypatch.setenv("FAKE_RUN", "forever")
    monkeypatch.setenv("FAKE_SAVE_S", "0.3")
    process = run(left)
    wait_until(lambda: started(left) == 1)
    other = run(left, state="another")
    wait_until(lambda: started(left) == 2)
    assert host("stop", "trial").wait(_PATIENCE_S) == 0
    assert process.wait(_PATIENCE_S) == 42
    assert alive(other)
    said("stop", "another")
    other.wait(_PATIENCE_S)


def test_a_run_begins_where_none_is_left(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a lost connection: the process of before goes on, and must not share the folder."""
    monkeypatch.setenv("FAKE_RUN", "forever")
    first = run(left)
    wait_until(lambda: started(left) == 1)
    monkeypatch.setenv("FAKE_RUN", "0")
    assert run(left).wait(_PATIENCE_S) == 0
    assert first.wait(_PATIENCE_S) == 42


def test_what_does_not_stop_is_killed(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = left / "deaf"
    script.write_text("trap '' TERM; while :; do sleep 0.05; done")
    monkeypatch.setenv("FAKE_RUN", str(script))
    monkeypatch.setenv("LAUNCH_STOP_LIMIT_S", "1")
    monkeypatch.setenv("COLUMNS", "40")  # ps would cut the line that says whose a process is
    process = run(left)
    wait_until(lambda: started(left) == 1)
    (deaf,) = [int(path.suffix[1:]) for path in left.glob("started.*")]
    assert host("stop", "trial").wait(_PATIENCE_S) == 0
    assert process.wait(_PATIENCE_S) == 137
    wait_until(lambda: not Path(f"/proc/{deaf}").exists())


def test_a_number_that_is_anothers_by_now_is_left_alone(left: Path, tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    state = tmp_path / ".local/state/coderllm_launch/trial"
    state.mkdir(parents=True)
    (state / "pids").write_text(f"{innocent.pid} {innocent.pid}\n")
    assert said("result", "trial") == "none"
    assert host("stop", "trial").wait(_PATIENCE_S) == 0
    assert alive(innocent)
    innocent.kill()
    innocent.wait()


class TestSecrets:
    VALUE = 'can=ary $(touch x) "q" \\ # end'

    def test_received_by_standard_input_and_given_to_the_run_alone(
        self, left: Path, tmp_path: Path
    ) -> None:
        text = f"# mine\n\nHF_TOKEN={self.VALUE}\nWANDB_API_KEY=canary2"  # no line's end
        assert ask("receive", "trial", stdin=text).returncode == 0
        kept = tmp_path / ".local/state/coderllm_launch/trial/secrets"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert run(left).wait(_PATIENCE_S) == 0
        (environment,) = [path.read_text().splitlines() for path in left.glob("env.*")]
        assert f"HF_TOKEN={self.VALUE}" in environment
        assert "WANDB_API_KEY=canary2" in environment
        assert "ary" not in str(arguments_given(left))
        assert not (ROOT / "x").exists()
        said("clean", "trial")
        assert not kept.exists()

    def test_a_file_that_others_may_read_is_refused(self, left: Path, tmp_path: Path) -> None:
        secrets = tmp_path / "secrets.env"
        secrets.write_text("HF_TOKEN=canary")
        secrets.chmod(0o644)
        words = ("run", "trial", f"--secrets={secrets}", f"--python={left}/python", "--")
        done = ask(*words)
        assert done.returncode == 1
        assert done.stderr == f"error: {secrets} may be read by others; chmod 600 {secrets}\n"
        assert started(left) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run"], "host.sh needs a verb and a name"),
        (["fly", "x"], "host.sh has no verb fly"),
        (["run", "x", "--pyton=y", "--"], "host.sh run has no option --pyton=y"),
    ],
)
def test_wrong_words(words: list[str], line: str) -> None:
    done = ask(*words)
    assert (done.returncode, done.stderr) == (1, f"error: {line}; see the top of launch/host.sh\n")


def test_a_bucket_is_mounted_once_before_the_run(
    left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcsfuse, sudo and mountpoint as recorders; the mount point is there the second time."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcsfuse", "sudo"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n')
    (programs / "mountpoint").write_text(f"#!/bin/sh\ngrep -q gcsfuse {tmp_path}/calls\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    options = ["--bucket=gs://my-bucket/a/b", "--mount=/mnt/x", f"--python={left}/python"]
    for _ in range(2):
        assert host("run", "trial", *options, "--").wait(_PATIENCE_S) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line for line in calls if line.startswith("gcsfuse")] == [
        "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=10000 "
        "--only-dir=a/b my-bucket /mnt/x"
    ]


class TestSlurm:
    """slurm.sh with two tasks on this machine, srun being a fake that starts them."""

    @pytest.fixture
    def job(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[World, Path, Callable[..., subprocess.Popen[bytes]]]:
        world = World(tmp_path / "world")
        world.enter(monkeypatch)
        world.say("srun", execute="srun")
        left = tmp_path / "left"
        fake_python(left, monkeypatch)
        monkeypatch.setenv("SLURM_SUBMIT_DIR", str(ROOT))
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.setenv("SLURM_NTASKS", "2")

        def submit(restarts: int = 1) -> subprocess.Popen[bytes]:
            words = ["trial", str(restarts), f"--python={left}/python", "--", "--a=x y"]
            return subprocess.Popen(["bash", str(ROOT / "launch" / "slurm.sh"), *words])

        return world, left, submit

    @pytest.mark.parametrize(
        ("script", "code", "starts"),
        [
            ("exit 0", 0, 2),
            # One fails for good, the other is left alone: srun's own code would be 42.
            ("[[ $SLURM_PROCID = 0 ]] && exit 1; exit 42", 1, 2),
            ("exit 42", 42, 4),  # once more, then no more
            ("[[ $SLURM_PROCID = 0 ]] && exit 137; exit 42", 42, 4),
            ('(($(ls "$FAKE_FOLDER"/started.* | wc -l) > 2)) || { sleep 0.5; exit 42; }', 0, 4),
        ],
    )
    def test_codes(self, job, script: str, code: int, starts: int, monkeypatch) -> None:
        world, left, submit = job
        (left / "script").write_text(script)
        monkeypatch.setenv("FAKE_RUN", str(left / "script"))
        process = submit()
        assert process.wait(_PATIENCE_S) == code
        assert started(left) == starts
        assert all(each[-1] == "--a=x y" for each in arguments_given(left))
        assert not any(words[0] == "scontrol" for words in world.calls)

    def test_before_the_end_it_saves_and_goes_back_into_the_queue(self, job, monkeypatch) -> None:
        world, left, submit = job
        # scancel's fake only records: a task ends with 42 once it has been called.
        script = 'until grep -q scancel "$FAKE_FOLDER/../world/calls"; do sleep 0.05; done'
        (left / "script").write_text(f"{script}; exit 42")
        monkeypatch.setenv("FAKE_RUN", str(left / "script"))
        process = submit()
        wait_until(lambda: started(left) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 42
        assert ["scancel", "--signal=TERM", "77"] in world.calls
        assert world.calls[-1] == ["scontrol", "requeue", "77"]
        assert started(left) == 2
