"""A folder under its final name is whole: it is written beside its place and renamed at the end.

out/.gguf.partial/   being written, or left by a kill: the next export removes it
out/gguf/            whole and proven
out/.gguf.old/       the earlier one, between two renames
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from coderllm_jax.errors import DeviceError


@contextlib.contextmanager
def partial_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`; what is still there at the end is deleted."""
    folder = place.with_name(f".{place.name}.partial")
    _recover(place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
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


def _earlier(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _recover(place: Path) -> None:
    """A kill between the two renames left only the earlier folder: it goes back."""
    earlier = _earlier(place)
    if earlier.exists() and not place.exists():
        earlier.rename(place)
    shutil.rmtree(earlier, ignore_errors=True)
