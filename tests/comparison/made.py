"""What tests of a comparison are made of: items, answers, turns, and answerers by table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.questions import SEEN, Question
from coderllm_jax.comparison.rounds import Turn
from coderllm_jax.errors import DataError
from coderllm_jax.records import Answer, Delta, EvalItem, Query, Source


def item(number: int, *, split: str = "seen", **changes: Any) -> EvalItem:
    """Its right answer is `value {number}.5`, and so are its facts."""
    values = {
        "id": f"{split}:m.f{number}",
        "question": f"What is the value of m.f{number}?",
        "answer": f"It is `{number}.5`.",
        "split": split,
        "source": "m 1",
        "symbol": f"m.f{number}",
        "kind": "argument",
        "facts": (f"{number}.5",),
    }
    return EvalItem(**{**values, **changes})


def question(number: int, *, set_name: str = SEEN, **changes: Any) -> Question:
    made = item(number, **changes)
    return Question(made.id, set_name, made.question, made)


def answer(text: str, *, id: str = "q", first_s: float = 0.5, each_s: float = 0.1, **changes: Any):
    """An answer of one token a word."""
    num = max(1, len(text.split()))
    values = {
        "finish": "stop",
        "num_prompt_tokens": 10,
        "num_new_tokens": num,
        "submitted_s": 0.0,
        "started_s": 0.1,
        "first_token_s": first_s,
        "finished_s": first_s + each_s * (num - 1),
    }
    return Answer(id, text, **{**values, **changes})


def source(id: str, text: str = "a passage") -> Source:
    return Source(id, text, "m 1", 0.9)


def turn(arm: str, round: int = 1, **changes: Any) -> Turn:
    values = {
        "phase": "together",
        "num_answers": 10,
        "tokens_in": 100,
        "tokens_out": 50,
        "wall_s": 5.0,
        "cpu_s": 8.0,
        "peak_memory_bytes": 1000,
        "compile_s": 0.0,
        "is_whole": True,
    }
    return Turn(arm, round=round, **{**values, **changes})


def arm(name: str, *, weights: str = "", memory: Mapping[str, int] | None = None) -> Arm:
    weights = weights or ("trained" if name.startswith("trained") else "base")
    return Arm(name, "tiny", weights, name.startswith("trained"), memory or {"weights": 10**9})


@dataclasses.dataclass
class TableAnswerer:
    """Answers by a function of the question, all that were submitted at the next poll.

    asked: the questions of every batch, as they came.
    """

    say: Callable[[str], str]
    name: str = "table"
    identity: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"table": 1})
    refuses: str = ""
    on_poll: Callable[[], None] = lambda: None
    asked: list[list[str]] = dataclasses.field(default_factory=list)
    _waiting: list[Query] = dataclasses.field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def submit(self, query: Query) -> None:
        if self.refuses and self.refuses in query.question:
            raise DataError("refused, as told")
        self._waiting.append(query)

    def cancel(self, id: str) -> bool:
        return False

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        self.on_poll()
        waiting, self._waiting = self._waiting, []
        self.asked.append([query.question for query in waiting])
        return [
            Delta(query.id, text := self.say(query.question), answer(text, id=query.id))
            for query in waiting
        ]

    def close(self) -> None:
        pass
