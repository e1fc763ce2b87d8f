"""OpenAI's requests, read field by field: a body in, what is asked or a Refusal out.

    {"model": "rag", "messages": [{"role": "user", "content": "What is lion?"}], "n": 2}
       │
       ▼
    Asked(operation="chat", model="rag", prompts=((Turn("user", "What is lion?"),),), n=2, ...)
       │ queries("chatcmpl-1")
       ▼
    Query("chatcmpl-1/0", seed=s), Query("chatcmpl-1/1", seed=s + 1)

Fields beyond OpenAI's, as vLLM has them: top_k, min_p, repetition_penalty, stop of any number,
stream_options.continuous_usage_stats, return_tokens_as_token_ids. A field that would change the
answer and that we do not have is refused by its name; so is one that nobody knows, because a
misspelt `temprature` is worse than an error. What says nothing (null, or the field's own default)
is taken as not said.

Choice i of n is drawn with seed + i, so that each can be asked for again by itself.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from coderllm_jax.data.prompts import turn_problem
from coderllm_jax.records import Query, Role, Sampling, Turn
from coderllm_jax.serving.fields import Fields, check_text, kind_of, missing, out_of_range, wrong
from coderllm_jax.serving.refusals import Refusal

Operation = Literal["chat", "completion"]
Prompt = tuple[Turn, ...] | str

MAX_ALTERNATIVES = {"chat": 20, "completion": 5}
_MAX_STOPS, _MAX_STOP_CHARACTERS, _MAX_TURNS = 16, 200, 1000
_SEEDS = 1 << 32
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "model",
}
# They tell a provider who asks; no answer depends on them.
_IGNORED = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user"})
# What these fields may say, because it is what happens anyway.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
_UNSUPPORTED = frozenset(
    {*_NEUTRAL, "audio", "moderation", "prediction", "reasoning_effort", "verbosity"}
    | {
        "web_search_options",
        "max_thinking_tokens",
        "guided_json",
        "guided_regex",
        "use_beam_search",
    }
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for, and what it gets where it does not say.

    max_characters: of a request's texts; beyond it no tokenization could make them fit, and none
    is tried.
    """

    default_tokens: int
    default_temperature: float
    max_choices: int
    max_characters: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request. `prompts` are conversations, or texts to be continued; each has `n` choices."""

    operation: Operation
    model: str
    prompts: tuple[Prompt, ...]
    n: int
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    num_alternatives: int | None  # None: no log-probabilities
    streams: bool
    includes_usage: bool
    counts_on_the_way: bool
    names_token_ids: bool

    @property
    def num_choices(self) -> int:
        """Answers that it gets."""
        return len(self.prompts) * self.n

    def queries(self, id: str, *, logprobs: bool = False) -> list[Query]:
        """One for each choice, in the order of their index.

        logprobs: whether they are wanted although the request does not ask for them.
        """
        return [
            Query(
                f"{id}/{place * self.n + choice}",
                turns=() if isinstance(prompt, str) else prompt,
                continues=prompt if isinstance(prompt, str) else "",
                max_new_tokens=self.max_new_tokens,
                sampling=dataclasses.replace(
                    self.sampling, seed=(self.sampling.seed + choice) % _SEEDS
                ),
                stop=self.stop,
                logprobs=logprobs or self.num_alternatives is not None,
            )
            for place, prompt in enumerate(self.prompts)
            for choice in range(self.n)
        ]


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body; Refusal where it is none."""
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refusal(
            400, "the body is not JSON; expected one object in UTF-8", "invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise Refusal(400, f"the body is {kind_of(body)}; expected an object", "invalid_type")
    return body


def read_request(body: Mapping[str, Any], operation: Operation, limits: Limits) -> Asked:
    """What is asked; Refusal with the field's name where it cannot be answered as it stands."""
    fields = Fields(body)
    model = fields.text("model")
    prompts = _conversation(fields) if operation == "chat" else _texts(fields)
    _check_characters(prompts, operation, limits)
    sampling = Sampling(
        temperature=fields.number("temperature", limits.default_temperature, low=0, high=2),
        top_k=max(0, fields.whole("top_k", 0, low=-1, high=1 << 31)),
        top_p=fields.number("top_p", 1.0, low=1e-6, high=1),
        min_p=fields.number("min_p", 0.0, low=0, high=1),
        repetition_penalty=fields.number("repetition_penalty", 1.0, low=1e-3, high=1e3),
        seed=_seed(fields),
    )
    streams = fields.flag("stream")
    options = fields.record("stream_options")
    if options.is_given_at_all and not streams:
        raise Refusal(
            400,
            "stream_options is set and stream is not; set stream, or leave it out",
            "invalid_value",
            param="stream_options",
        )
    asked = Asked(
        operation,
        model,
        prompts,
        n=fields.whole("n", 1, low=1, high=limits.max_choices),
        max_new_tokens=_max_tokens(fields, limits),
        sampling=sampling,
        stop=_stops(fields),
        num_alternatives=_alternatives(fields, operation),
        streams=streams,
        includes_usage=options.flag("include_usage"),
        counts_on_the_way=options.flag("continuous_usage_stats"),
        names_token_ids=fields.flag("return_tokens_as_token_ids"),
    )
    options.flag("include_obfuscation")
    options.end()
    _pass_over(fields)
    fields.end()
    if asked.num_choices > limits.max_choices:
        raise Refusal(
            400,
            f"{asked.num_choices} choices are asked for; expected at most {limits.max_choices}; "
            "send several requests",
            "invalid_value",
            param="n" if asked.n > 1 else "prompt",
        )
    return asked


def _pass_over(fields: Fields) -> None:
    """Takes what is without effect, and names what we lack: an answer without it would be wrong."""
    for name in _IGNORED:
        fields.take(name)
    for name in _UNSUPPORTED:
        value = fields.take(name)
        if value is not None and not any(value == neutral for neutral in _NEUTRAL.get(name, ())):
            raise Refusal(
                400,
                f"{name} is not supported here; leave it out",
                "unsupported_parameter",
                param=name,
            )


# ---------------------------------------------------------------------------------- prompts


def _conversation(fields: Fields) -> tuple[Prompt, ...]:
    messages = fields.take("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", messages, "a list of messages that ends with the user's")
    if len(messages) > _MAX_TURNS:
        raise out_of_range("messages", f"{len(messages)} messages", f"at most {_MAX_TURNS}")
    turns = tuple(_turn(message, f"messages[{i}]") for i, message in enumerate(messages))
    if problem := turn_problem(turns, last="user"):
        raise Refusal(400, problem, "invalid_value", param="messages")
    return (turns,)


def _turn(message: Any, place: str) -> Turn:
    if not isinstance(message, dict):
        raise wrong(place, message, "an object with role and content")
    fields = Fields(message, prefix=f"{place}.")
    role = fields.text("role")
    if role not in _ROLES:
        raise Refusal(
            400,
            f"{place}.role is another one than {', '.join(_ROLES)}; tools are not called here",
            "invalid_value",
            param=f"{place}.role",
        )
    content = fields.take("content")
    fields.take("name")  # of a speaker; Gemma's turns have none
    fields.end()
    return Turn(_ROLES[role], _content(content, f"{place}.content"))


def _content(content: Any, place: str) -> str:
    if isinstance(content, str):
        return check_text(content, place)
    if not isinstance(content, list):
        raise wrong(place, content, "a string, or a list of parts of type text")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise wrong(f"{place}[{i}]", part, 'a part such as {"type": "text", "text": ...}')
        if not isinstance(part.get("text"), str):
            raise wrong(f"{place}[{i}].text", part.get("text"), "a string")
        texts.append(check_text(part["text"], f"{place}[{i}].text"))
    return "".join(texts)


def _texts(fields: Fields) -> tuple[Prompt, ...]:
    prompt = fields.take("prompt")
    if prompt is None:
        raise missing("prompt")
    texts = prompt if isinstance(prompt, list) else [prompt]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong("prompt", prompt, "a string or a list of strings; token ids are not taken")
    if not all(texts):
        raise out_of_range("prompt", "an empty text", "something to continue")
    return tuple(check_text(text, "prompt") for text in texts)


def _check_characters(prompts: Sequence[Prompt], operation: Operation, limits: Limits) -> None:
    for prompt in prompts:
        length = len(prompt) if isinstance(prompt, str) else sum(len(t.content) for t in prompt)
        if length > limits.max_characters:
            raise Refusal(
                400,
                f"the prompt has {length} characters; expected at most {limits.max_characters}, "
                "more than the model's context holds in any case; shorten it",
                "context_length_exceeded",
                param="messages" if operation == "chat" else "prompt",
            )


# ----------------------------------------------------------------------------------- options


def _max_tokens(fields: Fields, limits: Limits) -> int:
    older = fields.whole("max_tokens", 0, low=1, high=1 << 31)
    newer = fields.whole("max_completion_tokens", 0, low=1, high=1 << 31)
    if older and newer and older != newer:
        raise Refusal(
            400,
            f"max_tokens is {older} and max_completion_tokens {newer}; set one of them",
            "invalid_value",
            param="max_tokens",
        )
    return newer or older or limits.default_tokens


def _seed(fields: Fields) -> int:
    """The request's own, wherever in 64 bits it lies; without one, a new one."""
    value = fields.take("seed")
    if value is None:
        return secrets.randbelow(_SEEDS)
    if type(value) is not int:
        raise wrong("seed", value, "a whole number")
    if not -(1 << 63) <= value < 1 << 63:
        raise out_of_range("seed", "beyond 64 bits", "a 64-bit number")
    return value % _SEEDS


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    if not all(isinstance(stop, str) for stop in stops):
        raise wrong("stop", value, "a string or a list of strings")
    if len(stops) > _MAX_STOPS:
        raise out_of_range("stop", f"{len(stops)} texts", f"at most {_MAX_STOPS}")
    for stop in stops:
        if not 0 < len(stop) <= _MAX_STOP_CHARACTERS:
            raise out_of_range(
                "stop", f"a text of {len(stop)} characters", f"1 to {_MAX_STOP_CHARACTERS}"
            )
    return tuple(check_text(stop, "stop") for stop in stops)


def _alternatives(fields: Fields, operation: Operation) -> int | None:
    """How many alternatives each token comes with; None where no log-probabilities are wanted."""
    most = MAX_ALTERNATIVES[operation]
    if operation == "completion":
        is_given = fields.is_given("logprobs")
        count = fields.whole("logprobs", 0, low=0, high=most)
        return count if is_given else None
    wanted = fields.flag("logprobs")
    is_given = fields.is_given("top_logprobs")
    count = fields.whole("top_logprobs", 0, low=0, high=most)
    if is_given and count and not wanted:
        raise Refusal(
            400,
            "top_logprobs is set and logprobs is not; set logprobs to true",
            "invalid_value",
            param="top_logprobs",
        )
    return count if wanted else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
