"""What the monitor itself remembers, in a folder of its own; nobody else's is written to.

    runs/.monitor/
      state.json              firing alerts, history, unsent notifications
      scores.json             what evaluations found, earlier ones of the same folder included
      references/<log>.json   what is usual in a request log, and how far it was judged
      lock                    one monitor at a time

Each file is written whole or not at all. One that cannot be read is set aside and said, because a
monitor that does not start is of no use; what it held is lost, and faults are raised anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from coderllm_jax.errors import RunError

_PRIVATE = 0o700


class StateFolder:
    """Opens the folder for this process alone; RunError where that cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        try:
            path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            self._lock: TextIO = (path / "lock").open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"state_dir {path} cannot be written ({error.strerror or error}); "
                "name another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(
                f"state_dir {path} is in use by another monitor; stop it or name another folder"
            ) from None
        except OSError:  # a file system without locks must not forbid monitoring
            pass

    def read(self, name: str) -> dict[str, Any]:
        """What the file of that name holds; {} where it is not there."""
        path = self.path / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"expected an object, found {type(values).__name__}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            return self.set_aside(name, error)
        return values

    def set_aside(self, name: str, error: Exception) -> dict[str, Any]:
        """Keeps a damaged file out of the way, under another name; returns {}."""
        path = self.path / name
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.damaged"))
        self.problems.append(f"{path}: was damaged and is set aside ({error})")
        return {}

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Whole or not at all; what cannot be written is a problem that is said, not an end."""
        path = self.path / name
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            with unfinished.open("w", encoding="utf-8") as file:
                json.dump(values, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            problem = f"{path}: cannot be written ({error.strerror or error})"
            if problem not in self.problems:
                self.problems.append(problem)

    def close(self) -> None:
        """Lets others have the folder."""
        self._lock.close()
