"""Checkpoints: the state of a step and the run's record, written by Orbax, guarded by us.

    checkpoints/20/state/            TrainState, as it was after step 20
    checkpoints/20/record/           RunRecord: counters, evaluations, index of the next batch
    checkpoints/20/integrity.json    size and sha256 of each file; see training.integrity
    checkpoints/set_aside/40-1/      a step that was found damaged; see training.step_folders

The data pipeline's whole state is one number, the step: a packing plan is a function of the rows,
the seed and the epoch. So nothing of Grain is saved, and a resume on another number of hosts reads
on at the right place.

One save, in time; the loop is held for the first line only:

    save()       the step before is finished? room? ── state leaves the buffers that get donated
    Orbax        writes 40.orbax-checkpoint-tmp ── renames it to 40
    ours         hashes ── integrity.json: from here on step 40 exists ── deletes what it replaces

Orbax's CheckpointManager stays out of it: it deletes old steps before the new one has a manifest,
one NaN among its metrics makes it delete the best, and it takes any folder with a number for a
step. Its AsyncCheckpointer keeps what is hard: sharded arrays, the atomic commit, several hosts.

Covers: kill -9 at any moment, damage to any file (as training.integrity says), a full disk and
every other error of a save, NaN losses, and a restore on other devices. Does not cover: two runs
in one folder, signals, and one of several processes whose part of a save fails alone: the others
wait for it until Orbax's time limit, or the run's watchdog, ends the wait.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from coderllm_jax.errors import RunError
from coderllm_jax.training.agreement import each_says, first_decides
from coderllm_jax.training.integrity import (
    add_eval_loss,
    find_damage,
    read_manifest,
    write_manifest,
)
from coderllm_jax.training.record import RunRecord, is_finite
from coderllm_jax.training.step_folders import SetAside, StepFolders, free_bytes

S = TypeVar("S")

# Left free beside a step: the record, Orbax's own files, and the logs that share the disk.
_MARGIN_BYTES = 16 * 2**20


class FailedSave(NamedTuple):
    """A step that was not saved, and why."""

    step: int
    reason: str


class Checkpoints:
    """A folder of checkpoints that one run writes and reads.

    With several processes each calls the same methods in the same order. Process 0 looks at the
    folder, decides and changes it; the others are told. `note` is told everything a person should
    know; `set_aside` and `failures` are process 0's, for the run's summary.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        note: Callable[[str], None] = logging.warning,
    ) -> None:
        self.failures: list[FailedSave] = []
        self._keep = {"keep_latest": keep_latest, "keep_best": keep_best}
        self._note = note
        self._folders = StepFolders(folder.absolute(), note=note)
        self._saving: tuple[int, Future[None]] | None = None
        self._unsaved: FailedSave | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(), record=ocp.JsonCheckpointHandler()
            )
        )
        first_decides(self._open)

    @property
    def set_aside(self) -> list[SetAside]:
        """The steps that were found unusable since this object was made."""
        return self._folders.set_aside

    def steps(self) -> list[int]:
        """The finished steps, oldest first; damage in their files is found when they are read."""
        self._join()
        return first_decides(lambda: sorted(self._folders.finished()))

    def save(self, state: Any, record: RunRecord) -> bool:
        """Saves in the background; the state may be donated as soon as this returns.

        A step that is there already stays as it is, but for an evaluation that it had not had.
        False where the save was given up at once; one that fails later is told by the next call.
        Neither costs an earlier step.
        """
        self._join()
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        is_there, refusal = first_decides(lambda: self._prepare(record, needed))
        if is_there:
            return True
        if refusal:
            return self._give_up(record.step, refusal)
        try:
            self._checkpointer.save(
                self._folders.of(record.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    record=ocp.args.JsonSave(record.to_json()),
                ),
            )
        except (OSError, ValueError) as error:
            return self._give_up(record.step, error)
        finish = self._background.submit(self._finish, record.step, _eval_loss(record))
        self._saving = (record.step, finish)
        return True

    def restore_latest(self, like: S) -> tuple[S, RunRecord] | None:
        """The newest whole checkpoint; None, and a note, if there is none.

        `like` gives shapes, dtypes and placement: arrays, or jax.ShapeDtypeStructs with shardings.
        What is damaged or unfinished is set aside. RunError where the step holds another state.
        """
        self._join()
        return self._restore_first(self._folders.newest_first, like)

    def restore_best(self, like: S) -> tuple[S, RunRecord] | None:
        """The whole checkpoint with the lowest finite evaluation loss, else as restore_latest."""
        self._join()
        return self._restore_first(self._folders.best_first, like)

    def restore(self, step: int, like: S) -> tuple[S, RunRecord]:
        """The checkpoint of `step`; RunError where it is not there, or not whole."""
        self._join()
        restored = self._restore_first(
            lambda: [each for each in self._folders.newest_first() if each == step], like
        )
        if restored is None:
            raise RunError(
                f"{self._folders.of(step)} is not there or was damaged; "
                f"these steps can be restored: {self.steps() or 'none'}"
            )
        return restored

    def wait(self) -> None:
        """Blocks until everything saved is on disk; RunError where the last save failed."""
        self._join()
        first_decides(self._check_saved)

    def close(self) -> None:
        """Waits, then lets go of the folder. A failed save is told, not raised."""
        self._join()
        self._background.shutdown()
        self._checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is not None and jax.process_count() > 1:
            # Orbax would wait for the other processes, who may be dead, for ten minutes.
            self._background.shutdown(wait=False)
        else:
            self.close()

    # ------------------------------------------------------------------------------- saving

    def _open(self) -> None:
        try:
            self._folders.path.mkdir(parents=True, exist_ok=True)
            self._folders.sweep()
        except OSError as error:
            raise RunError(
                f"{self._folders.path} cannot be used ({error.strerror}); name another workdir"
            ) from None

    def _prepare(self, record: RunRecord, state_bytes: int) -> tuple[bool, str]:
        """Whether the step is there already, and what forbids that it is saved now."""
        needed, step, eval_loss = state_bytes + _MARGIN_BYTES, record.step, _eval_loss(record)
        try:
            self._open()
            if there := self._folders.finished().get(step):
                # A run that was interrupted before it could evaluate: now it has, and this step
                # may be the best. Its files stay as they are.
                if there.eval_loss is None and eval_loss is not None:
                    add_eval_loss(self._folders.of(step), eval_loss)
                return True, ""
            if self._folders.of(step).exists():
                self._folders.move_aside(step, "it was never finished")
            free = free_bytes(self._folders.path)
        except (OSError, ValueError) as error:
            return False, str(error)
        if free < needed:
            return False, f"{free / 1e6:.0f} MB free on the disk, {needed / 1e6:.0f} MB needed"
        return False, ""

    def _finish(self, step: int, eval_loss: float | None) -> None:
        """Runs in the background: what turns Orbax's folder into a step."""
        self._checkpointer.wait_until_finished()
        if jax.process_index():
            return
        write_manifest(self._folders.of(step), step=step, eval_loss=eval_loss)
        try:
            self._folders.prune(**self._keep)
        except (OSError, RunError) as error:  # the new step is safe: the next one tries again
            self._note(f"old checkpoints cannot be deleted: {error}")

    def _join(self) -> None:
        """Waits for the save in the background, if there is one."""
        if self._saving is None:
            return
        step, finish = self._saving
        self._saving = None
        # Whatever it is: Orbax hands on the errors of a dozen libraries.
        error = finish.exception()
        if error is None:
            self._unsaved = None
        else:
            self._give_up(step, error)

    def _give_up(self, step: int, reason: object) -> bool:
        """Removes what there is of a failed save, and says so. Returns False, as `save` does."""
        self._unsaved = FailedSave(step, _one_line(reason))
        self.failures.append(self._unsaved)
        if jax.process_index():
            return False
        try:
            self._folders.sweep()
            if self._folders.of(step).exists() and step not in self._folders.finished():
                self._folders.delete(step)
        except (OSError, RunError) as error:
            self._note(f"what there is of step {step} cannot be removed: {error}")
        self._note(
            f"CHECKPOINT NOT SAVED: step {step} ({self._unsaved.reason}); training goes on; "
            f"if it ends now, {self._goes_on()}"
        )
        return False

    def _check_saved(self) -> None:
        if self._unsaved:
            step, reason = self._unsaved
            raise RunError(
                f"{self._folders.path}: step {step} could not be saved ({reason}); mend that "
                f"(make room, give access), then run the same command again: {self._goes_on()}"
            )

    def _goes_on(self) -> str:
        try:
            newest = next(iter(self._folders.finished()), None)
        except RunError:
            return "nobody can tell from where it goes on"
        return "it starts anew" if newest is None else f"it goes on from step {newest}"

    # ---------------------------------------------------------------------------- restoring

    def _restore_first(
        self, candidates: Callable[[], list[int]], like: S
    ) -> tuple[S, RunRecord] | None:
        """The first candidate that is whole, and that Orbax reads."""
        before = len(self.set_aside)
        unreadable: dict[int, str] = {}
        while found := first_decides(lambda: self._next_whole(candidates, unreadable)):
            step, sha256 = found
            self._check_shared(step, sha256)
            restored, reason = None, ""
            try:
                restored = self._read(step, like)
            except (RunError, jax.errors.JaxRuntimeError):
                raise  # another configuration, or no memory: not the step's fault
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RuntimeError,
            ) as error:
                reason = _one_line(error)
            # All take the same way on, also where one process alone could not read its part.
            everybody_has_it = all(each_says(restored is not None))
            if restored is None or not everybody_has_it:
                unreadable[step] = reason or "another process cannot read it"
                continue
            first_decides(lambda: self._move_all_aside(unreadable))
            return restored
        if unreadable:
            # Byte for byte what was written, and no other step can be read either: it is not they.
            step, reason = next(iter(unreadable.items()))
            raise RunError(
                f"{self._folders.of(step)} is undamaged but cannot be restored ({reason}); "
                "use the versions that manifest.json names, or name another workdir"
            )
        if len(self.set_aside) > before:
            self._note("NO CHECKPOINT IS LEFT that can be restored")
        return None

    def _next_whole(
        self, candidates: Callable[[], list[int]], unreadable: dict[int, str]
    ) -> tuple[int, str] | None:
        step = self._folders.first_whole([each for each in candidates() if each not in unreadable])
        return None if step is None else (step, read_manifest(self._folders.of(step)).sha256)

    def _move_all_aside(self, unreadable: dict[int, str]) -> None:
        for step, reason in unreadable.items():
            self._folders.move_aside(step, f"Orbax cannot read it: {reason}")

    def _check_shared(self, step: int, sha256: str) -> None:
        """Every process must see the step that process 0 has verified."""
        try:
            sees_it = read_manifest(self._folders.of(step)).sha256 == sha256
        except ValueError:
            sees_it = False
        if not all(seen := each_says(sees_it)):
            raise RunError(
                f"{self._folders.of(step)} is not seen by process {seen.index(False)}; "
                "all hosts must share the workdir: put it on a file system that they share"
            )

    def _read(self, step: int, like: S) -> tuple[S, RunRecord]:
        place = self._folders.of(step)
        stored: Any = self._checkpointer.metadata(place).item_metadata
        if difference := _first_difference(stored.state, like):
            raise RunError(
                f"{place}: {difference}; expected the state that this configuration trains; "
                "restore the configuration or name another workdir"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = self._checkpointer.restore(
            place,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
            ),
        )
        return items.state, RunRecord.from_json(items.record)


def read_trainable(place: Path) -> dict[str, Any]:
    """What was trained, as numpy arrays, from one step's folder (`checkpoints/40`).

    For those who only look: nothing is set aside, swept or locked, and neither the run's program
    nor its devices are needed. RunError where the step is damaged, unfinished or none of ours.
    """
    if damage := find_damage(place):
        raise RunError(
            f"{place} cannot be used ({damage}); name another step, or the run, which sets "
            "damaged steps aside when it goes on"
        )
    with ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(
            state=ocp.PyTreeCheckpointHandler(), record=ocp.JsonCheckpointHandler()
        )
    ) as checkpointer:
        stored: Any = checkpointer.metadata(place).item_metadata
        tree = stored.state.tree["trainable"]
        only = ocp.args.PyTreeRestore(
            {"trainable": tree},
            restore_args=jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), {"trainable": tree}
            ),
            partial_restore=True,
        )
        try:
            restored = checkpointer.restore(place, args=ocp.args.Composite(state=only))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{place} is undamaged but cannot be read ({_one_line(error)}); "
                "use the versions that the run's manifest.json names"
            ) from error
    return restored.state["trainable"]


def _eval_loss(record: RunRecord) -> float | None:
    """The finite evaluation loss of the record's step; None where there is none."""
    rows = [row["eval_loss"] for row in record.evaluations if row["step"] == record.step]
    return rows[-1] if rows and is_finite(rows[-1]) else None


def _one_line(reason: object) -> str:
    """The first line that says something, without the pages that Orbax and TensorStore add."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    text = lines[0][:300] if lines else ""
    return text or type(reason).__name__


def _first_difference(stored: Any, like: Any) -> str:
    """What keeps the stored arrays from becoming `like`. Orbax itself casts dtypes silently."""
    found, wanted = _arrays(stored.tree), _arrays(like)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            return f"holds {name} as {found.get(name, 'nothing')}, not {wanted.get(name, 'at all')}"
    return ""


def _arrays(tree: Any) -> dict[str, str]:
    """`{"trainable/query/a": "float32[18, 640, 8]"}`."""
    return {
        "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
        ): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }
