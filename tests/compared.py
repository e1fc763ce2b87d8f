"""A small world to compare in: rows, items and chunks about 24 symbols, and a tiny run.

`python -m tests.compared CONFIG.json [ANSWERS]` compares as CONFIG says, with an embedder that
loads nothing, and prints the results' hash; after so many answers it kills itself, as nobody can
tell it not to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from coderllm_jax import ComparisonConfig, run_comparison, train_model
from coderllm_jax.comparison import arms, rounds
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.evaluation.asking import Kept
from tests.retrieval.hash_embedder import HashEmbedder

_ORIGIN = {"source": "m 1", "license": "MIT"}
_SEEN, _NEWER = range(18), range(18, 24)


def write_world(folder: Path) -> None:
    """Rows, evaluation items and chunks, as `prepare` writes them."""
    rows, items, trained, newer = [], [], [], []
    for n in (*_SEEN, *_NEWER):
        symbol = {"symbol": f"m.f{n}", **_ORIGIN}
        answer = f"Its value is `{n}.5`, always."
        chunk = {"id": f"m.f{n}#0", "text": f"m.f{n}\nIts value is {n}.5.", **symbol}
        is_seen = n in _SEEN
        (trained if is_seen else newer).append(chunk)
        split = "seen" if is_seen else "unseen"
        items.append(
            {"id": f"{split}:m.f{n}:argument:value", "split": split, "facts": [f"{n}.5"]}
            | {"question": f"Tell me the value of m.f{n}.", "answer": answer}
            | {"kind": "argument", "tests": "", **symbol}
        )
        if is_seen:
            rows.append(
                {"question": f"What is the value of m.f{n}?", "answer": answer}
                | {"kind": "argument", **symbol}
            )
    for name, lines in (
        ("rows.jsonl", rows),
        ("items.jsonl", items),
        ("chunks/trained.jsonl", trained),
        ("chunks/unseen.jsonl", newer),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def train_run(folder: Path) -> None:
    """A tiny run over the world's rows: every one of them twice."""
    config = TrainingConfig.create_default()
    config.update(model_name="tiny", workdir=str(folder / "run"), batch_size=4, epochs=2)
    config.data.path = str(folder / "rows.jsonl")
    config.data.sequence_length = 128
    config.evaluation.samples = 0
    config.logging.clu = config.logging.progress = False
    config.model.cache_dir = str(folder / "cache")
    train_model(config)


def small_config(folder: Path, workdir: Path, **changes: Any) -> Any:
    """A comparison in that world that takes seconds."""
    config = ComparisonConfig.create_default()
    config.update(
        run=str(folder / "run"),
        workdir=str(workdir),
        items_path=str(folder / "items.jsonl"),
        chunks_path=str(folder / "chunks"),
        max_items=8,
        unseen_items=3,
        max_new_tokens=6,
        clu=False,
    )
    config.generation.num_slots = 4
    config.generation.max_length = 512
    config.validation.items = 2
    config.validation.passages = (2, 1)
    config.validation.shots = (1, 0)
    config.speed.alone_items = 6
    config.speed.alone_tokens = 3
    config.consistency.items = 3
    config.retrieval.index_dir = str(folder / "index")
    config.retrieval.passage_tokens = 64
    config.model.cache_dir = str(folder / "cache")
    config.update(changes)
    return config


def compare(config: Mapping[str, Any]) -> Any:
    """Compares without an embedding model."""
    with mock.patch.object(arms, "make_embedder", return_value=HashEmbedder()):
        return run_comparison(config)


def _kill_after(answers: int) -> None:
    kept = 0

    class Mortal(Kept):
        def add(self, key: str, value: Mapping[str, Any]) -> None:
            nonlocal kept
            super().add(key, value)
            kept += self._name == "asked"
            if kept == answers:
                os.kill(os.getpid(), signal.SIGKILL)

    rounds.Kept = Mortal


def main() -> None:
    if len(sys.argv) > 2:
        _kill_after(int(sys.argv[2]))
    values = json.loads(Path(sys.argv[1]).read_text())
    print(compare(values).results["results_sha256"])


if __name__ == "__main__":
    main()
