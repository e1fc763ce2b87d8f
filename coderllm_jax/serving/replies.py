"""Answers as OpenAI's replies: whole, or a stream of chunks. Nothing here knows of a network.

    chat, streamed    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
                      {"choices": [{"index": 0, "delta": {"content": "It cl"}}]}
                      {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                       "sources": [{"index": 0, "id": "optax.clip#2", "score": 0.61, ...}]}
                      {"choices": [], "usage": {...}}        where stream_options asks for it
                      [DONE]

Beyond OpenAI's own fields: `sources`, the passages that each choice rests on (`[1]` in its text is
the first), beside the choices of a whole reply and in each choice's last chunk; nothing where the
model looks nothing up. A token's `bytes` are null where it is part of a character. In completions,
`text_offset` counts from the answer's beginning, in every chunk of a stream.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coderllm_jax.records import Answer, TokenLogprob
from coderllm_jax.serving.requests import Asked

DONE = b"data: [DONE]\n\n"
_UNFINISHED = "\ufffd"
# A token's text by its id.
Spell = Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Reply:
    """One request's reply in the making. created: seconds since 1970."""

    asked: Asked
    id: str
    created: int
    fingerprint: str
    spell: Spell

    def whole(self, answers: Sequence[Answer], *, looks_up: bool) -> dict[str, Any]:
        """Everything at once; `answers` in the order of their index."""
        choices = []
        for index, answer in enumerate(answers):
            text: dict[str, Any] = {"text": answer.text}
            if self._is_chat:
                text = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            choices.append(
                {
                    "index": index,
                    **text,
                    "logprobs": self._logprobs(answer.logprobs),
                    "finish_reason": answer.finish,
                }
            )
        kind = "chat.completion" if self._is_chat else "text_completion"
        reply = {**self._head(kind), "choices": choices, "usage": self.usage(answers)}
        if looks_up:
            reply["sources"] = [
                source
                for index, answer in enumerate(answers)
                for source in sources_of(answer, index)
            ]
        return reply

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice begins with: chat says who speaks."""
        if not self._is_chat:
            return None
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}})

    def piece(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        *,
        offset: int = 0,
        usage: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """More of a choice's text; offset: `spelled_length` of the tokens before it."""
        said: dict[str, Any] = {"delta": {"content": text}} if self._is_chat else {"text": text}
        said["logprobs"] = self._logprobs(logprobs, offset=offset)
        return self._chunk(index, said, usage=usage)

    def ending(
        self,
        index: int,
        answer: Answer,
        *,
        looks_up: bool,
        usage: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """How a choice ended, and what it rests on."""
        said: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        chunk = self._chunk(index, said, finish=answer.finish, usage=usage)
        if looks_up:
            chunk["sources"] = sources_of(answer, index)
        return chunk

    def counted(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The chunk after the last choice, which only counts."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": self.usage(answers)}

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        """Tokens in and out. As OpenAI counts: a prompt once, however many choices it has."""
        return usage_of(
            sum(answer.num_prompt_tokens for answer in answers[:: self.asked.n]),
            sum(answer.num_new_tokens for answer in answers),
        )

    @property
    def _is_chat(self) -> bool:
        return self.asked.operation == "chat"

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(
        self,
        index: int,
        said: Mapping[str, Any],
        *,
        finish: str | None = None,
        usage: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **said, "finish_reason": finish}
        chunk = {**self._head(self._chunk_kind), "choices": [choice]}
        if self.asked.includes_usage:
            chunk["usage"] = usage if self.asked.counts_on_the_way else None
        return chunk

    # ------------------------------------------------------------------------ log-probabilities

    def spelled_length(self, found: Sequence[TokenLogprob]) -> int:
        """Characters of these tokens, each alone, as text_offset counts; 0 in chat, without it."""
        return 0 if self._is_chat else sum(len(self.spell(token.token)) for token in found)

    def _logprobs(self, found: Sequence[TokenLogprob], *, offset: int = 0) -> dict[str, Any] | None:
        count = self.asked.num_alternatives
        if count is None:
            return None
        if self._is_chat:
            return self._chat_logprobs(found, count)
        return self._lists(found, count, offset=offset)

    def _chat_logprobs(self, found: Sequence[TokenLogprob], count: int) -> dict[str, Any]:
        content = []
        for token in found:
            others = [self._named(*other) for other in token.alternatives[:count]]
            content.append({**self._named(token.token, token.logprob), "top_logprobs": others})
        return {"content": content, "refusal": None}

    def _lists(self, found: Sequence[TokenLogprob], count: int, *, offset: int) -> dict[str, Any]:
        names = [self._name(token.token) for token in found]
        offsets = []
        for token in found:
            offsets.append(offset)
            offset += len(self.spell(token.token))
        tops = [
            {self._name(other): value for other, value in token.alternatives[:count]}
            for token in found
        ]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in found],
            "top_logprobs": tops if count else None,
            "text_offset": offsets,
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spell(token)
        is_part = _UNFINISHED in text
        return {
            "token": self._name(token),
            "logprob": logprob,
            "bytes": None if is_part else list(text.encode()),
        }

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self.asked.names_token_ids else self.spell(token)


def usage_of(prompt: int, new: int) -> dict[str, int]:
    """Token counts by OpenAI's names."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def sources_of(answer: Answer, index: int) -> list[dict[str, Any]]:
    """The passages that a choice rests on, best first as they stood in its prompt."""
    return [
        {"index": index, "id": source.id, "score": source.score, "source": source.source}
        for source in answer.sources
    ]


def event(content: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def models_page(names: Sequence[str], versions: Mapping[str, str], created: int) -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": [model_entry(n, versions.get(n, ""), created) for n in names]}


def model_entry(name: str, version: str, created: int) -> dict[str, Any]:
    """One model of the list; `version` is what the request log calls model_version."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "coderllm_jax",
        "version": version,
    }
