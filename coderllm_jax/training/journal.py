"""journal.jsonl: what happened to a run, one JSON object a line, never shortened.

    {"time": 1.7e9, "step": 0,  "event": "started",  "process_count": 1, ...}
    {"time": 1.7e9, "step": 37, "event": "skipped",  "reason": "spike", "rows": ["a.jsonl:17", ...]}
    {"time": 1.7e9, "step": 40, "event": "live",     "values": {"learning_rate_scale": 0.5}, ...}
    {"time": 1.7e9, "step": 52, "event": "interrupted", "signal": "SIGTERM"}

metrics.jsonl is a run's figures and is cut back to the checkpoint that a resume goes on from. This
is its history: a step that was computed twice may stand in it twice.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.training.run_folder import plain

_log = logging.getLogger(__name__)


class Journal:
    """Appends events; the file is opened for each, because there are few."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: this process keeps none (all but the first of several)."""
        self._path = path

    def write(self, event: str, step: int, details: Mapping[str, Any] | None = None) -> None:
        """One line. A journal that cannot be written is said, and does not end a run."""
        if self._path is None:
            return
        row = {"time": time.time(), "step": step, "event": event, **(details or {})}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                if self._ends_in_half_a_line():
                    file.write("\n")
                file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            _log.warning("%s: event %r was not written (%s)", self._path, event, error)

    def _ends_in_half_a_line(self) -> bool:
        """What a full disk or a killed process may leave; an event appended to it would be lost."""
        assert self._path is not None
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            return file.read() not in (b"", b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Every whole event, oldest first; half a line of a killed process is passed over."""
        if self._path is None or not self._path.is_file():
            return []
        rows = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "event" in row:
                rows.append(row)
        return rows
