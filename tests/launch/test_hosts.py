"""Plain machines: what a login shell there makes of our lines, codes, secrets, and signals."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.supervision import decide
from tests.launch.fakes import World, arguments_given, fake_python, send_when

ROOT = Path(__file__).parents[2]
Launch = Callable[..., int]
SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=4"]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([0, 42], 42),
        ([42, 42], 42),
        ([42, 137], 42),
        ([255, 0], 42),
        ([42, 1], 1),
        ([255, 3], 3),
        ([1, 2], 1),
        ([127, 42], 127),  # no bash, no host.sh: a retry has none either
    ],
)
def test_one_code_for_all(codes: list[int], code: int) -> None:
    assert decide(codes) == code


@pytest.fixture
def left(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hosts are this machine: ssh runs its line in a shell here."""
    world.say("ssh", execute="ssh")
    folder = tmp_path / "left"
    fake_python(folder, monkeypatch)
    return folder


def here(left: Path) -> str:
    return f"folder = '{ROOT}'\ninstalled = true\npython = '{left}/python'"


def started(left: Path) -> int:
    return len(list(left.glob("started.*")))


def test_all_words_of_a_dry_run(world: World, launch: Launch, capsys) -> None:
    nasty = '--config.title=it\'s $5 "now"'
    assert launch("ssh", "--dry-run", "--", nasty) == 0
    assert world.calls == []
    lines = capsys.readouterr().out.splitlines()
    words = [shlex.split(line.partition(" < ")[0].removesuffix(" &")) for line in lines]
    assert all(each[: len(SSH)] == SSH for each in words)
    shown = [(each[-2], each[-1]) for each in words]
    unpack = "mkdir -p coderllm_jax && tar xzf - -C coderllm_jax"
    install = "cd coderllm_jax && bash launch/host.sh install auto configs/data.py"
    run = "cd coderllm_jax && bash launch/host.sh run trial-{} --python=.venv/bin/python -- {}"
    arguments = [
        [
            *("--config=configs/tiny.py", "--config.steps=3", nasty),
            *("--config.distributed.coordinator=a:12355", "--config.distributed.num_processes=2"),
            f"--config.distributed.process_id={rank}",
        ]
        for rank in (0, 1)
    ]
    hosts = ["me@a", "b"]

    def verb(name: str) -> list[tuple[str, str]]:
        return [
            (host, f"cd coderllm_jax && bash launch/host.sh {name} trial-{rank}")
            for rank, host in enumerate(hosts)
        ]

    assert shown == [
        *[(host, unpack) for host in hosts],
        *[(host, install) for host in hosts],
        *verb("stop"),
        *[(hosts[rank], run.format(rank, shlex.join(arguments[rank]))) for rank in (0, 1)],
        *verb("clean"),
    ]


def test_arguments_survive_two_shells(launch: Launch, left: Path) -> None:
    nasty = ["--a=it's", "--b=$HOME `id`", "", '--c="x  y"', "--d=a\nb", "--e=*"]
    assert launch("ssh", "--", *nasty, ssh=here(left)) == 0
    given = sorted(arguments_given(left))
    assert [words[:-3] for words in given] == [
        ["-m", "coderllm_jax.train", "--config=configs/tiny.py", "--config.steps=3", *nasty]
    ] * 2
    assert [words[-1] for words in given] == [
        f"--config.distributed.process_id={rank}" for rank in (0, 1)
    ]


def test_the_code_travels_and_is_unpacked(world: World, launch: Launch, left: Path) -> None:
    """Into a folder of the hosts' home; the installation is no fake's business and fails."""
    text = "folder = 'there/my code'"
    assert launch("ssh", ssh=text) == 1
    home = Path(world.folder / "home")
    assert (home / "there/my code/Makefile").read_bytes() == (ROOT / "Makefile").read_bytes()


def test_a_killed_process_is_started_again_with_the_others(
    launch: Launch, left: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    first = 'here=$(ls "$FAKE_FOLDER"/started.* | wc -l); ((here > 2)) || {'
    script = f'{first} [[ "$*" = *process_id=0 ]] && kill -9 $$; sleep 0.2; exit 42; }}'
    (left / "script").write_text(script)
    monkeypatch.setenv("FAKE_RUN", str(left / "script"))
    assert launch("ssh", ssh=here(left)) == 0
    assert started(left) == 4
    assert "launch: exit code 42: starting again (20 restarts left)" in capsys.readouterr().err


def test_1_stops_all(launch: Launch, left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (left / "script").write_text('[[ "$*" = *process_id=1 ]] && exit 1; sleep 0.2; exit 42')
    monkeypatch.setenv("FAKE_RUN", str(left / "script"))
    assert launch("ssh", ssh=here(left)) == 1
    assert started(left) == 2


@pytest.mark.parametrize("last", ["exit 1", "exit 42"])
def test_what_lost_its_connection_is_stopped_at_the_end(
    launch: Launch, left: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Whether the other process ends the launch or the restarts do."""
    (left / "script").write_text(
        f'[[ "$*" = *process_id=1 ]] && {last}\n'
        "kill -9 $FAKE_SSH\n"
        "for _ in {1..600}; do sleep 0.05; done\n"
    )
    monkeypatch.setenv("FAKE_RUN", str(left / "script"))
    assert launch("ssh", top="max_restarts = 0", ssh=here(left)) == 1
    assert (left / "saved").read_text() == "saved\n"
    state = Path.home() / ".local/state/coderllm_launch"
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launch_reaches_all_hosts(
    launch: Launch, left: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capsys
) -> None:
    monkeypatch.setenv("FAKE_RUN", "forever")
    send_when(lambda: started(left) == 2, number)
    assert launch("ssh", ssh=here(left)) == 42
    assert (left / "saved").read_text() == "saved\n" * 2
    assert capsys.readouterr().err.endswith(
        f"interrupted: {number.name}; the same command goes on\n"
    )


def test_secrets_reach_the_run_and_are_forgotten(
    world: World, launch: Launch, left: Path, tmp_path: Path, capsys
) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("HF_TOKEN=canary$HOME\n")
    secrets.chmod(0o600)
    assert launch("ssh", top=f"secrets_file = '{secrets}'", ssh=here(left)) == 0
    for path in left.glob("env.*"):
        assert "HF_TOKEN=canary$HOME" in path.read_text().splitlines()
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err + str(world.calls)
    home = world.folder / "home"
    assert not any(path.is_file() for path in home.rglob("*"))


def test_slurms_words(world: World, launch: Launch, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.touch(mode=0o600)
    text = "nodes = 4\ntasks_per_node = 8\noptions = ['--partition=gpu', '--comment=a b']"
    world.say("sbatch", code=3)
    assert launch("slurm", top=f"secrets_file = '{secrets}'", slurm=text) == 3
    assert world.calls == [
        [
            *("sbatch", "--job-name=trial", "--nodes=4", "--ntasks-per-node=8", "--requeue"),
            *("--open-mode=append", "--output=trial-%j.log", "--signal=B:TERM@120"),
            *("--partition=gpu", "--comment=a b", "launch/slurm.sh", "trial", "20"),
            *("--python=.venv/bin/python", f"--secrets={secrets}", "--"),
            *("--config=configs/tiny.py", "--config.steps=3"),
        ]
    ]
