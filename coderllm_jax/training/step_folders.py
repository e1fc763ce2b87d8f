"""The steps on disk: which there are, which are kept, and where the bad ones go.

    checkpoints/
      20/  40/                     finished: each with its manifest, see training.integrity
      60.orbax-checkpoint-tmp/     being written, or left by a killed save: swept
      20.deleted/                  being deleted, or left by a killed deletion: swept
      set_aside/40-1/              damaged or never finished; moved here, and never deleted by us

Every change of what counts as a step is one rename, so a kill at any moment leaves each step
either whole or no step. Covers one run that owns the folder. Does not cover two at once: the
second would sweep away what the first is writing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import orbax.checkpoint as ocp

from coderllm_jax.errors import RunError
from coderllm_jax.training.integrity import Manifest, find_damage, read_manifest

_SET_ASIDE = "set_aside"
_DELETED = ".deleted"


class SetAside(NamedTuple):
    """A step that could not be used, why, and where it lies now."""

    step: int
    reason: str
    place: str


class StepFolders:
    """The folder `checkpoints/`, changed by one process."""

    def __init__(self, path: Path, *, note: Callable[[str], None]) -> None:
        self.path = path
        self.set_aside: list[SetAside] = []
        self._note = note

    def of(self, step: int) -> Path:
        """Where the step lies or will lie."""
        return self.path / str(step)

    def newest_first(self) -> list[int]:
        """Every step that there is a folder of, finished or not."""
        try:
            steps = [int(each.name) for each in self.path.iterdir() if each.name.isdecimal()]
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be read ({error.strerror}); make it readable, "
                "or name another workdir"
            ) from None
        return sorted(steps, reverse=True)

    def finished(self) -> dict[int, Manifest]:
        """The steps with a valid manifest, newest first. Their other files are not looked at."""
        manifests = {}
        for step in self.newest_first():
            try:
                manifests[step] = read_manifest(self.of(step))
            except ValueError:
                continue
        return manifests

    def best_first(self) -> list[int]:
        """The finished steps with a finite evaluation loss, ranked as `prune` does."""
        return _rank(self.finished())

    def first_whole(self, steps: list[int]) -> int | None:
        """The first of the steps that is whole; those that are not, before it, are set aside."""
        for step in steps:
            damage = find_damage(self.of(step))
            if not damage:
                return step
            self.move_aside(step, damage)
        return None

    def move_aside(self, step: int, reason: str) -> None:
        """Takes a step out of the way, keeps it to be looked at, and says so."""
        tries = (self.path / _SET_ASIDE / f"{step}-{number}" for number in range(1, 10**6))
        place = next(each for each in tries if not each.exists())
        try:
            place.parent.mkdir(exist_ok=True)
            self.of(step).rename(place)
        except OSError as error:
            raise RunError(
                f"{self.of(step)} cannot be used ({reason}) nor moved to {place} "
                f"({error.strerror}); make the folder writable, or move the step yourself"
            ) from None
        self.set_aside.append(SetAside(step, reason, str(place)))
        self._note(f"CHECKPOINT DAMAGED: step {step} cannot be used ({reason}); it is now {place}")

    def prune(self, *, keep_latest: int, keep_best: int) -> None:
        """Deletes the finished steps that are neither among the latest nor among the best."""
        finished = self.finished()
        kept = {*list(finished)[:keep_latest], *_rank(finished)[:keep_best]}
        for step in finished:
            if step not in kept:
                self.delete(step)

    def delete(self, step: int) -> None:
        """First by name, then by file: half a step is never taken for one."""
        self.of(step).rename(doomed := self.path / f"{step}{_DELETED}")
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Removes what killed or failed saves and deletions have left, as far as it can be."""
        for each in self.path.iterdir():
            if each.name.endswith(_DELETED) or ocp.utils.TMP_DIR_SUFFIX in each.name:
                shutil.rmtree(each, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write to the folder's disk."""
    return shutil.disk_usage(folder).free


def _rank(manifests: Mapping[int, Manifest]) -> list[int]:
    """By loss, the newer of equals first; a step without a finite loss never takes part."""
    losses = {
        step: manifest.eval_loss
        for step, manifest in manifests.items()
        if manifest.eval_loss is not None
    }
    return sorted(losses, key=lambda step: (losses[step], -step))
