"""metrics.jsonl and samples.jsonl: one JSON object a line, written as it happens, read by anyone.

    {"step": 19, "time": 1.7e9, "loss": 3.51, "learning_rate": 0.001, "tokens_per_s": 812.0, ...}
    {"step": 20, "time": 1.7e9, "loss": 3.44, ...}
    {"step": 20, "time": 1.7e9, "eval_loss": 3.29, "perplexity": 26.8, "token_accuracy": 0.41, ...}

A killed process may leave half a line at the end: readers pass over it, and a resume removes it
together with every row that lies after the checkpoint it goes on from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.errors import RunError
from coderllm_jax.records import Sample
from coderllm_jax.training.run_folder import RunFolder, plain


class JsonLinesWriter:
    """Appends rows and samples; each line reaches the file before `write` returns.

    Raises RunError, naming the file, where that fails: without its figures a run is worth little.
    """

    def __init__(
        self, folder: RunFolder, *, resumed_from: int | None, owes_evaluation: bool = False
    ) -> None:
        """`resumed_from` is the step of the checkpoint continued from; None starts anew.

        `owes_evaluation`: that step is evaluated now; what an earlier session, which was killed
        afterwards, has written of it would stand there twice.
        """
        last = -1 if resumed_from is None else resumed_from
        with _naming(folder.metrics_log):
            folder.metrics.mkdir(parents=True, exist_ok=True)
            _keep_through(folder.metrics_log, last, owes_evaluation=owes_evaluation)
            self._rows = folder.metrics_log.open("a", encoding="utf-8")
        with _naming(folder.samples_log):
            _keep_through(folder.samples_log, last - owes_evaluation)
            self._samples = folder.samples_log.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """One line."""
        with _naming(self._rows.name):
            self._rows.write(json.dumps(plain(row), allow_nan=False) + "\n")
            self._rows.flush()

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """One line a sample."""
        with _naming(self._samples.name):
            for sample in samples:
                line = {"step": step, **sample._asdict()}
                self._samples.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._samples.flush()

    def close(self) -> None:
        """Closes both files."""
        with _naming(self._rows.name), contextlib.closing(self._samples):
            self._rows.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every whole row, in order; nothing where the file is not there yet."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    # Not splitlines: an answer may hold U+2028, which ends a line for Python and not for JSON.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # half a line, left by a process that was killed
        if isinstance(row, dict):
            yield row


@contextlib.contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); make room or give access, "
            "then run the same command again to go on from the last checkpoint"
        ) from error


def _keep_through(path: Path, step: int, *, owes_evaluation: bool = False) -> None:
    """Drops rows after `step` and anything that is not a row."""
    if not path.is_file():
        return
    kept = [
        json.dumps(row, ensure_ascii=False) + "\n"
        for row in _rows(path)
        if row["step"] <= step
        and not (owes_evaluation and row["step"] == step and "eval_loss" in row)
    ]
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)
