"""The nouns that stages hand to one another. Data only: no I/O, no jax.

    Turn        one message of a conversation
    Example     one training conversation and where it came from
    Chunk       one passage for retrieval
    EvalItem    one evaluation question with the facts or tests a right answer must meet
    PackedBatch one step's worth of packed examples (numpy on the host, jax.Array on a mesh)
    Sample      one answer that a model wrote during training
    Query       one question on its way to an answerer, and how it is to be answered
    Answer      what came back: text, how it ended, tokens, times, sources
    Answerer    the protocol of whatever answers: base, trained, retrieval, a remote endpoint
    Estimate    a figure with its interval and the number of items behind it
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

from coderllm_jax.errors import ConfigError

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


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one answer's tokens are chosen. Temperature 0 is greedy, whatever the rest says.

    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 switch each of them off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0.0, 100.0),
            "top_k": (0, 1 << 31),
            "top_p": (1e-6, 1.0),
            "min_p": (0.0, 1.0),
            "repetition_penalty": (1e-3, 1e3),
            "seed": (0, (1 << 32) - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is not in any range
                raise ConfigError(f"{name} is {value!r}; expected {low:g} to {high:g}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing changes which one that is."""
        return self.temperature == 0 and self.repetition_penalty == 1


GREEDY = Sampling()

Finish = Literal["", "stop", "length", "cancelled", "error"]


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One question: a conversation that ends with the user's turn, or a text to be continued.

    How turns become a prompt (chat turns, few-shot text, passages before the question) is the
    answerer's business; `continues` is taken as it stands. `id` is new for every query; `stop` are
    texts that end the answer.
    """

    id: str
    turns: tuple[Turn, ...] = ()
    continues: str = ""
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    logprobs: bool = False

    @classmethod
    def from_question(cls, id: str, question: str, **how: Any) -> Query:
        """The common case: one user turn."""
        return cls(id, turns=(Turn("user", question),), **how)

    @property
    def question(self) -> str:
        """The last user turn's text, or what is to be continued."""
        return self.continues or self.turns[-1].content


class TokenLogprob(NamedTuple):
    """The log-probability of a token of an answer, and the likeliest tokens in its place."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]


class Source(NamedTuple):
    """A passage that an answer rests on; `score` is the retriever's."""

    id: str
    text: str
    source: str
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One query's answer: without its stop token and stop text.

    num_new_tokens counts the stop token, which is computed like any other. Times are those of
    `time.perf_counter`: handed in, begun, first token there, all there; 0 where it never came to
    that. num_first_tokens is how many tokens came at first_token_s (a remote endpoint may send
    several at once). retrieval_s, from submitted_s on, went into looking sources up; citations that
    point to none of them were removed and counted. `error` says what went wrong where finish is
    `error`.
    """

    id: str
    text: str = ""
    finish: Finish = ""
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_first_tokens: int = 1
    submitted_s: float = 0.0
    started_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0
    retrieval_s: float = 0.0
    sources: tuple[Source, ...] = ()
    num_false_citations: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    error: str = ""

    @property
    def time_to_first_token_s(self) -> float | None:
        """From handing in; None where no token came."""
        return self.first_token_s - self.submitted_s if self.first_token_s else None

    @property
    def time_per_token_s(self) -> float | None:
        """Mean over the tokens after the first ones; None where there are none."""
        later = self.num_new_tokens - self.num_first_tokens
        if not self.first_token_s or later < 1:
            return None
        return (self.finished_s - self.first_token_s) / later

    @property
    def total_s(self) -> float:
        """From handing in to the end."""
        return self.finished_s - self.submitted_s


class Delta(NamedTuple):
    """What is new about a query: text that is certain by now, and at its end, the whole answer."""

    id: str
    text: str
    answer: Answer | None = None


class Answerer(Protocol):
    """Whatever answers. Nobody who holds one asks which one it is.

    Single-threaded: one caller submits and polls. `generation.answering.answer_all` is the loop for
    a list of queries.
    """

    @property
    def name(self) -> str:
        """A word for tables and logs: base, trained, rag, ..."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that can change an answer, as JSON: weights, prompt, slots, formats, index."""

    @property
    def is_idle(self) -> bool:
        """Whether no query is waiting or being answered."""

    def submit(self, query: Query) -> None:
        """Takes a query. Raises DataError for one that can never be answered (an empty prompt)."""

    def cancel(self, id: str) -> bool:
        """Ends a query where it is; its answer comes by `poll`. False where none is going."""

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        """Moves on and tells what is new; waits up to `timeout_s` where there is nothing to do."""

    def close(self) -> None:
        """Lets go of connections and memory; queries that are going end as cancelled."""


class Estimate(NamedTuple):
    """A figure, its 95 % interval (None where it has none) and the number of items behind it.

    `value` is None where it is undefined, such as pass@10 of five samples.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    num_items: int = 0


class Writer(Protocol):
    """Takes a run's figures as they appear. A writer may fail; the run goes on without it."""

    def write(self, row: Mapping[str, Any]) -> None:
        """One logged step or one evaluation: `step`, `time` and named numbers."""

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Answers as the model gave them at `step`."""

    def close(self) -> None:
        """Everything written is where it belongs when this returns."""
