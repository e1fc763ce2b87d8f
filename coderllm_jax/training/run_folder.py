"""A run's folder: where everything lies, and whose folder it is.

    runs/lora/
      config.json           what was asked
      manifest.json         versions, hashes, devices; `identity` is what a resume must share
      journal.jsonl         what happened to it, see training.journal
      live.yaml             yours: changes a run that is going, see training.live
      processes/            where every process is, see training.watchdog
      kernels.safetensors   a base rounded on the run's rows, see training.calibrated
      training_rows.json    which rows and symbols were trained on, and how often
      metrics/              metrics.jsonl, samples.jsonl, TensorBoard events
      checkpoints/          see training.checkpoint
      adapter/              see training.adapter
      report/               summary.json, index.html, loss.png

The folder belongs to one model, one data set and one way of training. Mesh, paths and periods may
change between sessions, and steps may grow; whatever else differs ends in a RunError with the diff.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.errors import RunError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder. Nothing is created until something is written."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def kernels(self) -> Path:
        return self.path / "kernels.safetensors"

    @property
    def training_rows(self) -> Path:
        return self.path / "training_rows.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def live(self) -> Path:
        return self.path / "live.yaml"

    @property
    def processes(self) -> Path:
        return self.path / "processes"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics"

    @property
    def metrics_log(self) -> Path:
        return self.metrics / "metrics.jsonl"

    @property
    def samples_log(self) -> Path:
        return self.metrics / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def summary(self) -> Path:
        return self.report / "summary.json"

    def check_writable(self) -> None:
        """RunError where a run that is there may be read but not gone on with."""
        if self.path.is_dir() and not os.access(self.path, os.W_OK | os.X_OK):
            raise RunError(
                f"workdir {self.path} may not be written by this user; change its permissions or "
                "name another workdir"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; RunError where another one has it.

        The operating system lets go of the lock when the process ends, however it does.
        """
        self.processes.mkdir(parents=True, exist_ok=True)
        with (self.processes / "lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"workdir {self.path} is in use by another run (its process is in "
                    f"{self.processes / '0.json'}); wait for it, stop it, or name another workdir"
                ) from None
            except OSError as error:  # a file system without locks must not forbid training
                _log.warning("%s cannot be locked (%s); do not start it twice", self.path, error)
            yield

    def check_usable(self) -> bool:
        """Whether a run is here already; RunError where the folder holds something else."""
        if not self.path.exists():
            home = next(parent for parent in self.path.absolute().parents if parent.exists())
            if not (home.is_dir() and os.access(home, os.W_OK)):
                raise RunError(f"workdir {self.path} cannot be made in {home}; name another one")
            return False
        if not self.path.is_dir():
            raise RunError(f"workdir {self.path} is a file; name a folder")
        if self.config.is_file() and self.manifest.is_file():
            return True
        found = sorted(entry.name for entry in self.path.iterdir() if not self._is_beginning(entry))
        if found:
            raise RunError(
                f"workdir {self.path} holds {', '.join(found[:4])} but no run of ours "
                "(config.json and manifest.json); name another workdir or empty this one"
            )
        return False

    def _is_beginning(self, entry: Path) -> bool:
        """Whether a run that was stopped before its manifest leaves this; nothing worth keeping."""
        if entry in (self.live, self.journal, self.processes):
            return True
        if entry in (self.checkpoints, self.metrics):
            return entry.is_dir() and not any(
                inner.is_file() and inner.stat().st_size for inner in entry.rglob("*")
            )
        unfinished = entry.name.startswith(".") and entry.name.endswith(".unfinished")
        return entry.is_file() and (entry in (self.config, self.kernels) or unfinished)

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """RunError, with the differences, where this folder's run is not the one asked for."""
        before = flatten(read_json(self.manifest).get("identity", {}))
        now = flatten(json.loads(json.dumps(identity)))
        changed = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise RunError(
                f"{self.path} holds another run and cannot be continued: {'; '.join(changed)}; "
                "restore these values or name another workdir"
            )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"lora": {"rank": 8}}` becomes `{"lora.rank": 8}`."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; RunError where the file is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read as JSON ({error}); restore it or name another workdir"
        ) from error
    if not isinstance(values, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes whole or not at all; NaN and infinities become null, which every reader takes."""
    text = json.dumps(plain(values), indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def plain(value: Any) -> Any:
    """JSON's own types: tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
