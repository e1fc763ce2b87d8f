"""Which runs there are below some folders; those that appear later are found, too.

runs/lora/config.json, manifest.json or metrics/metrics.jsonl   a run of ours
runs/theirs/events.out.tfevents.*                               anybody's, with events only
runs/lora/evaluation/results.json                               an evaluation
runs/comparison/comparison.json                                 neither, nor what is below it

Of more than 200 the newest are taken: those whose files changed last.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from coderllm_jax.monitoring.event_files import PATTERN
from coderllm_jax.training.run_folder import RunFolder

_DEEPEST = 3
_MAX_FOUND = 200
# A tree of so many is walked no further: the walk comes every few seconds.
_MAX_WALKED = 5000
_MAX_ENTRIES = 2000


class Found(NamedTuple):
    """One folder; `name` is what people call it: its path below the root that it was found in."""

    kind: Literal["run", "events", "evaluation"]
    path: Path
    name: str

    @property
    def id(self) -> str:
        """Stable over restarts and safe in a URL."""
        return identify(self.name, self.path)


def identify(name: str, path: Path) -> str:
    """A name's letters and a digest of the path: two runs of one name stay two."""
    letters = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "run"
    return f"{letters}-{zlib.crc32(str(path.absolute()).encode('utf-8', 'surrogateescape')):08x}"


class Discovery(NamedTuple):
    """What there is, in the order of names, and how many were older and are left out."""

    found: list[Found]
    num_left_out: int


def find_all(roots: Sequence[str]) -> Discovery:
    """Runs and evaluations in or below the roots; `~` is the home folder."""
    walks = (
        each
        for root in (Path(root).expanduser() for root in roots)
        for each in _walk(root, root, _DEEPEST)
    )
    by_path: dict[Path, Found] = {}
    for each in itertools.islice(walks, _MAX_WALKED):
        by_path.setdefault(each.path.absolute(), each)
    found = list(by_path.values())
    if len(found) > _MAX_FOUND:
        newest = set(heapq.nlargest(_MAX_FOUND, found, key=_changed))
        found = [each for each in found if each in newest]
    return Discovery(found, len(by_path) - len(found))


def _changed(found: Found) -> float:
    """When a folder, or the log or results in it, was last written to."""
    paths = (found.path, RunFolder(found.path).metrics_log, found.path / "results.json")
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _walk(folder: Path, root: Path, depth: int) -> Iterator[Found]:
    try:
        entries = sorted(_some(folder))
    except OSError:
        return
    names = {path.name for path in entries}
    below = "" if folder == root else str(folder.relative_to(root))
    name = below or folder.absolute().name
    if "results.json" in names and folder.name == "evaluation":
        yield Found("evaluation", folder, str(Path(name).parent) if below else name)
        return
    if "comparison.json" in names:
        return
    run = RunFolder(folder)
    if {"config.json", "manifest.json"} <= names or run.metrics_log.is_file():
        yield Found("run", folder, name)
        if (folder / "evaluation" / "results.json").is_file():
            yield Found("evaluation", folder / "evaluation", name)
        return
    if any(path.match(PATTERN) for path in entries):
        yield Found("events", folder, name)
    if depth:
        for path in entries:
            if not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
                yield from _walk(path, root, depth - 1)


def _some(folder: Path) -> list[Path]:
    """What a folder holds; of one with thousands of entries, which is no folder of runs, a part."""
    found = []
    for path in folder.iterdir():
        found.append(path)
        if len(found) == _MAX_ENTRIES:
            break
    return found
