"""Answers that are asked for once: a cache of answers that survives a kill.

    queries ── those known by their key ──────────────────────────────────► answers
            └─ the others ──► answerer ──► answers.jsonl, a line each as it ends ─┘

    answers.jsonl
      {"key": "5f1c…", "answer": {"id": "qa/17", "text": "…", "finish": "stop", ...}}

The key is a digest of everything that can change an answer: the answerer's identity (weights,
prompt style, engine setting) and the query itself, but for its id. A line that a kill has cut is
passed over, and its query asked again. An answer that ended in an error is not kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Answer, Answerer, Query, Source, TokenLogprob


class Asker:
    """Asks one answerer, through a file of answers. Call it with queries."""

    def __init__(
        self,
        answerer: Answerer,
        path: Path,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`progress` is told (answered, to be asked) after every answer of a call."""
        self._answerer, self._path, self._progress = answerer, path, progress
        identity = json.dumps(answerer.identity, sort_keys=True, default=str)
        self._identity = hashlib.sha256(identity.encode()).hexdigest()
        self._known = dict(read_kept(path, "answer"))
        self.num_asked = self.num_known = 0

    def __call__(self, queries: Sequence[Query]) -> list[Answer]:
        """Answers in the queries' order, under the queries' ids; what is asked twice, once."""
        keys = [self._key(query) for query in queries]
        unknown: dict[str, Query] = {}
        for query, key in zip(queries, keys, strict=True):
            if key not in self._known:
                unknown.setdefault(key, query)
        key_of = {query.id: key for key, query in unknown.items()}
        fresh: dict[str, Answer] = {}
        self.num_known += len(set(keys)) - len(unknown)
        with Kept(self._path) as kept:

            def take(query: Query, answer: Answer) -> None:
                key = key_of[query.id]
                fresh[key] = answer
                if answer.finish in ("stop", "length"):
                    self._known[key] = to_json(answer)
                    kept.add(key, self._known[key])
                self._progress(len(fresh), len(unknown))

            answer_all(self._answerer, list(unknown.values()), take)
        self.num_asked += len(unknown)
        return [
            dataclasses.replace(fresh.get(key) or from_json(self._known[key]), id=query.id)
            for query, key in zip(queries, keys, strict=True)
        ]

    def _key(self, query: Query) -> str:
        asked = dataclasses.asdict(query) | {"id": "", "answerer": self._identity}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Kept:
    """A file of key and value lines that grows; each is whole once it is there."""

    def __init__(self, path: Path, *, name: str = "answer") -> None:
        self._path, self._name = path, name
        self._file: TextIO | None = None

    def add(self, key: str, value: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the operating system, which outlives this process."""
        assert self._file is not None
        line = json.dumps({"key": key, self._name: value}, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()

    def __enter__(self) -> Kept:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cut = self._path.is_file() and not _ends_a_line(self._path)
        # Half a surrogate, which JSON can hold and UTF-8 cannot, is written as JSON's own escape.
        self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        if cut:
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()


def read_kept(path: Path, name: str) -> dict[str, Any]:
    """What `Kept` has written, by key; lines that are not whole are passed over."""
    found: dict[str, Any] = {}
    if not path.is_file():
        return found
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                found[row["key"]] = row[name]
            except (ValueError, KeyError, TypeError):
                continue
    return found


def to_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values; times become durations since it was handed in."""
    values = dataclasses.asdict(answer)
    for name in ("started_s", "first_token_s", "finished_s"):
        values[name] = max(0.0, values[name] - answer.submitted_s)
    return values | {
        "submitted_s": 0.0,
        "sources": [source._asdict() for source in answer.sources],
        "logprobs": [list(each) for each in answer.logprobs],
    }


def from_json(values: Mapping[str, Any]) -> Answer:
    """The answer that `to_json` wrote, of this version or another."""
    known = {field.name for field in dataclasses.fields(Answer)}
    return Answer(
        **{
            **{name: value for name, value in values.items() if name in known},
            "sources": tuple(Source(**source) for source in values["sources"]),
            "logprobs": tuple(
                TokenLogprob(token, logprob, tuple(map(tuple, others)))
                for token, logprob, others in values["logprobs"]
            ),
        }
    )


class AnswerProgress:
    """A line about how far a list of questions is, with the time left; on stderr.

    In place on a terminal; elsewhere at most one line in `every_s` seconds.
    """

    def __init__(self, what: str, *, stream: TextIO | None = None, every_s: float = 15.0) -> None:
        self._what, self._stream, self._every_s = what, stream or sys.stderr, every_s
        self._begun_s = self._shown_s = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Shows it, where it is time to."""
        now_s = time.monotonic()
        if self._first is None:
            self._first, self._begun_s = done - 1, now_s
        in_place = self._stream.isatty()
        if done < total and not in_place and now_s - self._shown_s < self._every_s:
            return
        self._shown_s = now_s
        fresh = done - self._first
        left_s = (now_s - self._begun_s) / fresh * (total - done)
        text = f"{self._what}  {done}/{total}"
        if done < total:
            text += f" │ {int(left_s) // 60}:{int(left_s) % 60:02d} left"
        start, end = ("\r\x1b[2K", "" if done < total else "\n") if in_place else ("", "\n")
        self._stream.write(f"{start}{text}{end}")
        self._stream.flush()


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if not file.tell():
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
