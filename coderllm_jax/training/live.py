"""live.yaml in a run's folder: looked at before every step, by process 0, read when it has changed.

    learning_rate_scale: 0.5        # of the schedule, from the next step on
    evaluation: {every_steps: 10}
    stop: true                      # once: saved, exit 0; starting again goes on

A file that does not hold what it may is rejected as a whole, with the reason in journal.jsonl and
on the terminal; what was in force stays so. An empty or removed file is the configuration again.

Every accepted change is journalled with its step. A run that was killed and goes on from an earlier
checkpoint makes the changes anew at the steps at which it made them, so it computes what it would
have computed; unless the file says something else by then, which holds at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.config.live import parse_live
from coderllm_jax.errors import ConfigError
from coderllm_jax.training.journal import Journal


class LiveFile:
    """The values in force, by option path."""

    def __init__(
        self,
        path: Path,
        journal: Journal,
        *,
        values: Mapping[str, Any],
        step: int,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`values` are those of the checkpoint gone on from, which was made after `step`."""
        self._path, self._journal, self._note = path, journal, note
        self._values = dict(values)
        self._stamp: Any = None
        self._last_look = self._look()
        self.wants_stop = False
        changes = [row for row in journal.read() if row["event"] in ("live", "live_rejected")]
        self._sha256 = changes[-1]["sha256"] if changes else _sha256(b"")
        self._replay: dict[int, Mapping[str, Any]] = {}
        if _sha256(self._read()) == self._sha256:
            for row in changes:
                if row["event"] == "live":
                    # A session that had gone back wrote over what an earlier one did later.
                    self._replay = {at: v for at, v in self._replay.items() if at < row["step"]}
                    self._replay[row["step"]] = row
            self._replay = {at: v for at, v in self._replay.items() if at > step}

    def values(self, step: int) -> dict[str, Any]:
        """What holds for `step`, after a look at the file."""
        if step in self._replay:
            change = self._replay.pop(step)
            self._values, self.wants_stop = dict(change["values"]), change["stop"]
        stamp, before = self._look(), self._last_look
        self._last_look = stamp
        if stamp != self._stamp:
            data = self._read()
            # Editors empty a file before they write it: emptiness is believed once it stays.
            if data or stamp in (None, before):
                self._stamp = stamp
                if _sha256(data) != self._sha256:
                    self._sha256 = _sha256(data)
                    self._take(data, step)
        return dict(self._values)

    def _take(self, data: bytes, step: int) -> None:
        try:
            values = parse_live(data.decode("utf-8"), name=self._path.name)
        except (ConfigError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            self._journal.write("live_rejected", step, {"reason": reason, "sha256": self._sha256})
            self._note(f"{self._path.name} is rejected, nothing changes: {reason}")
            return
        self._replay.clear()
        self.wants_stop = bool(values.pop("stop", False))
        before, self._values = self._values, values
        changed = {
            name: [before.get(name), values.get(name)]
            for name in sorted(before.keys() | values.keys())
            if before.get(name) != values.get(name)
        }
        details = {"values": values, "changed": changed, "stop": self.wants_stop}
        self._journal.write("live", step, {**details, "sha256": self._sha256})
        told = [f"{name} is {new if new is not None else 'as configured'}"
                for name, (_, new) in changed.items()]  # fmt: skip
        told += ["the run stops"] * self.wants_stop
        self._note(f"{self._path.name}, from step {step}: {', '.join(told) or 'nothing changes'}")

    def _look(self) -> Any:
        """Something that changes whenever the file does; costs one system call."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
