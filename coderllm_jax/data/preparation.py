"""`prepare`, from sources to files. Every step is a module of its own; here is their order.

    material        what is read: trees, harvest, documents → symbols and their statements
    rows            statements worth asking → rows in several phrasings, repetitions gone
    splits          symbols that nothing is trained on
    contamination   evaluation items in phrasings that no row uses; rows that give them away go
    chunks          what retrieval reads
    prepared        files and manifest

What each step leaves out is counted by reason and lands in the manifest. Nothing of what is read
is executed or imported.

Chunks of scope `trained` say the statements that rows ask for. Of unseen symbols they say what
would have been trained on, and lie in a file of their own: retrieval over trained.jsonl knows what
the trained model knows, over both files it knows what is newer too.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax import __version__
from coderllm_jax.config.data import ChunksSection, DataConfig
from coderllm_jax.data.chunks import documentation_chunks, statement_chunks
from coderllm_jax.data.contamination import drop_contaminated, select_items
from coderllm_jax.data.dedupe import near_duplicates
from coderllm_jax.data.material import Material, read_material
from coderllm_jax.data.prepared import (
    PreparedData,
    find_former,
    is_prepared,
    read_chunks,
    read_evaluation_items,
    was_interrupted,
    write_prepared,
)
from coderllm_jax.data.rows import Dropped, TrainingRow, grouped, make_rows, select_statements
from coderllm_jax.data.splits import choose_unseen, group_subjects
from coderllm_jax.data.statements import Bounds, Statement
from coderllm_jax.data.tokens import TokenCounter, estimate_tokens, row_tokens
from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk, EvalItem

__all__ = [
    "PreparedData",
    "is_prepared",
    "prepare_data",
    "read_chunks",
    "read_evaluation_items",
    "was_interrupted",
]

_NEAR_CHUNK = 0.9  # Jaccard index at which a chunk repeats another


def prepare_data(
    config: DataConfig, *, count_tokens: TokenCounter = estimate_tokens
) -> PreparedData:
    """Reads what the configuration names and writes rows, chunks, items and a manifest.

    `count_tokens` measures texts against the bounds. Raises DataError for a source that is
    missing, unreadable or empty, and where nothing is left to train on.
    """
    with _without_garbage_collection():
        return _prepare(config, count_tokens)


def _prepare(config: DataConfig, count_tokens: TokenCounter) -> PreparedData:
    config = _at_home(config)
    find_former(Path(config.output_dir))  # a folder that cannot be written to is told at once
    questions = (
        read_evaluation_items(config.evaluation.questions) if config.evaluation.questions else []
    )
    bounds = Bounds(config.rows.max_prose_tokens, config.rows.max_code_tokens, count_tokens)
    material = read_material(config, bounds)
    dropped = material.dropped
    statements = select_statements(
        material.statements, config.rows, count=count_tokens, dropped=dropped
    )
    groups = group_subjects(material.subjects)
    unseen = choose_unseen(groups, fraction=config.evaluation.unseen_fraction)
    kept_apart = [statement for statement in statements if statement.symbol in unseen]
    to_train = [statement for statement in statements if statement.symbol not in unseen]
    rows = make_rows(to_train, config.rows, dropped=dropped)
    selection = select_items(rows, kept_apart, max_items=config.evaluation.max_items)
    rows, contamination = drop_contaminated(rows, selection, questions)
    if not rows:
        raise DataError(
            f"no training row is left of {len(material.subjects)} symbols in "
            f"{', '.join(source['name'] for source in material.sources)}; name more to read, "
            "raise the bounds in rows, or lower evaluation.unseen_fraction"
        )
    items = _still_right(selection.items, rows, dropped)
    if config.chunks.scope == "trained":
        chunks = _statement_chunks(rows, kept_apart, config.chunks, count_tokens)
    else:
        chunks = _documentation_chunks(material, config.chunks, count_tokens)
    chunks = _without_repeated(chunks, dropped)

    files: dict[str, Sequence[Any]] = {
        f"training/{source}.jsonl": [row.fields() for row in members]
        for source, members in _by_source(rows).items()
    }
    files["chunks/trained.jsonl"] = [chunk for chunk in chunks if chunk.symbol not in unseen]
    files["chunks/unseen.jsonl"] = [chunk for chunk in chunks if chunk.symbol in unseen]
    files["evaluation/seen.jsonl"] = [item for item in items if item.split == "seen"]
    files["evaluation/unseen.jsonl"] = [item for item in items if item.split == "unseen"]
    lengths = [row_tokens(row.question, row.answer, count=count_tokens) for row in rows]
    manifest = {
        "format": 1,
        "coderllm_jax": __version__,
        "config": _reproducible(config),
        "sources": material.sources,
        "counts": {
            "symbols": len(groups),
            "symbols_trained": len({row.statement.symbol for row in rows}),
            "symbols_unseen": len(unseen),
            "statements_trained": len({row.statement.key for row in rows}),
            "training_rows": len(rows),
            "training_rows_by_kind": _tally(row.statement.kind for row in rows),
            "training_tokens_estimated": sum(lengths),
            "longest_row_tokens_estimated": max(lengths),
            "chunks_trained": len(files["chunks/trained.jsonl"]),
            "chunks_unseen": len(files["chunks/unseen.jsonl"]),
            "items_seen": len(files["evaluation/seen.jsonl"]),
            "items_seen_by_kind": _tally(i.kind for i in items if i.split == "seen"),
            "items_unseen": len(files["evaluation/unseen.jsonl"]),
            "items_unseen_by_kind": _tally(i.kind for i in items if i.split == "unseen"),
            "items_with_tests": sum(bool(item.tests) for item in items),
        },
        "dropped": dict(sorted((reason, count) for reason, count in dropped.items() if count)),
        "contamination": contamination,
        "unseen_symbols": sorted(unseen),
    }
    # A file without rows would be taken for a damaged one by whoever reads the folder.
    files = {name: members for name, members in files.items() if members}
    return write_prepared(Path(config.output_dir), files, manifest)


def _at_home(config: DataConfig) -> DataConfig:
    """With `~` written out in every path: a shell leaves it alone behind an equals sign."""

    def expand(path: str) -> str:
        return str(Path(path).expanduser()) if path.startswith("~") else path

    return dataclasses.replace(
        config,
        output_dir=expand(config.output_dir),
        source_trees=tuple(map(expand, config.source_trees)),
        documents=tuple(map(expand, config.documents)),
    )


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collections off. Syntax trees and rows hold no cycles, yet by their millions trigger them.

    Parsing jax alone took 9.6 s with collections and 2.9 s without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _still_right(
    items: list[EvalItem], rows: list[TrainingRow], dropped: Dropped
) -> list[EvalItem]:
    """Without seen items about statements whose rows were all contaminated."""
    trained = {f"seen:{row.statement.key}" for row in rows}
    kept = [item for item in items if item.split == "unseen" or item.id in trained]
    dropped["evaluation item: its rows were all contaminated"] += len(items) - len(kept)
    return kept


def _statement_chunks(
    rows: list[TrainingRow],
    kept_apart: list[Statement],
    options: ChunksSection,
    count: TokenCounter,
) -> list[Chunk]:
    asked = {row.statement.key: row.statement for row in rows}
    by_symbol = grouped([*asked.values(), *kept_apart], lambda statement: statement.symbol)
    return [
        chunk
        for _, members in sorted(by_symbol.items())
        for chunk in statement_chunks(members, limit=options.max_tokens, count=count)
    ]


def _documentation_chunks(
    material: Material, options: ChunksSection, count: TokenCounter
) -> list[Chunk]:
    return [
        chunk
        for symbol, text in sorted(material.texts.items())
        for chunk in documentation_chunks(
            text.text,
            symbol=symbol,
            header=text.header,
            source=text.source,
            license=text.license,
            limit=options.max_tokens,
            count=count,
        )
    ]


def _without_repeated(chunks: list[Chunk], dropped: Dropped) -> list[Chunk]:
    near = near_duplicates([chunk.text for chunk in chunks], threshold=_NEAR_CHUNK)
    dropped["chunk: nearly repeats another"] += len(near)
    return [chunk for position, chunk in enumerate(chunks) if position not in near]


def _by_source(rows: list[TrainingRow]) -> dict[str, list[TrainingRow]]:
    """Rows by the file they go to, sorted by symbol and statement within it."""
    ordered = sorted(rows, key=lambda row: (row.statement.symbol, row.statement.key, row.question))
    groups = grouped(ordered, lambda row: row.statement.source.partition(" ")[0])
    return dict(sorted(groups.items()))


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))


def _reproducible(config: DataConfig) -> dict[str, Any]:
    """The configuration without what differs from machine to machine."""
    fields = config.to_dict()
    del fields["output_dir"]
    for key in ("source_trees", "documents"):
        fields[key] = [Path(folder).name for folder in fields[key]]
    fields["evaluation"]["questions"] = Path(fields["evaluation"]["questions"]).name
    return fields
