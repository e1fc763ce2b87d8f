"""JSON that others write: small objects that are replaced, and rows of growing files.

JsonFile(path).refresh()   reads it again where it has changed
parse_rows(lines)          the objects among lines; half a line is passed over
dig(values, "a", "b")      values["a"]["b"], or None where there is no such thing
number(value)              a finite number, or None: files of others may hold anything
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MAX_JSON_BYTES = 8 << 20
# Beyond it nothing that anybody measures lies; a loss that gets there has diverged.
_LARGEST = 1e30


class JsonFile:
    """`values`: what it held when it could last be read, {} before that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> bool:
        """Reads the file if it is another one than before; whether there is something new."""
        try:
            stat = self.path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen or stat.st_size > _MAX_JSON_BYTES:
                return False
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        self._seen = seen
        if isinstance(values, dict):
            self.values = values
        return isinstance(values, dict)


def parse_rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The JSON objects among the lines; half a line of a killed process is passed over."""
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def dig(values: Mapping[str, Any], *keys: str) -> Any:
    """What lies below these keys, one in the other; None where there is nothing."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def number(value: Any) -> float | None:
    """The value where it is a finite number that may be squared and summed; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LARGEST else None  # NaN is not less, either
