"""The nouns that stages hand to one another. Data only: no I/O, no jax, no policy.

    Turn        one message of a conversation
    Example     one training conversation and where it came from
    Chunk       one passage for retrieval
    EvalItem    one evaluation question with the facts or tests a right answer must meet
    PackedBatch one step's worth of packed examples (numpy on the host, jax.Array on a mesh)
    Sample      one answer that a model wrote during training
    Writer      the protocol of whatever takes a run's figures (a file, TensorBoard, a bar)

A packed row, with two examples A and B and padding `.`, drawn under each other:

    inputs     <bos> A  A  A  A  | <bos> B  B  B | .  .
    targets     A    A  A  A  A  |  B    B  B  B | .  .
    weights     0    0  0  1  1  |  0    0  1  1 | 0  0     (1: the target is part of an answer)
    positions   0    1  2  3  4  |  0    1  2  3 | 0  0     (restart with every example)
    segments    1    1  1  1  1  |  2    2  2  2 | 0  0     (0: padding; equal: may attend)

Shape key, used in every module: B batch, L query length, M key length, D width, V vocabulary,
H heads, K head size, F feed-forward width, R LoRA rank, N layers, T supervised tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Role = Literal["system", "user", "model"]


class Turn(NamedTuple):
    """One message. Only `model` turns are ever supervised."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One training conversation: alternating turns that end with a `model` turn."""

    turns: tuple[Turn, ...]
    source: str = ""
    symbol: str = ""
    kind: str = ""
    license: str = ""

    @classmethod
    def from_question(cls, question: str, answer: str, **origin: str) -> Example:
        """The common case: one question, one answer."""
        return cls(turns=(Turn("user", question), Turn("model", answer)), **origin)

    @property
    def question(self) -> str:
        """The last user turn's text."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last model turn's text."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "model"), "")


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """One passage for retrieval; `id` is stable across runs of `prepare` on the same input."""

    id: str
    text: str
    source: str
    symbol: str = ""
    license: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class EvalItem:
    """One evaluation question.

    `split` is `seen` (a new phrasing about a symbol whose rows are trained on) or `unseen`
    (a symbol of which no row is trained on). `facts` are strings a right answer contains
    (names, arguments, defaults); `tests` is Python that a right program passes.
    """

    id: str
    question: str
    answer: str
    split: Literal["seen", "unseen"]
    source: str = ""
    symbol: str = ""
    kind: str = ""
    license: str = ""
    facts: tuple[str, ...] = ()
    tests: str = ""


class PackedBatch(NamedTuple):
    """Packed examples, all fields [B, L]; see the drawing at the top of this module.

    inputs, targets: int32 token ids. weights: float32, 1 where the target is supervised.
    positions: int32, from 0 within each example. segments: int32, 0 on padding.
    """

    inputs: Any
    targets: Any
    weights: Any
    positions: Any
    segments: Any


class Sample(NamedTuple):
    """One answer written during training, to be read beside the one that was hoped for."""

    question: str
    answer: str
    reference: str = ""


class Writer(Protocol):
    """Takes a run's figures as they appear. A writer may fail; the run goes on without it."""

    def write(self, row: Mapping[str, Any]) -> None:
        """One logged step or one evaluation: `step`, `time` and named numbers."""

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Answers as the model gave them at `step`."""

    def close(self) -> None:
        """Everything written is where it belongs when this returns."""
