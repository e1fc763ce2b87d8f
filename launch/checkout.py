"""The checkout as an archive: what git knows, as it lies there, changes included.

Neither what git ignores (data, runs, environments) nor what it does not know (notes, secrets).
So the files that a run names are looked for before anything is made:

    prepare, --config CARD, --overlay=FILE     git knows it; absolute: the hosts' own, on clouds in
                                               the bucket (`prepare` comes before the bucket)
    --config.data.path=ROWS, on clouds         that, or tfds://; other hosts may have it already
"""

from __future__ import annotations

import contextlib
import fnmatch
import posixpath
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from launch.errors import LaunchError
from launch.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
# What is printed instead of a temporary file's name.
DRY_RUN_ARCHIVE = Path("code.tar.gz")
_FILES = {"config": "card", "overlay": "overlay"}
_UNKNOWN = "which git does not know and which is therefore not copied"
_ROWS = ("config.data.path", "config.data.evaluation_path")


def list_files(root: Path = ROOT) -> list[str]:
    """Paths that git tracks and that are there; LaunchError without a checkout or without git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"],  # noqa: S607 - the user's own git
            cwd=root,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise LaunchError("there is no git on PATH; install it, or mend PATH") from None
    if listed.returncode:
        raise LaunchError(
            f"{root} is no checkout of git, whose files could be copied; launch from one"
        )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [name for name in names if (root / name).exists() or (root / name).is_symlink()]


def check_code(settings: Settings, root: Path = ROOT, *, mount: str = "") -> None:
    """LaunchError where the secrets would travel with the code, or what the run reads would not.

    mount: where a cloud's hosts see the bucket; beside it they have the code and nothing else.
    """
    files = set(list_files(root))
    if settings.secrets_file:
        secrets = Path(settings.secrets_file).resolve()
        if secrets.is_relative_to(root) and str(secrets.relative_to(root)) in files:
            raise LaunchError(
                f"secrets_file {settings.secrets_file} is tracked by git; "
                f"git rm --cached {settings.secrets_file}, and replace what is in it"
            )
    if settings.prepares and posixpath.normpath(settings.prepare) not in files:
        raise LaunchError(
            f"prepare names the card {settings.prepare!r}, {_UNKNOWN}; git add it, name one in "
            'configs/, or set it to ""'
        )
    remedy = f", or copy it into the bucket and name it as it is seen: {mount}/..." * bool(mount)
    for option, value in _read_options(settings.arguments):
        if option in _FILES:
            path = value.partition(":")[0] if option == "config" else value
            if not _is_theirs(path, mount) and posixpath.normpath(path) not in files:
                raise LaunchError(
                    f"arguments names the {_FILES[option]} {path!r}, {_UNKNOWN}; git add it{remedy}"
                )
        elif (
            mount
            and option in _ROWS
            and not value.startswith("tfds://")
            and not _is_theirs(value, mount)
            and not _finds_rows(value, files)
        ):
            raise LaunchError(
                f"arguments sets {option} to {value!r}, {_UNKNOWN}; git add it{remedy}"
            )


def _read_options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each option with one: `--overlay=a.yaml`, `--config card.py`."""
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        option = name.removeprefix("-").removeprefix("-")
        if option in (*_FILES, *_ROWS) and option != name:
            value = value if equals else next(words, "")
            if value:
                yield option, value


def _is_theirs(path: str, mount: str) -> bool:
    """Whether the hosts may have it from elsewhere."""
    return posixpath.normpath(path).startswith(f"{mount}/" if mount else ("/", "~"))


def _finds_rows(path: str, files: Set[str]) -> bool:
    """Whether a file, a folder or a pattern has anything among the files."""
    path = posixpath.normpath(path)
    folder, pattern = posixpath.split(path)
    return path in files or any(
        file.startswith(f"{path}/")
        or (
            posixpath.dirname(file) == folder and fnmatch.fnmatch(posixpath.basename(file), pattern)
        )
        for file in files
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
