"""Where a run writes: whether it may, and whether there is room. Nothing is made or written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.diagnosis.check import TRAINING, Check

GROUP = "Disk"

_MB = 10**6
# Estimates, each above what a default run takes. A run's folder, its checkpoints included:
_RUN_BYTES = 200 * _MB
# The GGUF that is put together beside its conversion, and compiled programs.
_COMPILED_BYTES, _GGUF_BYTES = 100 * _MB, 250 * _MB
_CONVERTED_BYTES = {"bfloat16": 550 * _MB, "float32": 1100 * _MB}
_DATA_BYTES, _TEMPORARY_BYTES = 10 * _MB, 50 * _MB


class Place(NamedTuple):
    """A folder that a run writes `needed_bytes` into, and the option that names it."""

    name: str
    path: Path
    needed_bytes: int
    option: str


def places_of_a_run(
    *, workdir: str, cache_dir: str, weights: str, is_converted: bool, is_prepared: bool
) -> list[Place]:
    """What a default run takes; an existing conversion and existing data are not written again."""
    conversion = 0 if is_converted else _GGUF_BYTES + _CONVERTED_BYTES.get(weights, 1100 * _MB)
    places = [
        Place("workdir", Path(workdir), _RUN_BYTES, "another workdir"),
        Place("model cache", Path(cache_dir), conversion + _COMPILED_BYTES, "model.cache_dir"),
        Place("temporary files", Path(tempfile.gettempdir()), _TEMPORARY_BYTES, "TMPDIR"),
    ]
    if not is_prepared:
        places.append(Place("data", Path("data"), _DATA_BYTES, "another folder to run in"))
    return places


def check_places(places: Sequence[Place]) -> Iterator[Check]:
    """Each place; those on one disk need room for all of them together."""
    homes = {place: _existing(place.path.expanduser()) for place in places}
    needed: dict[int, int] = {}
    for place, home in homes.items():
        device = home.stat().st_dev
        needed[device] = needed.get(device, 0) + place.needed_bytes
    for place, home in homes.items():
        yield _check_place(place, home, needed[home.stat().st_dev])


def _check_place(place: Place, home: Path, needed_bytes: int) -> Check:
    path = place.path.expanduser()
    if not home.is_dir():
        return _refused(place, f"{home} is a file", f"name {place.option}")
    if not os.access(home, os.W_OK | os.X_OK):
        why = "is read-only" if _is_read_only(home) else "may not be written by this user"
        return _refused(place, f"{home} {why}", f"name {place.option}, or ask for write access")
    free_bytes = shutil.disk_usage(home).free
    if free_bytes < needed_bytes:
        return _refused(
            place,
            f"{path} has {free_bytes / 1e9:.2f} GB free; a default run needs "
            f"{needed_bytes / 1e9:.2f} GB on that disk",
            f"free some space, or name {place.option}",
        )
    return Check(GROUP, place.name, "ok", f"{path} has {free_bytes / 1e9:.1f} GB free")


def _refused(place: Place, found: str, remedy: str) -> Check:
    return Check(GROUP, place.name, "missing", found, remedy, TRAINING)


def _existing(path: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    path = path.absolute()
    return next((each for each in (path, *path.parents) if _is_there(each)), Path(path.anchor))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that this user may not enter
        return False


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
