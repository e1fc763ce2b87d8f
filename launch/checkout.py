"""The checkout as an archive: what git knows, as it lies there, changes included.

Neither what git ignores (data, runs, environments) nor what it does not know (notes, secrets).
"""

from __future__ import annotations

import contextlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.errors import LaunchError
from launch.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
# What is printed instead of a temporary file's name.
DRY_RUN_ARCHIVE = Path("code.tar.gz")


def list_files(root: Path = ROOT) -> list[str]:
    """Paths that git tracks and that are there; LaunchError outside of a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - the user's own git
        cwd=root,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        raise LaunchError(
            f"{root} is no checkout of git, whose files could be copied; launch from one"
        )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [name for name in names if (root / name).exists() or (root / name).is_symlink()]


def check_code(settings: Settings, root: Path = ROOT) -> None:
    """LaunchError where the secrets would travel with the code, or a card would not."""
    files = set(list_files(root))
    if settings.secrets_file:
        secrets = Path(settings.secrets_file).resolve()
        if secrets.is_relative_to(root) and str(secrets.relative_to(root)) in files:
            raise LaunchError(
                f"secrets_file {settings.secrets_file} is tracked by git; "
                f"git rm --cached {settings.secrets_file}, and replace what is in it"
            )
    for word in settings.arguments:
        name, _, card = word.partition("=")
        card = card.partition(":")[0]
        if name == "--config" and card and card not in files:
            raise LaunchError(
                f"arguments names the card {card!r}, which git does not know and which is "
                "therefore not copied; git add it, or name one in configs/"
            )


@contextlib.contextmanager
def packed(*, dry_run: bool, root: Path = ROOT) -> Iterator[Path]:
    """The archive's path, as long as the block lasts."""
    if dry_run:
        yield DRY_RUN_ARCHIVE
        return
    with tempfile.TemporaryDirectory(prefix="coderllm-launch-") as folder:
        archive = Path(folder) / DRY_RUN_ARCHIVE
        with tarfile.open(archive, "w:gz") as tar:
            for name in list_files(root):
                tar.add(root / name, arcname=name, recursive=False)
        yield archive
