"""New whole lines of files that others write, without reading anything twice.

    LineTail     one file that grows, or is replaced as a whole (metrics.jsonl of a resumed run)
    LogTail      a log that is rotated: what the old file still holds is read, then the new one;
                 what was rotated away while nobody looked is read first

Half a line at the end stays for the next look. That a file is another one is told by its inode, its
size and the last bytes that were read: an inode may be used again, and a file may be cut and grow
past where it was.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

# One look reads this much at most: a page stays quick while a long log is caught up with.
_CHUNK_BYTES = 1 << 20
_ANCHOR_BYTES = 64


class Lines(NamedTuple):
    """What one look found. restarted: everything from before is void. more: look again at once."""

    lines: list[bytes]
    restarted: bool = False
    more: bool = False


class LineTail:
    """Whole lines of one file as they come; a cut or replaced file begins anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None  # inode, size and mtime of the last look
        self._inode = -1
        self._offset = 0
        self._anchor = b""
        self._is_inside_long_line = False

    def read(self) -> Lines:
        """Lines that are new since the last look; none where the file is not there."""
        try:
            stat = self.path.stat()
        except OSError:
            return Lines([])
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen == self._seen:
            return Lines([])
        try:
            with self.path.open("rb") as file:
                restarted = self._has_changed(file)
                if restarted:
                    self._offset, self._anchor = 0, b""
                self._inode = os.fstat(file.fileno()).st_ino
                lines, more = self._read_chunk(file)
        except OSError:
            return Lines([])
        self._seen = None if more else seen
        return Lines(lines, restarted, more)

    def _has_changed(self, file: BinaryIO) -> bool:
        stat = os.fstat(file.fileno())
        if self._offset == 0:
            return False
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            return True
        file.seek(self._offset - len(self._anchor))
        return file.read(len(self._anchor)) != self._anchor

    def _read_chunk(self, file: BinaryIO) -> tuple[list[bytes], bool]:
        file.seek(self._offset)
        data = file.read(_CHUNK_BYTES)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _CHUNK_BYTES:  # no log of ours has such lines: not kept whole
            self._is_inside_long_line = True
            self._advance(data)
            return [], True
        whole = data[:end]
        self._advance(whole)
        lines = whole.split(b"\n")[:-1]
        if self._is_inside_long_line and lines:
            self._is_inside_long_line = False
            lines[0] = b"(too long)"
        return lines, len(data) == _CHUNK_BYTES

    def _advance(self, data: bytes) -> None:
        self._offset += len(data)
        self._anchor = (self._anchor + data[-_ANCHOR_BYTES:])[-_ANCHOR_BYTES:]


class LogTail:
    """Whole lines of a log that is renamed, copied and truncated, or begun anew by its owner.

    The file stays open, so that lines which were written between the last look and a renaming are
    read from the renamed file before the new one is begun. What a copy took away between the last
    look and the truncation is not read.
    """

    def __init__(self, path: Path, *, since: float | None = None) -> None:
        """`since`, Unix seconds: of NAME.1, NAME.2 … those written to later are read first.

        They are what a log's owner renamed, oldest last; compressed ones are not read.
        """
        self.path = path
        self._since = since
        self._tail = _OpenFile()
        self._older: list[_OpenFile] = []

    def read(self) -> Lines:
        """Lines that are new since the last look."""
        if not self._tail.is_open:
            if not self._tail.open(self.path):
                return Lines([])
            self._open_older()
        if self._older:
            return self._read_older(self._older[-1])
        lines, more = self._tail.read()
        if more:
            return Lines(lines, more=True)
        if self._tail.is_replaced(self.path):
            # Once more: its writer may have added lines between the two looks at it.
            last, _ = self._tail.read(to_end=True)
            self._tail.close()
            return Lines(lines + last, more=self._tail.open(self.path))
        return Lines(lines)

    def close(self) -> None:
        """Lets go of the file."""
        for file in (self._tail, *self._older):
            file.close()

    def _open_older(self) -> None:
        """Only once, and all together: their names change while they are read."""
        since, self._since = self._since, None
        if since is None:
            return
        seen = {self._tail.identity}
        for number in itertools.count(1):
            file = _OpenFile()
            if not file.open(self.path.with_name(f"{self.path.name}.{number}")):
                return
            if file.written <= since:
                file.close()
                return
            if file.identity in seen:  # it was renamed this moment
                file.close()
            else:
                seen.add(file.identity)
                self._older.append(file)

    def _read_older(self, file: _OpenFile) -> Lines:
        lines, more = file.read()
        if not more:
            last, _ = file.read(to_end=True)
            lines += last
            self._older.remove(file)
            file.close()
        return Lines(lines, more=True)


class _OpenFile:
    """A file that is held open, and how far it was read."""

    def __init__(self) -> None:
        self._file: io.FileIO | None = None
        self._rest = self._anchor = b""

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, which a renaming does not change."""
        stat = self._stat()
        return stat.st_dev, stat.st_ino

    @property
    def written(self) -> float:
        """When it was written to last, Unix seconds."""
        return self._stat().st_mtime

    def open(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            # Without a buffer, which would hold what a truncated file was.
            self._file, self._rest, self._anchor = path.open("rb", buffering=0), b"", b""
        return self.is_open

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def is_replaced(self, path: Path) -> bool:
        """Whether `path` is another file by now; one that is not there yet is waited for."""
        try:
            return not os.path.samestat(path.stat(), self._stat())
        except OSError:
            return False

    def read(self, *, to_end: bool = False) -> tuple[list[bytes], bool]:
        """New whole lines; with `to_end` the half one at the end, too, because none will follow."""
        assert self._file is not None
        try:
            if self._is_truncated(self._file):
                self._file.seek(0)
                self._rest = self._anchor = b""
            data = self._file.read(_CHUNK_BYTES)
        except OSError:
            return [], False
        self._anchor = (self._anchor + data[-_ANCHOR_BYTES:])[-_ANCHOR_BYTES:]
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _CHUNK_BYTES:
            self._rest = b"(too long)"
        if to_end and self._rest:
            lines.append(self._rest)
        return lines, len(data) == _CHUNK_BYTES

    def _stat(self) -> os.stat_result:
        assert self._file is not None
        return os.fstat(self._file.fileno())

    def _is_truncated(self, file: io.FileIO) -> bool:
        """Whether what was read last is there no more, however large the file has become."""
        start = file.tell() - len(self._anchor)
        return os.pread(file.fileno(), len(self._anchor), start) != self._anchor
