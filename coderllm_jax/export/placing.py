"""A folder under its final name is whole: it is written beside its place and renamed at the end.

out/                 held by one export at a time, by a lock that ends with its process
out/.gguf.partial/   being written, or left by a kill: the next export into `out`, of whatever
                     formats, removes it
out/gguf/            whole and proven
out/.gguf.old/       the earlier one, between two renames
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from coderllm_jax.errors import ConfigError, DeviceError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(out: Path, names: Iterable[str]) -> Iterator[None]:
    """Holds the folder `out`, made if need be, for this process; ConfigError if another has it.

    What killed exports left beside the places of these names is gone then.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{out} is being written by another export; wait for it, or name another out"
            ) from None
        except OSError as error:  # a file system without locks must not forbid an export
            _log.warning("%s cannot be locked (%s); do not export into it twice", out, error)
        for name in names:
            _recover(out / name)
            shutil.rmtree(_partial(out / name), ignore_errors=True)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def partial_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, whose folder is `held`; it is deleted at the end."""
    folder = _partial(place)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(places: Mapping[Path, Path]) -> None:
    """Renames each folder to its place; earlier ones are gone only after the last of them."""
    for folder, place in places.items():
        if place.exists():
            place.rename(_earlier(place))
        folder.rename(place)
    for place in places.values():
        shutil.rmtree(_earlier(place), ignore_errors=True)


def check_space(folder: Path, num_bytes: int) -> None:
    """DeviceError where the disk under `folder` has not room for that much."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DeviceError(
            f"{folder.parent}: {free / 1e9:.1f} GB are free; this export needs about "
            f"{num_bytes / 1e9:.1f} GB; make room, or name another out"
        )


def _partial(place: Path) -> Path:
    return place.with_name(f".{place.name}.partial")


def _earlier(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _recover(place: Path) -> None:
    """A kill between the two renames left only the earlier folder: it goes back."""
    earlier = _earlier(place)
    if earlier.exists() and not place.exists():
        earlier.rename(place)
    shutil.rmtree(earlier, ignore_errors=True)
