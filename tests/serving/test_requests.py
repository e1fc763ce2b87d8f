"""Bodies in, what is asked or a refusal out: by hand, and then with whatever JSON can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.records import Sampling, Turn
from coderllm_jax.serving.refusals import Refusal
from coderllm_jax.serving.requests import Asked, Limits, parse_body, read_request

LIMITS = Limits(default_tokens=64, default_temperature=0.0, max_choices=4, max_characters=1000)
HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Asked:
    return read_request({"model": "base", "messages": HI} | fields, "chat", LIMITS)


def complete(**fields: Any) -> Asked:
    return read_request({"model": "base", "prompt": "hi"} | fields, "completion", LIMITS)


def refusal(read: Any, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(**fields)
    assert caught.value.status == 400
    assert caught.value.as_json()["error"]["type"] == "invalid_request_error"
    return caught.value


def test_what_is_not_said_has_its_default() -> None:
    asked = chat(seed=5)
    assert asked == Asked(
        "chat", "base", ((Turn("user", "hi"),),), 1, 64, Sampling(seed=5), (), None,
        streams=False, includes_usage=False, counts_on_the_way=False, names_token_ids=False,
    )  # fmt: skip
    nothing = {"temperature": None, "n": None, "stop": None, "stream": None, "tools": None}
    assert chat(seed=5, **nothing) == asked


def test_every_field_that_is_known() -> None:
    asked = chat(
        temperature=0.5, top_p=0.9, top_k=-1, min_p=0.1, repetition_penalty=1.1, seed=-1, n=2,
        max_completion_tokens=7, stop=["a", "b"], logprobs=True, top_logprobs=20, stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        return_tokens_as_token_ids=True, user="me", metadata={"a": "b"}, presence_penalty=0,
        tools=[], tool_choice="none", response_format={"type": "text"}, logit_bias={},
    )  # fmt: skip
    assert asked.sampling == Sampling(0.5, 0, 0.9, 0.1, 1.1, (1 << 32) - 1)
    assert (asked.n, asked.max_new_tokens, asked.stop) == (2, 7, ("a", "b"))
    assert asked.num_alternatives == 20
    assert asked.streams
    assert asked.includes_usage
    assert asked.counts_on_the_way
    assert asked.names_token_ids
    assert complete(logprobs=0).num_alternatives == 0
    assert complete(logprobs=5, best_of=1, echo=False).num_alternatives == 5


def test_choices_are_numbered_through_prompts_and_seeds() -> None:
    asked = complete(prompt=["a", "b"], n=2, seed=(1 << 32) - 1)
    assert [(query.id, query.continues, query.sampling.seed) for query in asked.queries("x")] == [
        ("x/0", "a", (1 << 32) - 1),
        ("x/1", "a", 0),
        ("x/2", "b", (1 << 32) - 1),
        ("x/3", "b", 0),
    ]


def test_roles_and_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts, "name": "me"},
        {"role": "assistant", "content": "m", "refusal": None, "tool_calls": None},
        {"role": "user", "content": ""},
    ]
    assert chat(messages=messages).prompts == (
        (Turn("system", "s"), Turn("user", "ab"), Turn("model", "m"), Turn("user", "")),
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [*HI, *HI]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "messages[0].audio"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 1001}]}, "messages"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 1 << 63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"temprature": 1}, "temprature"),
        ({"prompt": "x"}, "prompt"),
    ],
)  # fmt: skip
def test_what_chat_refuses_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(chat, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"messages": HI}, "messages"),
        ({"top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_what_completions_refuse_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(complete, **fields).param == param


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nul", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1e999, "a"}', b"1" * 5000],
)
def test_what_is_not_json(raw: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_body(raw)
    assert caught.value.code in ("invalid_json", "invalid_type")


@pytest.mark.parametrize("raw", [b"[]", b"3", b'"x"', b"null", b"true"])
def test_what_is_no_object(raw: bytes) -> None:
    with pytest.raises(Refusal, match="expected an object"):
        parse_body(raw)


def test_no_word_of_a_request_is_in_a_refusal() -> None:
    canary = "canary-7f3a"
    for fields in (
        {"messages": canary},
        {"messages": [{"role": canary, "content": canary}]},
        {"messages": [{"role": "user", "content": [canary]}]},
        {"temperature": canary},
        {"stop": [canary, 3]},
        {"stream_options": canary},
        {"tools": [canary]},
        {"response_format": canary},
    ):
        assert canary not in json.dumps(refusal(chat, **fields).as_json())
    key = "sk-" + "proj-4f9aB7cD2eF6gH8iJ0kL"
    assert key not in json.dumps(refusal(chat, **{key: 1}).as_json())
    assert len(json.dumps(refusal(chat, **{"x" * 9999: 1}).as_json())) < 500


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = (
    st.sampled_from(["model", "messages", "prompt", "temperature", "top_p", "top_k", "n", "seed"])
    | st.sampled_from(["stop", "stream", "stream_options", "logprobs", "top_logprobs", "tools"])
    | st.text(max_size=8)
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from(["chat", "completion"]))
def test_whatever_comes_is_understood_or_refused(fields: dict[str, Any], operation: Any) -> None:
    body = {"model": "base", "messages" if operation == "chat" else "prompt": HI} | fields
    try:
        asked = read_request(body, operation, LIMITS)
    except Refusal as refused:
        json.dumps(refused.as_json(), ensure_ascii=False).encode()  # what a response does
        return
    assert 1 <= len(asked.queries("x")) <= LIMITS.max_choices
