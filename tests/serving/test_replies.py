"""Replies written by hand, and the service's times of a request."""

from __future__ import annotations

import json

import pytest

from coderllm_jax.records import Answer, Sampling, Source, TokenLogprob, Turn
from coderllm_jax.serving.replies import Reply, event
from coderllm_jax.serving.requests import Asked
from coderllm_jax.serving.service import Measured, measure

SPELLED = {1: "a", 2: "\u00e4", 3: "\ufffd"}


def reply(operation: str = "chat", *, n: int = 1, num_alternatives: int | None = None) -> Reply:
    asked = Asked(
        operation, "rag", ((Turn("user", "?"),),), n, 9, Sampling(), (), num_alternatives,
        streams=False, includes_usage=True, counts_on_the_way=False, names_token_ids=False,
    )  # fmt: skip
    return Reply(asked, "chatcmpl-1", 1000, "fp_0", SPELLED.__getitem__)


ANSWER = Answer(
    "chatcmpl-1/0",
    "a\u00e4",
    "stop",
    num_prompt_tokens=5,
    num_new_tokens=3,
    sources=(Source("optax.clip#2", "text", "optax 0.2", 0.5),),
    logprobs=(TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.0))), TokenLogprob(3, -2.0, ((3, -2.0),))),
)


def test_a_whole_reply() -> None:
    assert reply().whole([ANSWER], looks_up=True) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1000,
        "model": "rag",
        "system_fingerprint": "fp_0",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a\u00e4", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "sources": [{"index": 0, "id": "optax.clip#2", "score": 0.5, "source": "optax 0.2"}],
    }
    assert "sources" not in reply().whole([ANSWER], looks_up=False)


def test_a_prompt_counts_once_and_every_choice_s_tokens() -> None:
    usage = reply(n=2).whole([ANSWER, ANSWER], looks_up=False)["usage"]
    assert usage == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_log_probabilities_of_chat() -> None:
    choice = reply(num_alternatives=1).whole([ANSWER], looks_up=False)["choices"][0]
    assert choice["logprobs"]["content"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}],
        },
        {  # part of a character: there are no bytes to tell
            "token": "\ufffd",
            "logprob": -2.0,
            "bytes": None,
            "top_logprobs": [{"token": "\ufffd", "logprob": -2.0, "bytes": None}],
        },
    ]


def test_log_probabilities_of_completions() -> None:
    choice = reply("completion", num_alternatives=2).whole([ANSWER], looks_up=False)["choices"][0]
    assert choice["text"] == "a\u00e4"
    assert choice["logprobs"] == {
        "tokens": ["a", "\ufffd"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"a": -0.5, "\u00e4": -1.0}, {"\ufffd": -2.0}],
        "text_offset": [0, 1],
    }
    later = reply("completion", num_alternatives=2).piece(0, "a", ANSWER.logprobs, offset=7)
    assert later["choices"][0]["logprobs"]["text_offset"] == [7, 8]
    none = reply("completion", num_alternatives=0).whole([ANSWER], looks_up=False)["choices"][0]
    assert none["logprobs"]["top_logprobs"] is None


def test_the_chunks_of_a_stream() -> None:
    made = reply()
    first = made.opening(0)
    assert first is not None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    piece = made.piece(0, "a", ())
    assert piece["choices"] == [
        {"index": 0, "logprobs": None, "delta": {"content": "a"}, "finish_reason": None}
    ]
    assert piece["usage"] is None
    end = made.ending(0, ANSWER, looks_up=True)
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["sources"][0]["id"] == "optax.clip#2"
    assert made.counted([ANSWER])["choices"] == []
    assert reply("completion").opening(0) is None


def test_an_event_is_one_line_whatever_a_model_says() -> None:
    data = event({"text": "a\n\ndata: [DONE]\n\n\u2028"})
    assert data.count(b"\n") == 2
    assert data.endswith(b"\n\n")
    assert json.loads(data.removeprefix(b"data: "))["text"] == "a\n\ndata: [DONE]\n\n\u2028"


def test_times_of_a_request() -> None:
    """Came at 10: a choice from 11 with tokens at 12, 13, 14; another from 12 with one at 13."""
    times = {"submitted_s": 10.5, "finish": "stop"}
    first = Answer("a", started_s=11, first_token_s=12, finished_s=14, num_new_tokens=3, **times)
    other = Answer("b", started_s=12, first_token_s=13, finished_s=13, num_new_tokens=1, **times)
    assert measure([first, other], 10.0) == Measured(1.0, 2.0, 1.0, 14.0, None)
    assert measure([], 10.0) == Measured(None, None, None, None, None)
    waited = Answer("c", submitted_s=10.5, finished_s=11, finish="cancelled")
    assert measure([waited], 10.0) == Measured(None, None, None, 11, None)
    assert measure([ANSWER], 0.0).mean_logprob == pytest.approx(-1.25)
