"""launch/README.md shows what is really printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from launch import tpu_vm
from launch.__main__ import main

README = (Path(tpu_vm.__file__).parent / "README.md").read_text()
# A line that starts with a prompt, and what follows it in the same block.
_BLOCK = r"    \$ python3 -m launch {way} --dry-run --settings=mine.toml\n((?:    [^$].*\n)+)"


@pytest.mark.parametrize("way", ["tpu-vm", "gke", "ssh", "slurm"])
def test_dry_runs(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = tmp_path / "coderllm-secrets.env"
    secrets.touch(mode=0o600)
    mine = re.search(r"With this `mine.toml`:\n\n((?:    .*\n)+)", README)
    settings = tmp_path / "mine.toml"
    settings.write_text(textwrap.dedent(mine[1]))
    assert main([way, "--dry-run", f"--settings={settings}"]) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path), "/home/me")
    shown = re.search(_BLOCK.format(way=way), README)
    assert textwrap.dedent(shown[1]).strip() == printed.strip()


def test_a_wrong_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text("[cloud]\nprojct = 'x'\n")
    assert main(["tpu-vm", f"--settings={settings}"]) == 1
    line = capsys.readouterr().err.replace(f"{tmp_path}/", "").strip()
    assert f"    {line}\n" in README
