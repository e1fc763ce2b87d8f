"""The settings file: what ships is what there is, and whatever is wrong is named in one line."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.errors import LaunchError
from launch.settings import Settings, check_secrets, load_settings

SHIPPED = Path(__file__).parents[2] / "launch" / "settings.toml"


def test_the_shipped_file_shows_every_setting_with_its_default() -> None:
    settings = load_settings(SHIPPED)
    shown = tomllib.loads(SHIPPED.read_text())
    expected = dataclasses.asdict(Settings(arguments=settings.arguments))
    assert dataclasses.asdict(settings) == expected
    for name, value in expected.items():
        assert shown[name].keys() == value.keys() if isinstance(value, dict) else name in shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nam = 'x'", "there is no setting 'nam'; did you mean 'name'?"),
        (
            "[cloud]\nprojct = 'x'",
            "there is no setting 'cloud.projct'; did you mean 'cloud.project'?",
        ),
        ("zone = 'x'", "there is no setting 'zone'; did you mean 'cloud.zone'?"),
        ("[gcp]\nx = 1", "there is no setting 'gcp'; launch/settings.toml has them all"),
        ("cloud = 'x'", "cloud is 'x'; expected a section: [cloud]"),
        ("max_restarts = '3'", "max_restarts is '3'; expected a whole number"),
        ("max_restarts = true", "max_restarts is True; expected a whole number"),
        ("max_restarts = -1", "max_restarts is -1; expected at least 0"),
        ("arguments = '--x'", 'arguments is \'--x\'; expected a list of texts: ["a", "b"]'),
        ('arguments = ["a\\u0000"]', "arguments has 'a\\x00'; no program can be given a NUL"),
        ("name = 'My run'", "name is 'My run'; expected at most 40 lower-case letters"),
        (
            "[cloud]\nbucket = 's3://b'",
            "cloud.bucket is 's3://b'; expected gs://BUCKET or gs://BUCKET/FOLDER",
        ),
        ("[cloud]\nbucket = 'my-bucket'", "cloud.bucket is 'my-bucket'; expected gs://BUCKET"),
        ("[ssh]\nplatform = 'gpu'", "ssh.platform is 'gpu'; expected auto, cpu, cuda or tpu"),
        ("[tpu_vm]\nwait_hours = 'long'", "tpu_vm.wait_hours is 'long'; expected a number"),
        ("[tpu_vm]\nwait_hours = -1", "tpu_vm.wait_hours is -1.0; expected at least 0"),
        ("[tpu_vm]\nwait_hours = nan", "tpu_vm.wait_hours is nan; expected at least 0"),
        ("[ssh]\nport = 123550", "ssh.port is 123550; expected at most 65535"),
        (
            "[ssh]\nfolder = '~/x'",
            "ssh.folder is '~/x'; no shell expands ~ there: write it whole, or seen from the home",
        ),
        ("[slurm]\npython = '~/v/bin/python'", "slurm.python is '~/v/bin/python'; no shell"),
        ("name = ", "is no TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    tmp_path: Path, text: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert main(["slurm", "--dry-run", f"--settings={path}"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {path}: {line}")
    assert said.err.count("\n") == 1


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[tpu_vm]\nwait_hours = 2")
    assert load_settings(path).tpu_vm.wait_hours == 2.0


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "--settings=nowhere.toml"]) == 1
    line = "error: nowhere.toml: No such file or directory; name a file with --settings\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("way", "change", "line"),
    [
        ("tpu-vm", ("project = ", "#"), "cloud.project is empty; set it in the settings file"),
        ("tpu-vm", ("zone = ", "#"), "cloud.zone is empty"),
        ("tpu-vm", ("bucket = ", "#"), "cloud.bucket is empty"),
        ("gke", ("cluster = ", "#"), "gke.cluster is empty"),
        ("gke", ("zone = ", "#"), "cloud.zone is empty"),
        ("ssh", ("hosts = ", "#"), "ssh.hosts is empty"),
        (
            "ssh",
            ('"me@a"', '"-oProxyCommand=x"'),
            "ssh.hosts has '-oProxyCommand=x'; expected HOST",
        ),
        (
            "tpu-vm",
            ("v5litepod-16", "v5e-16"),
            "cloud.accelerator is 'v5e-16', which is no TPU of ours; did you mean 'v5litepod-16'?",
        ),
        (
            "gke",
            ("v5litepod-16", "v5litepod-12"),
            "cloud.accelerator is 'v5litepod-12'; v5litepod- goes with one of 1, 4, 8",
        ),
        (
            "tpu-vm",
            ("--config.steps=3", "--config.workdir=runs/x"),
            "arguments sets a workdir outside of the bucket, which is seen as /mnt/coderllm",
        ),
        (
            "ssh",
            ("--config.steps=3", "--config.distributed.process_id=1"),
            "arguments sets distributed.process_id; how processes find one another",
        ),
        (
            "tpu-vm",
            ("configs/tiny.py", "configs/mine.py"),
            "arguments names the card 'configs/mine.py', which git does not know",
        ),
        (
            "ssh",
            ("--config=configs/tiny.py", '--config", "mine.py:slow'),
            "arguments names the card 'mine.py', which git does not know and which is therefore "
            "not copied; git add it\n",
        ),
        (
            "ssh",
            ("--config.steps=3", "--overlay=mine.yaml"),
            "arguments names the overlay 'mine.yaml', which git does not know",
        ),
        (
            "gke",
            ("--config.steps=3", "--overlay=/home/me/mine.yaml"),
            "arguments names the overlay '/home/me/mine.yaml', which git does not know and which "
            "is therefore not copied; git add it, or copy it into the bucket and name it as it is "
            "seen: /mnt/coderllm/...\n",
        ),
        (
            "ssh",
            ('name = "trial"', 'name = "trial"\nprepare = "configs/mine.py"'),
            "prepare names the card 'configs/mine.py', which git does not know",
        ),
        (
            "tpu-vm",
            ("--config.steps=3", "--config.data.path=rows.jsonl"),
            "arguments sets config.data.path to 'rows.jsonl', which git does not know",
        ),
        (
            "tpu-vm",
            ("--config.steps=3", "--config.data.path=/mnt/coderllm-not/rows.jsonl"),
            "arguments sets config.data.path to '/mnt/coderllm-not/rows.jsonl', which git does",
        ),
    ],
)
def test_what_a_way_needs_is_asked_for_before_anything_is_run(
    tmp_path: Path, way: str, change: tuple[str, str], line: str, world, capsys
) -> None:
    from tests.launch.conftest import SETTINGS

    path = tmp_path / "mine.toml"
    path.write_text(
        SETTINGS.format(accelerator="v5litepod-16", top="", cloud="", ssh="", slurm="").replace(
            *change
        )
    )
    assert main([way, f"--settings={path}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1
    assert world.calls == []


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "./configs/tiny.py"],
        ["--overlay=/mnt/coderllm/mine.yaml"],
        ["--config.data.path=/mnt/coderllm/rows"],
        ["--config.data.path=tfds://mine"],
        ["--config.data.path=data/"],
        ["--config.data.path=data/questions.jsonl"],
        ["--config.data.path", "data/*.jsonl"],
    ],
)
def test_what_travels_or_is_there_already_may_be_named(launch, world, words: list[str]) -> None:
    assert launch("tpu-vm", "--dry-run", "--", *words) == 0


def test_hosts_may_have_absolute_paths_and_rows_of_their_own(launch, world) -> None:
    own = ["--overlay=/shared/mine.yaml", "--config.data.path=rows.jsonl"]
    assert launch("ssh", "--dry-run", "--", *own) == 0


class TestSecrets:
    def test_a_file_that_others_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "secrets.env"
        path.write_text("HF_TOKEN=hf_canary\n")
        path.chmod(0o640)
        with pytest.raises(LaunchError, match=r"may be read by others; chmod 600 .*secrets.env$"):
            check_secrets(path)
        path.chmod(0o600)
        check_secrets(path)

    @pytest.mark.parametrize("line", ["hf_canary", "HF TOKEN=hf_canary", "export A=hf_canary"])
    def test_a_line_that_is_none_is_named_by_its_number(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "secrets.env"
        path.write_text(f"# mine\n\nA=b\n{line}\n")
        path.chmod(0o600)
        with pytest.raises(LaunchError) as raised:
            check_secrets(path)
        assert f"{path}:4: expected NAME=value" in str(raised.value)
        assert "canary" not in str(raised.value)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "secrets.env"
        path.write_bytes(b"HF_TOKEN=hf_\xff\n")
        path.chmod(0o600)
        with pytest.raises(
            LaunchError, match=r"secrets.env: is no text in UTF-8; save it as such$"
        ):
            check_secrets(path)

    def test_its_path_is_where_the_user_means(self, tmp_path: Path, monkeypatch) -> None:
        """No shell expands `~` for gcloud and kubectl, and the launch works in the checkout."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "s.env").touch(mode=0o600)
        for name in ("~/s.env", "s.env"):
            (tmp_path / "mine.toml").write_text(f"secrets_file = '{name}'")
            assert load_settings(Path("mine.toml")).secrets_file == str(tmp_path / "s.env")

    def test_a_file_that_git_tracks_would_travel(self, launch, world, monkeypatch, capsys) -> None:
        from launch import checkout

        tracked = checkout.ROOT / "Makefile"
        monkeypatch.setattr("launch.settings.check_secrets", lambda path: None)
        assert launch("tpu-vm", top=f"secrets_file = '{tracked}'") == 1
        assert "is tracked by git; git rm --cached" in capsys.readouterr().err
        assert world.calls == []
