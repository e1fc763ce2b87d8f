"""Checkpoints: the state of a step and the run's record, side by side, by Orbax.

    checkpoints/20/state/    TrainState, as it was after step 20
    checkpoints/20/record/   RunRecord: counters, evaluations, and the index of the next batch
    checkpoints/20/metrics/  eval_loss, by which the best are kept

The data pipeline's whole state is one number, the step: a packing plan is a function of the rows,
the seed and the epoch. So nothing of Grain is saved, and a resume on another number of hosts reads
on at the right place.

Saving is asynchronous: `save` returns when the state has left the buffers that the next step will
donate, and writing goes on beside training. Does not cover: bit rot, which Orbax does not notice,
and signals.
"""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from coderllm_jax.errors import RunError
from coderllm_jax.training.record import RunRecord

S = TypeVar("S")


class Checkpoints:
    """A folder of checkpoints, written and read by one process."""

    def __init__(self, folder: Path, *, keep_latest: int = 2, keep_best: int = 1) -> None:
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep_latest),
                policies.BestN(get_metric_fn=_eval_loss, reverse=True, n=keep_best),
            ]
        )
        # best_fn as well as the policy: without it Orbax ranks by metrics that it never writes
        # down, and after a restart every older checkpoint would count as one without metrics.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_eval_loss,
            best_mode="min",
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=options,
            # Named here, or a manager that has not saved yet cannot read what a checkpoint holds.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: Any, record: RunRecord) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        A step that is there already stays as it is.
        """
        evaluated = [row["eval_loss"] for row in record.evaluations if row["step"] == record.step]
        loss = evaluated[-1] if evaluated else math.inf
        self._manager.save(
            record.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                record=ocp.args.JsonSave(record.to_json()),
            ),
            # One NaN among the metrics makes Orbax's ranking delete the true best.
            metrics={"eval_loss": math.inf if math.isnan(loss) else loss},
        )

    def restore_latest(self, like: S) -> tuple[S, RunRecord] | None:
        """The newest checkpoint, laid out on devices as `like` is; None if there is none."""
        steps = self.steps()
        return self.restore(steps[-1], like) if steps else None

    def restore(self, step: int, like: S) -> tuple[S, RunRecord]:
        """The checkpoint of `step`; RunError where it does not hold a state such as `like`."""
        place = self._manager.directory / str(step)
        difference = _first_difference(self._manager.item_metadata(step).state, like)
        if difference:
            raise RunError(
                f"{place}: {difference}; expected the state that this configuration trains; "
                "restore the configuration or name another workdir"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
            ),
        )
        return items.state, RunRecord.from_json(items.record)

    def read_record(self, step: int) -> RunRecord:
        """The record of `step` without its arrays."""
        items = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))
        return RunRecord.from_json(items.record)

    def wait(self) -> None:
        """Blocks until everything saved is on disk; raises what a background save raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()


def _eval_loss(metrics: Any) -> float:
    return metrics["eval_loss"]


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
