"""Questions in, answers out: the local model as an Answerer, and the loop for a list of questions.

Query ── data.prompts ──► token ids ── Engine ──► Completion ──► Answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from coderllm_jax.config.generation import GenerationSection, PromptSection
from coderllm_jax.data.prompts import (
    PromptStyle,
    encode_query,
    encode_reference,
    stops_of,
)
from coderllm_jax.errors import DataError
from coderllm_jax.generation.engine import Completion, Engine, Request
from coderllm_jax.generation.scoring import Score, score_text
from coderllm_jax.generation.trained import TrainedModel
from coderllm_jax.records import Answer, Answerer, Delta, Query

# How many queries a caller hands over before it looks at what came back: enough that no slot is
# ever empty, few enough that a list of a million is not tokenized first.
_AHEAD = 64


def make_local(
    model: TrainedModel, section: GenerationSection, style: PromptStyle
) -> LocalAnswerer:
    """The engine over a loaded model, as an answerer. The caller may drop the model afterwards."""
    engine = Engine(
        model.architecture,
        model.tokenizer,
        model.weights,
        model.adapters,
        options=model.options,
        num_slots=section.num_slots,
        max_length=section.max_length,
        merge=section.merge,
    )
    return LocalAnswerer(engine, name=model.name, style=style, model=model.identity)


def style_for(
    model: TrainedModel, section: PromptSection, shots: Sequence[tuple[str, str]]
) -> PromptStyle:
    """The style that suits the model; `shots` are used where it does not know turns."""
    kind = section.style
    if kind == "auto":
        kind = "chat" if model.knows_turns else "few_shot"
    if kind == "chat":
        return PromptStyle("chat")
    return PromptStyle("few_shot", tuple(shots[: section.shots]))


class LocalAnswerer:
    """The Answerer over one engine. `model` says which weights the engine holds."""

    def __init__(
        self, engine: Engine, *, name: str, style: PromptStyle, model: Mapping[str, Any]
    ) -> None:
        self.engine, self.style = engine, style
        self._name = name
        self._identity = {
            "model": dict(model),
            "prompt": {"kind": style.kind, "shots": [list(shot) for shot in style.shots]},
            "setting": dict(engine.setting),
        }
        self._going: dict[str, Completion] = {}
        self._ended: list[Delta] = []

    @property
    def name(self) -> str:
        """A word for tables and logs."""
        return self._name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Weights, prompt style and engine setting: everything that can change an answer."""
        return self._identity

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting, going on or waiting to be told."""
        return self.engine.is_idle and not self._ended

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone."""
        return len(self.engine.tokenizer.encode(text))

    def completion(self, id: str) -> Completion | None:
        """What has come of a query that is going on; it fills as `poll` is called."""
        return self._going.get(id)

    def submit(self, query: Query) -> None:
        """Takes a query; DataError for an empty prompt and one that leaves no room to answer."""
        if query.id in self._going:
            raise DataError(f"query {query.id!r} is being answered already; give each its own id")
        request = Request(
            query.id,
            encode_query(self.engine.tokenizer, query, self.style),
            query.max_new_tokens,
            sampling=query.sampling,
            stop=stops_of(query, self.style),
            logprobs=query.logprobs,
        )
        self._going[query.id] = self.engine.submit(request)

    def cancel(self, id: str) -> bool:
        """Ends a query where it is."""
        if not self.engine.cancel(id):
            return False
        self._ended.append(self._end(id, ""))
        return True

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        """One step of the engine. It never waits: there is work, or there is none."""
        ended, self._ended = self._ended, []
        if self.engine.is_idle:
            return ended
        return ended + [
            self._end(event.id, event.text) if event.finish else Delta(event.id, event.text)
            for event in self.engine.step()
        ]

    def score_reference(self, query: Query, reference: str) -> Score:
        """The loss of `reference` as the answer to `query`, under the same prompt and weights."""
        encoded = encode_reference(self.engine.tokenizer, query, self.style, reference)
        return score_text(
            self.engine.weights,
            encoded.ids,
            encoded.supervised,
            architecture=self.engine.architecture,
            options=self.engine.options,
        )

    def close(self) -> None:
        """Cancels what is going on; the weights go with the engine."""
        for going in list(self._going):
            self.cancel(going)

    def _end(self, id: str, text: str) -> Delta:
        return Delta(id, text, answer_of(self._going.pop(id)))


def answer_of(completion: Completion) -> Answer:
    """An engine's completion as an answer."""
    return Answer(
        completion.id,
        completion.text,
        completion.finish,
        num_prompt_tokens=len(completion.request.prompt),
        num_new_tokens=completion.num_generated,
        submitted_s=completion.submitted_s,
        started_s=completion.started_s,
        first_token_s=completion.first_token_s,
        finished_s=completion.finished_s,
        logprobs=tuple(completion.logprobs),
    )


def answer_all(
    answerer: Answerer,
    queries: Sequence[Query],
    on_answer: Callable[[Query, Answer], None] = lambda query, answer: None,
) -> list[Answer]:
    """Answers to all queries, in their order; `on_answer` hears of each as it ends.

    A query that the answerer refuses gets an answer with finish `error`: one bad question must not
    cost the others.
    """
    answers: dict[str, Answer] = {}
    by_id = {query.id: query for query in queries}
    if len(by_id) < len(queries):
        raise DataError("two queries have the same id; give each its own")

    def end(answer: Answer) -> None:
        answers[answer.id] = answer
        on_answer(by_id[answer.id], answer)

    waiting: Iterator[Query] = iter(queries)
    num_going = 0
    exhausted = False
    while not exhausted or num_going:
        while not exhausted and num_going < _AHEAD:
            query = next(waiting, None)
            if query is None:
                exhausted = True
                break
            try:
                answerer.submit(query)
                num_going += 1
            except DataError as error:
                end(Answer(query.id, finish="error", error=str(error)))
        for delta in answerer.poll(0.1):
            if delta.answer is not None:
                num_going -= 1
                end(delta.answer)
    return [answers[query.id] for query in queries]
