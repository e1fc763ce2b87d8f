"""What the event loop and the desk's thread hand to one another.

Lane      one engine with the answerers over it
Ticket    one request on its way, with an answer for each of its choices in the end
News      what is new of one choice
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from coderllm_jax.records import Answer, Answerer, Query, TokenLogprob
from coderllm_jax.serving.refusals import Refusal

Ended = Literal["", "stop", "length", "cancelled", "deadline", "error"]


class Progress(NamedTuple):
    """How far a query has come that is not at its end."""

    num_prompt_tokens: int
    num_new_tokens: int
    logprobs: Sequence[TokenLogprob]


@dataclasses.dataclass(frozen=True)
class Lane:
    """Answerers that are polled as one. `arms` are what is submitted to, `poller` what is polled.

    A poll of `poller` tells what is new of the queries of all arms. progress: of a query that is
    going on; None where it is not known.
    """

    arms: Mapping[str, Answerer]
    poller: Answerer
    num_slots: int
    progress: Callable[[str], Progress | None] = lambda query_id: None


class News(NamedTuple):
    """What is new of one choice of a request; with the last of it, its whole answer."""

    choice: int
    text: str
    logprobs: Sequence[TokenLogprob] = ()
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    answer: Answer | None = None


class Listener(Protocol):
    """Hears of a ticket in the desk's thread, and must neither block nor raise."""

    def __call__(self, ticket: Ticket, news: Sequence[News]) -> None:
        """`news` in order. `ticket.is_over` with the last call, which may bring none."""


@dataclasses.dataclass(eq=False)
class Ticket:
    """One request on its way. Written by the desk's thread only, once it is submitted.

    submitted_s and deadline_s are moments of the desk's clock. refusal: why there is no whole
    answer; `answers` then holds what there was.
    """

    id: str
    arm: str
    queries: Sequence[Query]
    tell: Listener
    submitted_s: float
    deadline_s: float
    answers: dict[int, Answer] = dataclasses.field(default_factory=dict)
    refusal: Refusal | None = None
    ended: Ended = ""
    is_over: bool = False
    num_told: dict[int, int] = dataclasses.field(default_factory=dict)  # log-probabilities
