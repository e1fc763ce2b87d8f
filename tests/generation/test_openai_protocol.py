"""Events in, an answer out: what is a token, when it came, and what ends it."""

from __future__ import annotations

import pytest

from coderllm_jax.generation.openai_protocol import ProtocolError, Reply
from coderllm_jax.records import Query


def event(text=None, *, counted=None, finish=None, names=(), thought=None):
    """A chat event as the client hands it over."""
    choice = {"delta": {"content": text, "reasoning_content": thought}, "finish_reason": finish}
    tokens = [{"token": name, "logprob": -0.5, "top_logprobs": None} for name in names]
    return {"choices": [{**choice, "logprobs": {"content": tokens}}], **count(counted)}


def count(counted):
    """The event that only counts, or its part of another."""
    usage = {"prompt_tokens": 5, "completion_tokens": counted}
    return {"usage": usage if counted else None}


def read(*events):
    """The answer to (seconds, event) pairs of a query submitted at 10 s."""
    query = Query.from_question("q", "What is jit?")
    reply = Reply(query, submitted_s=10.0, started_s=10.5)
    for now_s, each in events:
        reply.read(each, now_s)
    reply.end()
    return reply.answer()


def test_counts_on_the_way_are_believed():
    answer = read(
        (11.0, event("")),  # the role alone
        (12.0, event("a b c", counted=3)),
        (14.0, event(" d", counted=4)),
        (16.0, event(finish="stop", counted=5)),  # the stop token
        (99.0, count(5)),
    )
    assert (answer.num_first_tokens, answer.num_new_tokens) == (3, 5)
    assert answer.time_to_first_token_s == 2.0
    assert answer.time_per_token_s == (16.0 - 12.0) / 2


def test_without_them_log_probabilities_count():
    answer = read(
        (12.0, event("a b", names=("a", " b"))),
        (13.0, event(" c", names=(" c",), finish="length")),
        (13.5, count(3)),
    )
    assert (answer.num_first_tokens, answer.num_new_tokens, answer.time_per_token_s) == (2, 3, 1.0)


def test_without_either_the_first_chunk_is_one_token():
    answer = read(
        (12.0, event("a b")),
        (14.0, event(" c", finish="stop")),
        (14.0, count(3)),
    )
    assert (answer.num_first_tokens, answer.num_new_tokens, answer.time_per_token_s) == (1, 3, 1.0)


def test_a_server_that_counts_nothing_has_a_token_a_chunk():
    answer = read((12.0, event("a b")), (14.0, event(" c")), (15.0, event(finish="stop")))
    assert (answer.num_first_tokens, answer.num_new_tokens) == (1, 2)


def test_a_token_without_text_is_a_first_token():
    # Half a character in UTF-8: counted, and nothing to show for it yet.
    answer = read((12.0, event("", counted=1)), (13.0, event("é", counted=2, finish="stop")))
    assert (answer.first_token_s, answer.num_first_tokens, answer.text) == (12.0, 1, "é")


def test_thinking_is_counted_and_is_no_text():
    answer = read((12.0, event(None, thought="hm")), (13.0, event("yes", finish="stop")))
    assert (answer.first_token_s, answer.text, answer.num_new_tokens) == (12.0, "yes", 2)


def test_an_answer_of_a_stop_token_alone():
    for events in (
        [(12.0, event(finish="stop", counted=1))],
        [(12.0, event(finish="stop")), (13.0, count(1))],
    ):
        answer = read(*events)
        assert (answer.first_token_s, answer.finished_s) == (12.0, 12.0)
        assert (answer.num_new_tokens, answer.num_first_tokens) == (1, 1)
        assert answer.time_per_token_s is None


@pytest.mark.parametrize(
    ("said", "finish"),
    [("stop", "stop"), ("eos_token", "stop"), ("length", "length"), ("max_tokens", "length")],
)
def test_servers_have_several_words_for_an_end(said, finish):
    assert read((12.0, event("a", finish=said))).finish == finish


@pytest.mark.parametrize("said", ["content_filter", "tool_calls", "abort", None])
def test_other_ends_are_no_answer(said):
    with pytest.raises(ProtocolError):
        read((12.0, event("a", finish=said)))
