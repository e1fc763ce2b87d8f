"""Looking up before answering: an Answerer over any other.

    query ── search ── relevant hits ── passages ── the inner answerer's query
                            │ none                          │
                    "Nothing relevant …"                 its answer
                            └──────────► Answer ◄───────────┘   sources, citations checked

The inner one never knows: it gets a query whose last user turn has passages before its question.
Everything else of the query stays, and so does one that continues a text, in which there is no
place for passages. Searching happens when a query is handed in, and counts as part of its time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from coderllm_jax.data.tokens import TokenCounter
from coderllm_jax.errors import DataError
from coderllm_jax.records import Answer, Answerer, Delta, Query, Source, Turn
from coderllm_jax.retrieval.citations import CitationFilter
from coderllm_jax.retrieval.passages import (
    Block,
    fit_passages,
    ground_question,
    without_near_duplicates,
)
from coderllm_jax.retrieval.search import Searcher

NOTHING_FOUND = "Nothing relevant was found."


@dataclasses.dataclass(frozen=True)
class PassageSettings:
    """How passages become part of a prompt; see config.retrieval for what each means."""

    most: int = 4
    tokens: int = 512
    near_duplicate: float = 0.8
    best_last: bool = False
    cite: bool = True
    say_nothing_found: bool = True


@dataclasses.dataclass
class _Going:
    submitted_s: float
    retrieval_s: float
    sources: tuple[Source, ...]
    citations: CitationFilter


class RetrievalAnswerer:
    """Retrieval over `inner`. `count_tokens` is the tokenizer's of whoever answers."""

    def __init__(
        self,
        inner: Answerer,
        searcher: Searcher,
        *,
        count_tokens: TokenCounter,
        settings: PassageSettings | None = None,
        name: str = "rag",
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.inner, self.searcher = inner, searcher
        self.settings = settings or PassageSettings()
        self._count, self._name, self._now_s = count_tokens, name, now_s
        self._going: dict[str, _Going] = {}
        self._ended: list[Delta] = []

    @property
    def name(self) -> str:
        """A word for tables and logs."""
        return self._name

    @property
    def identity(self) -> Mapping[str, Any]:
        """The inner answerer's, the index's digest, and how it is searched and shown."""
        return {
            "inner": dict(self.inner.identity),
            "index": self.searcher.index.manifest.sha256,
            "search": dataclasses.asdict(self.searcher.settings),
            "passages": dataclasses.asdict(self.settings),
        }

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting, going on or waiting to be told."""
        return self.inner.is_idle and not self._ended

    def submit(self, query: Query) -> None:
        """Searches, and hands the query on with what was found."""
        if query.id in self._going:
            raise DataError(f"query {query.id!r} is being answered already; give each its own id")
        submitted_s = self._now_s()
        if query.continues or not query.turns:  # an empty query is the inner one's to refuse
            self.inner.submit(query)
            return
        block = self.look_up(query.question)
        going = _Going(
            submitted_s,
            self._now_s() - submitted_s,
            sources_of(block),
            CitationFilter(len(block.hits)),
        )
        if not block.hits and self.settings.say_nothing_found:
            self._ended.append(self._nothing_found(query.id, going))
        else:
            self.inner.submit(self._grounded(query, block))
            self._going[query.id] = going

    def look_up(self, question: str) -> Block:
        """The passages that a prompt with this question gets."""
        settings = self.settings
        # Some of them fall away as near duplicates or too long.
        hits = self.searcher.search(question, 4 * settings.most).hits
        relevant = [hit for hit in hits if hit.is_relevant]
        distinct = without_near_duplicates(relevant, settings.near_duplicate)[: settings.most]
        return fit_passages(
            distinct, tokens=settings.tokens, count=self._count, best_last=settings.best_last
        )

    def cancel(self, id: str) -> bool:
        """Ends a query where it is."""
        return self.inner.cancel(id)

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        """What the inner answerer says, its citations checked."""
        ended, self._ended = self._ended, []
        if self.inner.is_idle:
            return ended
        return ended + [self._checked(d) for d in self.inner.poll(0.0 if ended else timeout_s)]

    def close(self) -> None:
        """Closes the inner answerer."""
        self.inner.close()

    @property
    def score_reference(self) -> Callable[[Query, str], Any]:
        """The inner answerer's, under the grounded prompt; AttributeError where it has none."""
        score: Callable[[Query, str], Any] = getattr(self.inner, "score_reference")  # noqa: B009

        def score_grounded(query: Query, reference: str) -> Any:
            if query.continues:
                return score(query, reference)
            return score(self._grounded(query, self.look_up(query.question)), reference)

        return score_grounded

    def _grounded(self, query: Query, block: Block) -> Query:
        question = ground_question(block, query.question, cite=self.settings.cite)
        return dataclasses.replace(query, turns=(*query.turns[:-1], Turn("user", question)))

    def _checked(self, delta: Delta) -> Delta:
        going = self._going.get(delta.id)
        if going is None:  # it continues a text, and its brackets are its own
            return delta
        text = going.citations.feed(delta.text)
        if delta.answer is None:
            return Delta(delta.id, text)
        del self._going[delta.id]
        text += going.citations.finish()
        whole = CitationFilter(len(going.sources))
        answer = dataclasses.replace(
            delta.answer,
            text=whole.feed(delta.answer.text) + whole.finish(),
            submitted_s=going.submitted_s,
            retrieval_s=going.retrieval_s,
            sources=going.sources,
            num_false_citations=whole.num_removed,
        )
        return Delta(delta.id, text, answer)

    def _nothing_found(self, id: str, going: _Going) -> Delta:
        now_s = self._now_s()
        answer = Answer(
            id,
            NOTHING_FOUND,
            "stop",
            submitted_s=going.submitted_s,
            started_s=now_s,
            finished_s=now_s,
            retrieval_s=going.retrieval_s,
        )
        return Delta(id, NOTHING_FOUND, answer)


def sources_of(block: Block) -> tuple[Source, ...]:
    """The block's passages as an answer's sources: `[1]` is the first."""
    return tuple(
        Source(hit.chunk.id, shown, hit.chunk.source, hit.score)
        for hit, shown in zip(block.hits, block.shown, strict=True)
    )
