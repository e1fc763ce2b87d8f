"""Every field of `prepare`. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RowsSection(Section):
    max_prose_tokens: int = option(
        96, "Longest answer in prose; cut at the end of a sentence.", low=8, high=100_000
    )
    max_code_tokens: int = option(
        128, "Longest answer in code; longer examples are left out.", low=8, high=100_000
    )
    max_row_tokens: int = option(
        224,
        "Longest row, its chat turns included, by an estimate that lies above Gemma's count "
        "nearly always: 224 here is at most 256 there.",
        low=32,
        high=1_000_000,
    )
    phrasings: int = option(2, "Ways in which each statement is asked.", low=1, high=8)
    max_statements_per_symbol: int = option(
        0, "Statements kept of each symbol, of as many kinds as possible; 0: all.", low=0
    )
    max_rows: int = option(
        0, "Rows in all; more are cut by whole symbols, those of fewest kinds first; 0: all.", low=0
    )
    near_duplicate: float = option(
        0.8,
        "Jaccard index of 5-word shingles at which a row repeats an earlier one.",
        low=0.3,
        high=1,
    )


@dataclasses.dataclass(frozen=True)
class ChunksSection(Section):
    max_tokens: int = option(200, "Longest chunk, its header included.", low=32, high=100_000)
    scope: str = option(
        "documentation",
        "What chunks say: the whole documentation, or only the statements that rows ask for.",
        choices=("documentation", "trained"),
    )


@dataclasses.dataclass(frozen=True)
class ItemsSection(Section):
    unseen_fraction: float = option(
        0.1, "Part of the symbols of which nothing is trained on.", low=0, high=0.9
    )
    max_items: int = option(400, "Most items of each split, seen and unseen.", low=1)
    questions: str = option(
        "", "JSONL of evaluation items written by hand, to be kept out of training; empty: none."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """What `prepare` reads, how much of it becomes rows, and where it is written."""

    title: ClassVar[str] = (
        "Turns installed packages, source trees and documents into questions and answers, "
        "chunks and evaluation items."
    )

    packages: tuple[str, ...] = option(
        ("optax",), "Installed distributions to read, by the names that pip knows them by."
    )
    standard_library: bool = option(False, "Whether Python's own library is read.")
    source_trees: tuple[str, ...] = option((), "Folders of Python source to read.")
    documents: tuple[str, ...] = option((), "Folders of Markdown and reStructuredText to read.")
    exclude: tuple[str, ...] = option((), "Modules left out, with everything below them.")
    output_dir: str = option(
        "data", "Where training/, chunks/, evaluation/ and manifest.json are written."
    )

    rows: RowsSection = section(RowsSection)
    chunks: ChunksSection = section(ChunksSection)
    evaluation: ItemsSection = section(ItemsSection)

    def check(self) -> None:
        if not (self.packages or self.standard_library or self.source_trees or self.documents):
            raise ConfigError(
                "nothing to read; name something in packages, source_trees or documents, "
                "or set standard_library=True"
            )
        if not self.output_dir:
            raise ConfigError("output_dir is empty; name a folder")
        if len(set(self.packages)) < len(self.packages):
            twice = next(name for name in self.packages if self.packages.count(name) > 1)
            raise ConfigError(f"packages names {twice!r} twice; name it once")


get_config = DataConfig.create_default
