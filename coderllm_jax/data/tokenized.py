"""Examples as token ids in one flat array, tokenized once and shared by every reader.

    tokens      <bos> A A A <bos> B B B B <bos> C ...     int32, all examples end to end
    supervised    0   0 1 1   0   0 0 1 1   0   0 ...     bool, part of an answer
    offsets     0             4             9 ...         int64, one more than there are examples
    sources     0             1             3 ...         int64, place in the list that was given
                                                          (example 2 was too long and was dropped)

Saved to a folder, the arrays are memory-mapped, and worker processes get the folder's name instead
of a copy. Owns what happens to an example that is too long.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.data.prompts import Encoded, encode_conversations
from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example

_EXAMPLES_A_BATCH = 1024
_FIELDS = ("tokens", "supervised", "offsets", "sources")


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedExamples:
    """Examples ready to be packed; see the drawing at the top of this module."""

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    folder: str = ""

    @classmethod
    def from_encoded(
        cls, encoded: Iterable[Encoded], *, sources: Sequence[int] | None = None
    ) -> TokenizedExamples:
        """Lays sequences end to end; `sources` are their places, 0, 1, 2, ... if not given."""
        sequences = list(encoded)
        offsets = np.cumsum([0, *(len(sequence.ids) for sequence in sequences)], dtype=np.int64)
        ids = [sequence.ids for sequence in sequences]
        marks = [sequence.supervised for sequence in sequences]
        places = range(len(sequences)) if sources is None else sources
        return cls(
            tokens=np.concatenate(ids) if ids else np.zeros(0, np.int32),
            supervised=np.concatenate(marks) if marks else np.zeros(0, np.bool_),
            offsets=offsets,
            sources=np.array(places, np.int64),
        )

    @classmethod
    def open(cls, folder: str | Path) -> TokenizedExamples:
        """Memory-maps what `save` wrote."""
        # As plain arrays over the mapping: a slice of np.memmap costs thirty times as much.
        arrays = {
            field: np.load(Path(folder) / f"{field}.npy", mmap_mode="r").view(np.ndarray)
            for field in _FIELDS
        }
        return cls(**arrays, folder=str(folder))

    def save(self, folder: str | Path) -> TokenizedExamples:
        """Writes the arrays and gives them back memory-mapped."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for field in _FIELDS:
            np.save(Path(folder) / f"{field}.npy", getattr(self, field))
        return self.open(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder:
            return TokenizedExamples.open, (self.folder,)
        return TokenizedExamples, tuple(getattr(self, field) for field in _FIELDS)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, example: int) -> Encoded:
        start, end = self.offsets[example], self.offsets[example + 1]
        return Encoded(self.tokens[start:end], self.supervised[start:end])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Positions that each example takes: one less than its tokens."""
        return np.diff(self.offsets) - 1


class Tokenized(NamedTuple):
    """Tokenized examples, and how many did not fit as they were."""

    examples: TokenizedExamples
    num_dropped: int
    num_truncated: int


def tokenize_examples(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    sequence_length: int,
    on_long_example: str = "error",
    locate: Callable[[int], str] | None = None,
) -> Tokenized:
    """Puts examples into chat turns and tokenizes them.

    `on_long_example` says what becomes of one that takes more than `sequence_length` positions:
    "error" raises DataError, with `locate(index)` as its place; "drop" leaves it out; "truncate"
    cuts its end, and leaves it out where no part of an answer is left.
    """
    kept: list[Encoded] = []
    sources: list[int] = []
    num_truncated = 0
    for index, encoded in enumerate(_encode_all(tokenizer, examples)):
        positions = len(encoded.ids) - 1
        if positions > sequence_length:
            if on_long_example == "error":
                place = locate(index) if locate else f"example {index}"
                raise DataError(
                    f"{place}: takes {positions} positions; expected at most "
                    f"data.sequence_length={sequence_length}; raise it to {positions}, or set "
                    "data.on_long_example to drop or truncate"
                )
            if on_long_example == "drop":
                continue
            if not encoded.supervised[: sequence_length + 1].any():
                continue
            num_truncated += 1
        # All of it, unless it is one to be truncated.
        kept.append(
            Encoded(encoded.ids[: sequence_length + 1], encoded.supervised[: sequence_length + 1])
        )
        sources.append(index)
    if not kept:
        raise DataError(
            f"none of {len(examples)} examples fits in data.sequence_length={sequence_length}; "
            "raise it"
        )
    return Tokenized(
        TokenizedExamples.from_encoded(kept, sources=sources),
        num_dropped=len(examples) - len(kept),
        num_truncated=num_truncated,
    )


def _encode_all(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterable[Encoded]:
    for start in range(0, len(examples), _EXAMPLES_A_BATCH):
        batch = itertools.islice(examples, start, start + _EXAMPLES_A_BATCH)
        yield from encode_conversations(tokenizer, [example.turns for example in batch])
