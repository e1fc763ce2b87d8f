"""Which runs there are below some folders; those that appear later are found, too.

runs/lora/config.json, manifest.json or metrics/metrics.jsonl   a run of ours
runs/theirs/events.out.tfevents.*                               anybody's, with events only
runs/lora/evaluation/results.json                               an evaluation
runs/comparison/comparison.json                                 neither, nor what is below it
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from coderllm_jax.monitoring.event_files import PATTERN
from coderllm_jax.training.run_folder import RunFolder

_DEEPEST = 3
_MAX_FOUND = 200
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


def find_all(roots: Sequence[str]) -> list[Found]:
    """Runs and evaluations in or below the roots, in the order of their names."""
    found: dict[Path, Found] = {}
    for root in map(Path, roots):
        for each in _walk(root, root, _DEEPEST):
            found.setdefault(each.path.absolute(), each)
            if len(found) == _MAX_FOUND:
                return list(found.values())
    return list(found.values())


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
