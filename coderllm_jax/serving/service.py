"""One server's parts, and what joins them on the event loop: exchanges, the log, the figures.

    request ── Exchange.begin ── Desk ──► news, on the loop ──► whoever writes the reply
                                   └────► the ticket's end ──► one line, and the figures

An exchange is one request and its reply. Its line is written when its ticket has ended, however it
ended, and whether or not anybody still listens.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coderllm_jax.config.serving import LimitsSection
from coderllm_jax.records import Answer
from coderllm_jax.retrieval.answering import NOTHING_FOUND
from coderllm_jax.serving.arms import Opened, ServedModel
from coderllm_jax.serving.blotting import blot
from coderllm_jax.serving.desk import Desk
from coderllm_jax.serving.metrics import Metrics
from coderllm_jax.serving.refusals import Refusal
from coderllm_jax.serving.replies import Reply
from coderllm_jax.serving.request_log import RequestLog, RequestRecord
from coderllm_jax.serving.requests import Asked, Limits, Operation
from coderllm_jax.serving.tickets import News, Ticket

# No piece of Gemma's vocabulary has more than 31 characters.
_CHARACTERS_A_TOKEN = 32
# The desk ends what is late; where it does not, its thread is stuck and the client waits no longer.
_DEADLINE_GRACE_S = 5.0
_DRAIN_POLL_S = 0.05


class Heard(NamedTuple):
    """What an exchange waits for: news and perhaps the end, or that the client left."""

    news: Sequence[News] = ()
    is_over: bool = False
    has_left: bool = False
    refusal: Refusal | None = None


class Service:
    """Everything that a server needs, beside its routes."""

    def __init__(
        self,
        desk: Desk,
        *,
        arms: Sequence[str],
        limits: LimitsSection,
        max_length: int,
        log: RequestLog | None,
        keeps_text: bool = False,
        keeps_confidence: bool = False,
    ) -> None:
        self.desk, self.arms, self.limits, self.log = desk, tuple(arms), limits, log
        self.keeps_text, self.keeps_confidence = keeps_text, keeps_confidence
        self.models: Mapping[str, ServedModel] = {}
        self.started = int(time.time())
        self.reading = Limits(
            default_tokens=limits.default_tokens,
            default_temperature=limits.default_temperature,
            max_choices=limits.max_choices,
            max_characters=max_length * _CHARACTERS_A_TOKEN,
        )
        self.metrics = Metrics()
        for name, meaning, read in (
            ("num_requests_running", "Answers being generated.", lambda: desk.num_running),
            ("num_requests_waiting", "Answers waiting for a slot.", lambda: desk.num_waiting),
            ("ready", "1 while requests are taken.", lambda: desk.is_open),
        ):
            self.metrics.watch(name, meaning, read)

    def open(self, opened: Opened) -> None:
        """Models are loaded and compiled. From any thread."""
        self.models = opened.models
        self.desk.open(opened.lanes)

    @property
    def is_healthy(self) -> bool:
        """Whether there is no reason to start the process anew."""
        return not self.desk.is_broken and self.desk.silent_s() < self.limits.stall_s

    async def drain(self) -> None:
        """Takes no more requests; returns when none is left, and cuts them after drain_s."""
        self.desk.drain()
        try:
            async with asyncio.timeout(self.limits.drain_s):
                while not self.desk.is_idle:
                    await asyncio.sleep(_DRAIN_POLL_S)
        except TimeoutError:
            self.desk.stop()
            async with asyncio.timeout(_DEADLINE_GRACE_S):
                while not self.desk.is_idle:
                    await asyncio.sleep(_DRAIN_POLL_S)

    def record(self, record: RequestRecord) -> None:
        """A request has ended."""
        self.metrics.observe(record)
        if self.log is None:
            return
        try:
            self.log.write(record)
        except OSError as error:  # a full disk costs lines, never answers
            self.metrics.count_log_failure()
            logging.getLogger(__name__).warning("the request log: %s", error.strerror)


class Exchange:
    """One request and its reply, on the event loop."""

    def __init__(self, service: Service, operation: Operation) -> None:
        self._service, self._operation = service, operation
        prefix = "chatcmpl" if operation == "chat" else "cmpl"
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self._time, self._came_s = time.time(), time.perf_counter()
        self._asked: Asked | None = None
        self._ticket: Ticket | None = None
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._is_recorded = False
        self._late: asyncio.TimerHandle | None = None

    def begin(self, asked: Asked) -> Reply:
        """Hands the request to the desk; Refusal where it is not taken."""
        self._asked = asked
        service = self._service
        if asked.model not in service.arms:
            raise Refusal(
                404,
                f"no such model is served here; expected one of {', '.join(service.arms)}",
                "model_not_found",
                param="model",
            )
        queries = asked.queries(self.id, logprobs=service.keeps_confidence)
        self._ticket = service.desk.submit(self.id, asked.model, queries, self._tell)
        late_s = service.limits.deadline_s + _DEADLINE_GRACE_S
        self._late = self._loop.call_later(late_s, self._be_late)
        model = service.models[asked.model]
        return Reply(asked, self.id, int(self._time), f"fp_{model.version}", model.spell)

    @property
    def looks_up(self) -> bool:
        """Whether the reply has sources."""
        assert self._asked is not None
        return self._service.models[self._asked.model].looks_up

    async def hear(self) -> Heard:
        """What is next; waits for it."""
        return await self._heard.get()

    def leave(self) -> None:
        """The client is gone, or does not read what it is sent."""
        if self._ticket is not None and not self._ticket.is_over:
            self._service.desk.cancel(self._ticket)
        self._heard.put_nowait(Heard(has_left=True))

    def answers(self) -> list[Answer]:
        """All of them in order, once it is over."""
        assert self._ticket is not None
        return [self._ticket.answers[index] for index in sorted(self._ticket.answers)]

    def refuse(self, refusal: Refusal) -> None:
        """Ends without an answer, before the desk or beside it."""
        self._write(refusal)

    # --------------------------------------------------------------------------- what happens

    def _tell(self, ticket: Ticket, news: Sequence[News]) -> None:
        """In the desk's thread."""
        heard = Heard(tuple(news), ticket.is_over, refusal=ticket.refusal)
        try:
            self._loop.call_soon_threadsafe(self._take, heard)
        except RuntimeError:  # the loop has ended before its requests
            logging.getLogger(__name__).info("request %s outlived the server", self.id)

    def _take(self, heard: Heard) -> None:
        self._heard.put_nowait(heard)
        if heard.is_over:
            if self._late is not None:
                self._late.cancel()
            self._write(heard.refusal)

    def _be_late(self) -> None:
        refusal = Refusal(504, "the engine does not answer", "deadline_exceeded")
        self._heard.put_nowait(Heard(is_over=True, refusal=refusal))
        self._write(refusal)

    def _write(self, refusal: Refusal | None) -> None:
        if not self._is_recorded:
            self._is_recorded = True
            self._service.record(self._line(refusal))

    def _line(self, refusal: Refusal | None) -> RequestRecord:
        service, asked, ticket = self._service, self._asked, self._ticket
        arm = asked.model if asked is not None and asked.model in service.arms else ""
        model = service.models.get(arm)
        answers = self.answers() if ticket is not None else []
        first = answers[0] if answers else None
        measured = measure(answers, self._came_s)
        scores = [source.score for source in first.sources] if first is not None else []
        text: dict[str, str] = {}
        if service.keeps_text and ticket is not None:
            text["question"] = blot("\n".join(query.question for query in ticket.queries[:1]))
            text["answer"] = blot("\n".join(answer.text for answer in answers))
        return RequestRecord(
            time=self._time,
            id=self.id,
            arm=arm,
            model_version=model.version if model is not None else "",
            operation=self._operation,
            status=200 if refusal is None else refusal.status,
            finish=ticket.ended if ticket is not None else "",
            error="" if refusal is None else refusal.code,
            streamed=asked.streams if asked is not None else False,
            num_choices=asked.num_choices if asked is not None else 1,
            prompt_tokens=sum(
                answer.num_prompt_tokens for answer in answers[:: asked.n if asked else 1]
            ),
            completion_tokens=sum(answer.num_new_tokens for answer in answers),
            queue_s=measured.queue_s,
            ttft_s=measured.ttft_s,
            time_per_token_s=measured.time_per_token_s,
            total_s=max(0.0, (measured.ended_s or time.perf_counter()) - self._came_s),
            num_sources=len(scores),
            retrieval_s=(first.retrieval_s or None) if first is not None else None,
            top_score=max(scores, default=None),
            mean_logprob=measured.mean_logprob,
            refused=any(answer.text == NOTHING_FOUND for answer in answers),
            **text,
        )


class Measured(NamedTuple):
    """Times of a request over its choices; see `request_log`. ended_s is a moment."""

    queue_s: float | None
    ttft_s: float | None
    time_per_token_s: float | None
    ended_s: float | None
    mean_logprob: float | None


def measure(answers: Sequence[Answer], came_s: float) -> Measured:
    """What a request's answers say of its times, from the moment it came."""
    begun = [answer.started_s for answer in answers if answer.started_s]
    first = [answer.first_token_s for answer in answers if answer.first_token_s]
    ended = [answer.finished_s for answer in answers if answer.finished_s]
    later = [
        (answer.finished_s - answer.first_token_s, answer.num_new_tokens - answer.num_first_tokens)
        for answer in answers
        if answer.first_token_s and answer.num_new_tokens > answer.num_first_tokens
    ]
    tokens = sum(count for _, count in later)
    logprobs = [token.logprob for answer in answers for token in answer.logprobs]
    return Measured(
        max(0.0, min(begun) - came_s) if begun else None,
        min(first) - came_s if first else None,
        sum(seconds for seconds, _ in later) / tokens if tokens else None,
        max(ended, default=None),
        sum(logprobs) / len(logprobs) if logprobs else None,
    )
