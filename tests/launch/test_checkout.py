"""What travels to other machines: what git knows, as it lies there, and nothing else."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from launch.checkout import list_files, packed
from launch.errors import LaunchError


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init")
    (root / ".gitignore").write_text("/runs/\n")
    (root / "kept.py").write_text("old")
    (root / "gone.py").write_text("old")
    (root / "sub").mkdir()
    (root / "sub" / "odd näme.sh").write_text("#!/bin/sh\n")
    (root / "sub" / "odd näme.sh").chmod(0o755)
    git(root, "add", ".")
    (root / "kept.py").write_text("changed")
    (root / "gone.py").unlink()
    (root / "secrets.env").write_text("HF_TOKEN=canary")
    (root / "runs").mkdir()
    (root / "runs" / "big").write_text("ignored")
    return root


def test_tracked_files_with_their_changes(root: Path, tmp_path: Path) -> None:
    assert sorted(list_files(root)) == [".gitignore", "kept.py", "sub/odd näme.sh"]
    with packed(dry_run=False, root=root) as archive, tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    assert not archive.exists()
    there = tmp_path / "there"
    assert (there / "kept.py").read_text() == "changed"
    assert (there / "sub" / "odd näme.sh").stat().st_mode & 0o100
    assert not (there / "secrets.env").exists()
    assert not (there / "runs").exists()


def test_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    with pytest.raises(LaunchError, match=r"is no checkout of git.*launch from one$"):
        list_files(tmp_path / "plain")


def test_no_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(LaunchError, match=r"^there is no git on PATH; install it, or mend PATH$"):
        list_files(root)
