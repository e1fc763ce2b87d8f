"""OpenAI's streaming protocol: a query as a request's body, a stream's events as an answer.

    {"usage": null, "choices": [{"delta": {"content": "a b"}, "finish_reason": null}]}   at 12.0 s
    {"usage": null, "choices": [{"delta": {"content": " c"}, "finish_reason": "stop"}]}  at 14.0 s
    {"usage": {"prompt_tokens": 5, "completion_tokens": 3}, "choices": []}
                           │
                           ▼
    Answer(text="a b c", finish="stop", num_new_tokens=3, first_token_s=12.0, finished_s=14.0, ...)

What is counted. Tokens are the server's `usage`: stop token and hidden thinking with them. How many
came first (`num_first_tokens`, which time per token rests on) is known exactly where the server
counts in every event (`continuous_usage_stats`: vLLM, SGLang), else from the log-probabilities that
came along, and else taken for one. Where a server counts nothing at all, an event with text stands
for a token: fewer than there were.

Nothing here knows of a network.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from coderllm_jax.records import Answer, Finish, Query, TokenLogprob

# As many as the protocol lets one ask for.
_CHAT_ALTERNATIVES, _TEXT_ALTERNATIVES = 20, 5
_ROLES = {"system": "system", "user": "user", "model": "assistant"}
_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
}


class ProtocolError(Exception):
    """The server's reply is not what the protocol has."""


def request_body(query: Query, model: str, *, counts_on_the_way: bool) -> dict[str, Any]:
    """The request for a query. What goes beyond OpenAI's own fields is sent where it is on."""
    sampling = query.sampling
    options = {"include_usage": True}
    if counts_on_the_way:
        options["continuous_usage_stats"] = True
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": options,
        "max_tokens": query.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if query.stop:
        body["stop"] = list(query.stop)
    for name, off in (("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
        if (value := getattr(sampling, name)) != off:
            body[name] = value
    if query.continues:
        body["prompt"] = query.continues
        if query.logprobs:
            body["logprobs"] = _TEXT_ALTERNATIVES
        return body
    body["messages"] = [
        {"role": _ROLES[turn.role], "content": turn.content} for turn in query.turns
    ]
    if query.logprobs:
        body |= {"logprobs": True, "top_logprobs": _CHAT_ALTERNATIVES}
    return body


@dataclasses.dataclass
class Reply:
    """What has come of one query's answer so far. Times are perf_counter's."""

    query: Query
    submitted_s: float
    started_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0
    text: list[str] = dataclasses.field(default_factory=list)
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    reason: str = ""  # the server's word for the end
    finish: Finish = ""
    error: str = ""
    num_prompt: int = 0
    num_counted: int = 0  # by the server
    num_seen: int = 0  # by us: log-probabilities, or chunks
    num_first: int = 1

    def read(self, event: Any, now_s: float) -> str:
        """Takes in one event of the stream, parsed; returns its text.

        Raises ProtocolError, or what Python raises where an event has another shape.
        """
        before = self.num_counted
        if usage := event.get("usage"):
            self.num_prompt = int(usage.get("prompt_tokens") or 0)
            self.num_counted = int(usage.get("completion_tokens") or 0)
        if not event.get("choices"):  # the last event, which only counts
            return ""
        choice = event["choices"][0]
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        if not isinstance(text, str):
            raise ProtocolError(f"the answer's text is {type(text).__name__}; expected a string")
        # Thinking is no part of the answer, but its tokens are computed and counted.
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        logprobs = list(_logprobs(choice.get("logprobs") or {}))
        if text or thought or logprobs or self.num_counted > before:
            self.num_seen += len(logprobs) or 1
            if not self.first_token_s:
                self.first_token_s = now_s
                self.num_first = self.num_counted or self.num_seen
        self.text.append(text)
        self.logprobs += logprobs
        if choice.get("finish_reason"):
            self.reason, self.finished_s = choice["finish_reason"], now_s
        return text

    def end(self) -> None:
        """The stream is over, and the answer was whole when the server said so."""
        if not self.reason:
            raise ProtocolError("the stream ended before the answer did")
        if self.reason not in _FINISHES:
            raise ProtocolError(f"the answer ended with finish_reason {self.reason!r}")
        self.finish = _FINISHES[self.reason]

    def break_off(self, finish: Finish, error: str = "") -> None:
        """No more will come; what has come stays."""
        self.finish, self.error, self.finished_s = finish, error, time.perf_counter()

    def answer(self) -> Answer:
        """All of it as a record."""
        num_new = self.num_counted or self.num_seen
        first_s, num_first = self.first_token_s, min(self.num_first, max(num_new, 1))
        if num_new and not first_s:  # a stop token alone, counted after the end
            first_s, num_first = self.finished_s, num_new
        return Answer(
            self.query.id,
            "".join(self.text),
            self.finish,
            num_prompt_tokens=self.num_prompt,
            num_new_tokens=num_new,
            num_first_tokens=num_first,
            submitted_s=self.submitted_s,
            started_s=self.started_s,
            first_token_s=first_s,
            finished_s=self.finished_s,
            logprobs=tuple(self.logprobs),
            error=self.error,
        )


def _logprobs(given: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    """Of one event; chat has a list of tokens, completions have lists beside one another."""
    for token in given.get("content") or ():
        others = [(each["token"], each["logprob"]) for each in token.get("top_logprobs") or ()]
        yield _logprob(token["token"], token["logprob"], others)
    names, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or itertools.repeat(None)
    for name, value, top in zip(names, values, tops, strict=False):
        likeliest = sorted((top or {}).items(), key=lambda pair: -pair[1])
        yield _logprob(name, value, likeliest)


def _logprob(name: str, value: float, others: Iterable[tuple[str, float]]) -> TokenLogprob:
    alternatives = tuple((_token_id(other), float(logprob)) for other, logprob in others)
    return TokenLogprob(_token_id(name), float(value), alternatives)


def _token_id(name: str) -> int:
    """The id, where the server names tokens by it (vLLM: `token_id:17`); -1 where by their text."""
    number = name.removeprefix("token_id:")
    return int(number) if number != name and number.isdecimal() else -1
