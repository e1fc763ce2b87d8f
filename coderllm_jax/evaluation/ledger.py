"""The fate of every query that was handed to an answerer: each must end, exactly once.

    submit(a) submit(b) submit(c)      going {a, b, c}
    poll ─► a "He"                     streamed a: "He"
    poll ─► a "llo" + Answer, b Answer going {c}; answers {a, b}
    refused by DataError: d            answers {d: error}
    never heard of again: c            faults ["c: never ended"]

Owns what is counted as a fault of the answerer; what an answer says is its callers' business. An
answerer that raises is not asked again: `crash` says what it raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from coderllm_jax.errors import DataError, ResumableError
from coderllm_jax.records import Answer, Answerer, Query

_ENDS = ("stop", "length", "cancelled", "error")
_POLL_S = 0.1


class Ledger:
    """Hands queries to an answerer and keeps book.

    patience_s: how long nothing may be heard before what is going on is given up.
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        patience_s: float = 300.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answers: dict[str, Answer] = {}
        self.faults: list[str] = []
        self.crash = ""
        self._answerer, self._patience_s, self._now = answerer, patience_s, now
        self._going: dict[str, str] = {}  # id → text that has been streamed
        self._given_up: set[str] = set()
        self._heard_s = now()

    @property
    def num_going(self) -> int:
        """Queries that have not ended."""
        return len(self._going)

    def is_going(self, id: str) -> bool:
        """Whether a query was taken and has not ended."""
        return id in self._going

    def going(self) -> list[str]:
        """Ids of those queries, oldest first."""
        return list(self._going)

    def submit(self, query: Query) -> bool:
        """Hands a query over; one that is refused ends at once, as an error. False: not taken."""
        if self.crash:
            return False
        try:
            self._answerer.submit(query)
        except DataError as error:
            self.answers[query.id] = Answer(query.id, finish="error", error=str(error))
            return False
        except ResumableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self.faults.append(f"{query.id}: submit raised {_name(error)}")
            return False
        if not self._going:
            self._heard_s = self._now()
        self._going[query.id] = ""
        return True

    def cancel(self, id: str) -> None:
        """Ends a query; says so where the answerer disagrees on whether it was going."""
        if self.crash:
            return
        try:
            taken = self._answerer.cancel(id)
        except ResumableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self.faults.append(f"{id}: cancel raised {_name(error)}")
            return
        # An answer may have ended inside the answerer and not been told yet, so only a query that
        # was told to have ended can be known not to be going.
        if taken and id not in self._going:
            self.faults.append(f"{id}: was cancelled although it was not going")

    def poll(self) -> list[Answer]:
        """Moves on; what has ended. Gives up on what is going where nothing is to be expected."""
        if self.crash:
            return []
        was_idle = self._answerer.is_idle
        try:
            deltas = self._answerer.poll(_POLL_S)
        except ResumableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self.crash = f"poll raised {_name(error)}"
            self._give_up(self.crash)
            return []
        ended = []
        for delta in deltas:
            if delta.id in self._given_up:
                continue  # it was counted already
            if delta.id not in self._going:
                known = "after its end" if delta.id in self.answers else "that was never asked"
                self.faults.append(f"{delta.id}: told of {known}")
                continue
            self._going[delta.id] += delta.text
            if delta.answer is not None:
                self._end(delta.answer, streamed=self._going.pop(delta.id))
                ended.append(delta.answer)
        if deltas:
            self._heard_s = self._now()
        elif was_idle:
            self._give_up("never ended, and the answerer is idle")
        elif self._now() - self._heard_s > self._patience_s:
            self._give_up(f"nothing was heard for {self._patience_s:g} s")
        return ended

    def finish(self) -> None:
        """Polls until nothing is going."""
        while self._going:
            self.poll()

    def ask(self, queries: Sequence[Query]) -> list[Answer]:
        """All queries, handed over at once and answered to their end, in their order.

        A query that the answerer lost gets an answer with finish "" and the reason.
        """
        for query in queries:
            self.submit(query)
        self.finish()
        return [self.answers.get(query.id, Answer(query.id)) for query in queries]

    def faults_of(self, id: str) -> list[str]:
        """What went wrong with one query."""
        return [fault for fault in self.faults if fault.startswith(f"{id}: ")]

    def _end(self, answer: Answer, *, streamed: str) -> None:
        self.answers[answer.id] = answer
        if answer.finish not in _ENDS:
            self.faults.append(f"{answer.id}: ended with finish {answer.finish!r}")
        if answer.text != streamed:
            self.faults.append(f"{answer.id}: its answer is not the text that was streamed")

    def _give_up(self, reason: str) -> None:
        """Counts what is going as lost, and asks for it to end, so that later queries have room."""
        for lost in list(self._going):
            self.faults.append(f"{lost}: {reason}")
            self._given_up.add(lost)
            self.cancel(lost)
            self.answers[lost] = Answer(lost, error=reason)
            del self._going[lost]


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
