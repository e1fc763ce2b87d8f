r"""One JSON line a request, in a file that is rotated by size: what the monitor and people read.

    {"time": 1764170000.125, "id": "chatcmpl-5f0c…", "arm": "trained", "model_version":
     "9f2b6c01d4e8", "operation": "chat", "status": 200, "finish": "stop", "error": "",
     "streamed": true, "num_choices": 1, "prompt_tokens": 21, "completion_tokens": 64,
     "queue_s": 0.003, "ttft_s": 0.21, "time_per_token_s": 0.031, "total_s": 2.2,
     "num_sources": 0, "retrieval_s": null, "top_score": null, "mean_logprob": null,
     "refused": false}

    time               when the request came, seconds since 1970
    id                 the answer's id, as the client was told
    arm                the model: base, trained, rag, trained-rag; "" where none was known
    model_version      12 hexadecimal digits, others for other weights, prompts, settings, indexes
    operation          chat or completion
    status             of HTTP; 499: the client left; 504: the deadline passed; a stream that failed
                       after it had begun has what it would have been
    finish             stop, length, cancelled, deadline, error; "": refused before it was begun
    error              OpenAI's code of what went wrong, such as queue_full; "" if nothing did
    streamed           whether the client asked for a stream
    num_choices        answers asked for: n times the prompts
    prompt_tokens, completion_tokens
                       over all choices; 0 where it never came to that
    queue_s            from coming to the beginning of the first choice
    ttft_s             from coming to the first token
    time_per_token_s   mean over the tokens after the first, over all choices
    total_s            from coming to the last token, or to the refusal
    num_sources        passages that the first choice rests on; 0 for arms that look nothing up
    retrieval_s        seconds that looking up took; null where nothing was looked up
    top_score          the best of those passages' retrieval scores
    mean_logprob       mean log-probability of the answer's tokens, where it was computed
    refused            whether the answer is retrieval's "nothing relevant was found"
    question, answer   only with log.text; credentials and key-shaped strings blotted out

What is not known is null, never 0. A line is one write at the file's end, so a reader sees whole
lines or, for a moment, the beginning of one; of a line that does not fit on the disk nothing stays.
A file that would grow past its limit is renamed to NAME.1, the one before to NAME.2, and so on; the
oldest is dropped. Where that cannot be done, the file goes on growing and it is tried again a
minute later. Only its owner may read it, and only one server writes it: the file is locked.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coderllm_jax.errors import RunError

_PRIVATE = 0o600
_RETRY_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """A line; this module's first lines say what each field is."""

    time: float
    id: str
    arm: str = ""
    model_version: str = ""
    operation: str = ""
    status: int = 200
    finish: str = ""
    error: str = ""
    streamed: bool = False
    num_choices: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float | None = None
    ttft_s: float | None = None
    time_per_token_s: float | None = None
    total_s: float | None = None
    num_sources: int = 0
    retrieval_s: float | None = None
    top_score: float | None = None
    mean_logprob: float | None = None
    refused: bool = False
    question: str | None = None
    answer: str | None = None

    def as_line(self) -> bytes:
        """JSON and a line break; text is there only where it was kept."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        for name in ("question", "answer"):
            if fields[name] is None:
                del fields[name]
        for name, value in fields.items():
            if isinstance(value, float):
                fields[name] = round(value, 6)
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


class RequestLog:
    """The file. Not for several threads; a write may raise OSError."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        num_kept: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or makes it, with its folder; RunError where another server has it.

        num_kept: rotated files beside the current one.
        """
        self.path = path
        self._max_bytes, self._num_kept, self._now_s = max_bytes, num_kept, now_s
        try:
            self._file, self._size = self._open()
        except BlockingIOError:
            raise RunError(
                f"log.path {path} is written by another server; stop it, or give this one a "
                "log.path of its own"
            ) from None
        self._rotates_from_s = -float("inf")

    def write(self, record: RequestRecord) -> None:
        """Adds a line, in a new file where it would not fit into this one."""
        line = record.as_line()
        is_full = self._size and self._size + len(line) > self._max_bytes
        if is_full and self._now_s() >= self._rotates_from_s:
            try:
                self._rotate()
            except OSError as error:
                self._rotates_from_s = self._now_s() + _RETRY_S
                logging.getLogger(__name__).warning(
                    "%s cannot be rotated (%s) and grows past log.max_bytes; tried again in %g s",
                    self.path,
                    error.strerror,
                    _RETRY_S,
                )
        self._append(line)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)

    def _open(self) -> tuple[int, int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self.path, flags, _PRIVATE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError as error:  # a file system without locks must not forbid serving
            logging.getLogger(__name__).warning(
                "%s cannot be locked (%s); give no other server the same log.path",
                self.path,
                error.strerror,
            )
        return file, os.fstat(file).st_size

    def _append(self, line: bytes) -> None:
        """All of the line or nothing: half of it would spoil the next one too."""
        num_written = 0
        try:
            while num_written < len(line):
                num_written += os.write(self._file, line[num_written:])
        except OSError:
            if num_written:
                os.ftruncate(self._file, os.fstat(self._file).st_size - num_written)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        """The old file is let go of last: whatever fails, there is one to write to."""
        if not self._num_kept:
            self.path.unlink(missing_ok=True)
        # Up to the first name that is free, so that another try after a failure drops nothing.
        free = 0
        while free < self._num_kept and self._numbered(free).exists():
            free += 1
        for number in range(free, 0, -1):
            self._numbered(number - 1).replace(self._numbered(number))
        opened, old = self._open(), self._file
        self._file, self._size = opened
        os.close(old)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path
