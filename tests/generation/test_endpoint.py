"""A remote endpoint: what is sent, what is counted, how it fails, and what never leaves."""

from __future__ import annotations

import contextlib
import email.utils
import json
import sys
import threading
import time

import pytest

from coderllm_jax.errors import ConfigError, DataError
from coderllm_jax.generation.endpoint import Endpoint, _retry_after_s
from coderllm_jax.records import Query, Sampling, TokenLogprob, Turn
from tests.fakes import Reply, ScriptedEndpoint

KEY = "sk-canary/of+the=endpoint"
PATIENCE_S = 60.0  # the machine may be busy; nothing here takes a second by itself


def ask(endpoint, *queries):
    """Deltas of the queries until nothing is going on."""
    for query in queries:
        endpoint.submit(query)
    return drain(endpoint)


def drain(endpoint, until=lambda deltas: False):
    deltas, give_up = [], time.monotonic() + PATIENCE_S
    while not endpoint.is_idle and not until(deltas):
        assert time.monotonic() < give_up, f"nothing more came after {deltas}"
        deltas += endpoint.poll(0.1)
    return deltas


@contextlib.contextmanager
def serving(script, *, num_places=64, unknown_fields=(), **how):
    """(server, endpoint)"""
    with ScriptedEndpoint(script, num_places=num_places, unknown_fields=unknown_fields) as server:
        endpoint = Endpoint(server.url, **{"model": "m", "timeout_s": PATIENCE_S, **how})
        with contextlib.closing(endpoint):
            yield server, endpoint


def question(id="q", text="What is jit?", **how):
    return Query.from_question(id, text, **how)


# ------------------------------------------------------------------------- times and counts


def test_chunks_of_several_tokens_give_exact_times():
    reply = Reply(chunks=((0.05, "a b", 2), (0.15, " c d e", 3), (0.2, " f", 1)))
    with serving(reply) as (server, endpoint):
        deltas = ask(endpoint, question())
    assert [delta.text for delta in deltas] == ["a b", " c d e", " f", ""]
    answer, sent_s = deltas[-1].answer, server.requests[0].sent_s
    assert (answer.text, answer.finish, answer.error) == ("a b c d e f", "stop", "")
    assert (answer.num_prompt_tokens, answer.num_new_tokens, answer.num_first_tokens) == (7, 6, 2)
    # Within what a busy machine takes from the server's clock to ours, which are the same clock.
    assert sent_s[0] <= answer.first_token_s < sent_s[0] + 5
    assert sent_s[-1] <= answer.finished_s < sent_s[-1] + 5
    assert answer.submitted_s <= answer.started_s < answer.first_token_s
    assert answer.time_to_first_token_s >= 0.05
    assert answer.time_per_token_s == (answer.finished_s - answer.first_token_s) / 4


def test_log_probabilities_of_both_protocols():
    reply = Reply(chunks=((0, "a b", 2), (0, " c", 1)))
    with serving(reply, max_in_flight=1) as (server, endpoint):
        chat, text = (
            delta.answer
            for delta in ask(
                endpoint,
                question("1", logprobs=True),
                Query("2", continues="def f", logprobs=True),
            )
            if delta.answer
        )
    expected = [
        TokenLogprob(token, -0.5, ((token, -0.5), (-1, -1.5))) for token in (0, 1, 0)
    ]  # -1: the server named it by its text
    assert list(chat.logprobs) == list(text.logprobs) == expected
    assert [request.path for request in server.requests] == [
        "/v1/chat/completions",
        "/v1/completions",
    ]


# ------------------------------------------------------------------------------ what is sent


def test_turns_go_to_chat_with_what_was_asked_for():
    turns = (Turn("system", "Be brief."), Turn("user", "a"), Turn("model", "b"), Turn("user", "c"))
    sampling = Sampling(
        temperature=0.5, top_p=0.9, seed=3, top_k=40, min_p=0.1, repetition_penalty=1.5
    )
    query = Query("q", turns, max_new_tokens=9, sampling=sampling, stop=("\n\n", "```"))
    with serving(Reply()) as (server, endpoint):
        ask(endpoint, query)
    assert server.requests[0].body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["\n\n", "```"],
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
    }


def test_what_is_off_is_not_sent():
    with serving(Reply()) as (server, endpoint):
        ask(endpoint, Query("q", continues="def f(", max_new_tokens=4))
    assert server.requests[0].path == "/v1/completions"
    assert server.requests[0].body == {
        "model": "m",
        "prompt": "def f(",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 4,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 0,
    }


def test_a_server_that_knows_no_counts_on_the_way_is_asked_once():
    strict = ("stream_options.continuous_usage_stats",)
    with serving(Reply(), unknown_fields=strict) as (server, endpoint):
        first = ask(endpoint, question("1"))[-1].answer
        second = ask(endpoint, question("2"))[-1].answer
    assert (first.error, second.error, first.text) == ("", "", "ok")
    assert first.num_new_tokens == 1
    assert len(server.requests) == 3


def test_a_server_that_has_said_so_once_is_not_asked_again_for_a_bad_query():
    with serving([Reply(), Reply(status=400, message="too long")]) as (server, endpoint):
        ask(endpoint, question("1"))
        answer = ask(endpoint, question("2"))[-1].answer
    assert len(server.requests) == 2
    assert "HTTP 400: too long" in answer.error


def test_no_more_than_max_in_flight_are_with_the_server():
    with serving(Reply(chunks=((0.02, "a", 1),)), max_in_flight=2) as (server, endpoint):
        deltas = ask(endpoint, *(question(str(n)) for n in range(6)))
    moments = sorted(
        [(request.arrived_s, 1) for request in server.requests]
        + [(delta.answer.finished_s, -1) for delta in deltas if delta.answer]
    )
    going = 0
    for _, step in moments:
        going += step
        assert going <= 2
    assert len(server.requests) == 6


# ------------------------------------------------------------------------------ how it fails


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=500, message="out of memory"), "HTTP 500: out of memory"),
        (Reply(status=401, message="no such key"), "HTTP 401: no such key"),
        (Reply(status=404, message="no such\nmodel"), "HTTP 404: no such model"),
        (Reply(fault="cut"), "the connection failed"),
        (Reply(fault="early_end"), "the stream ended before the answer did"),
        (Reply(fault="html"), "text/html"),
        (Reply(fault="event", raw="{not json"), "not OpenAI's protocol"),
        (Reply(fault="event", raw='{"error": {"message": "went away"}}'), "went away"),
        (Reply(fault="event", raw="[1, 2]"), "not OpenAI's protocol"),
        (Reply(fault="event", raw='{"choices": 7}'), "not OpenAI's protocol"),
        (Reply(fault="event", raw='{"choices": [null]}'), "not OpenAI's protocol"),
        (Reply(fault="event", raw='{"choices": [{"delta": null}]}'), "the stream ended before"),
        (Reply(fault="event", raw='{"choices": [{"logprobs": 3}]}'), "not OpenAI's protocol"),
        (Reply(fault="event", raw='{"choices": [{"delta": {"content": 7}}]}'), "text is int"),
        (
            Reply(fault="event", raw='{"choices": [], "usage": {"completion_tokens": "x"}}'),
            "not OpenAI's protocol",
        ),
        (
            Reply(
                fault="event", raw='{"choices": [{"delta": {"content": ""}, "finish_reason": {}}]}'
            ),
            "ended",
        ),
        (Reply(finish="content_filter"), "'content_filter'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_failures_end_in_one_line(reply, said):
    with serving(reply) as (server, endpoint):
        answer = ask(endpoint, question())[-1].answer
        assert endpoint.is_idle
    assert answer.finish == "error"
    assert said in answer.error
    assert answer.error.startswith(f"{server.url}: ")
    assert "\n" not in answer.error
    assert answer.finished_s >= answer.submitted_s > 0


def test_nobody_listens():
    with contextlib.closing(Endpoint("http://127.0.0.1:9/v1", model="m")) as endpoint:
        answer = ask(endpoint, question())[-1].answer
    assert answer.finish == "error"
    assert "the connection failed" in answer.error
    assert "9" in answer.error


@pytest.mark.parametrize(
    "reply",
    [
        Reply(fault="hang"),
        # Never silent for long, and never done: a limit between two reads would not end it.
        Reply(chunks=((0.0, "ok", 1), *((0.05 * n, "", 0) for n in range(1, 2000)))),
    ],
    ids=["silent", "dripping"],
)
def test_a_server_that_does_not_end_is_left(reply):
    with serving(reply, timeout_s=0.3) as (_, endpoint):
        answer = ask(endpoint, question())[-1].answer
    assert (answer.finish, answer.text) == ("error", "ok")
    assert answer.error.endswith("no whole answer within 0.3 s")


def test_an_error_is_cut_to_a_line():
    with serving(Reply(status=500, message="x" * 5000)) as (_, endpoint):
        assert len(ask(endpoint, question())[-1].answer.error) <= 300


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_asked_again_and_the_waiting_counts(status):
    busy = Reply(status=status, retry_after="0.6")
    with serving([busy, Reply()]) as (server, endpoint):
        answer = ask(endpoint, question())[-1].answer
    assert (answer.finish, len(server.requests)) == ("stop", 2)
    assert server.requests[1].arrived_s - server.requests[0].arrived_s >= 0.6
    assert answer.time_to_first_token_s >= 0.6


def test_patience_ends():
    with serving(Reply(status=429), retries=1) as (server, endpoint):
        answer = ask(endpoint, question())[-1].answer
    assert len(server.requests) == 2
    assert "HTTP 429" in answer.error


def test_a_wait_beyond_the_time_limit_is_not_begun():
    with serving(Reply(status=503, retry_after="3600")) as (server, endpoint):
        answer = ask(endpoint, question())[-1].answer
    assert len(server.requests) == 1
    assert "after 3600 s, which is beyond timeout_s" in answer.error
    assert answer.total_s < 30


def test_retry_after_in_both_forms():
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < _retry_after_s({"retry-after": in_a_minute}) <= 60
    assert _retry_after_s({"retry-after": "2.5"}) == 2.5
    for nothing in ("", "soon", "-3", email.utils.formatdate(0, usegmt=True)):
        assert _retry_after_s({"retry-after": nothing}) == 0.0


def test_one_failure_costs_no_other_answer():
    def script(body):
        asks_for_it = "fail" in body["messages"][-1]["content"]
        return Reply(fault="cut") if asks_for_it else Reply()

    with serving(script) as (_, endpoint):
        queries = [question(str(n), "fail" if n % 3 == 0 else "fine") for n in range(9)]
        answers = {delta.id: delta.answer for delta in ask(endpoint, *queries) if delta.answer}
    assert [answers[str(n)].finish for n in range(9)] == ["error", "stop", "stop"] * 3


# -------------------------------------------------------------------------- cancel and close


def wait_until(is_so):
    give_up = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_cancelling_closes_the_stream_and_keeps_what_was_said():
    endless = Reply(chunks=tuple((0.02 * n, "a", 1) for n in range(3000)))
    with serving(endless) as (server, endpoint):
        endpoint.submit(question())
        drain(endpoint, until=lambda deltas: len(deltas) >= 2)
        assert endpoint.cancel("q")
        answer = drain(endpoint)[-1].answer
        assert answer.finish == "cancelled"
        assert set(answer.text) == {"a"}
        assert answer.num_new_tokens == len(answer.text) >= 2
        assert not endpoint.cancel("q")
        wait_until(lambda: server.requests[0].disconnected)


def test_cancelling_one_that_waits_never_reaches_the_server():
    with serving(Reply(fault="hang"), max_in_flight=1) as (server, endpoint):
        endpoint.submit(question("1"))
        endpoint.submit(question("2"))
        assert endpoint.cancel("2")  # perhaps before its task has begun
        answer = drain(endpoint, until=lambda deltas: any(d.answer for d in deltas))[-1].answer
        assert (answer.id, answer.finish, answer.started_s) == ("2", "cancelled", 0.0)
        assert not endpoint.is_idle
    assert len(server.requests) <= 1


def test_what_has_ended_and_was_not_told_yet_cannot_be_cancelled():
    with serving(Reply()) as (_, endpoint):
        endpoint.submit(question())
        wait_until(lambda: endpoint._going["q"].reply.finish)
        assert not endpoint.cancel("q")
        assert not endpoint.is_idle
        assert endpoint.poll()[-1].answer.finish == "stop"


def test_closing_cancels_and_leaves_nothing():
    before = set(threading.enumerate())
    with ScriptedEndpoint(Reply(fault="hang")) as server:
        endpoint = Endpoint(server.url, model="m")
        endpoint.submit(question("1"))
        endpoint.submit(question("2"))
        wait_until(lambda: len(server.requests) == 2)
        endpoint.close()
        endpoint.close()
        answers = [delta.answer for delta in endpoint.poll() if delta.answer]
        assert [answer.finish for answer in answers] == ["cancelled"] * 2
        assert endpoint.is_idle
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_polling_waits_only_while_something_is_going_on():
    with serving(Reply()) as (_, endpoint):
        start_s = time.monotonic()
        assert endpoint.poll(PATIENCE_S) == []
        assert time.monotonic() - start_s < PATIENCE_S / 2


def test_queries_that_cannot_be():
    with serving(Reply(fault="hang")) as (_, endpoint):
        with pytest.raises(DataError, match="neither turns nor a text"):
            endpoint.submit(Query("q"))
        with pytest.raises(DataError, match="surrogate"):
            endpoint.submit(question(text="half a \ud83d"))
        endpoint.submit(question())
        with pytest.raises(DataError, match="its own id"):
            endpoint.submit(question())


# ---------------------------------------------------------------------------------- secrets


def test_the_key_is_sent_and_said_nowhere():
    talkative = Reply(status=403, message=f"{KEY} may not do this, says Bearer {KEY}")
    with serving([Reply(), talkative], api_key=f"{KEY}\n") as (server, endpoint):
        ask(endpoint, question("1"))
        answer = ask(endpoint, question("2"))[-1].answer
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "HTTP 403: *** may not do this" in answer.error
    for said in (answer.error, json.dumps(endpoint.identity), repr(endpoint), repr(answer)):
        assert KEY not in said
    assert endpoint.identity == {"url": server.url, "model": "m", "max_in_flight": 16}


def test_the_environment_is_not_sent(monkeypatch):
    ambient = {
        "OPENAI_API_KEY": "sk-somebody-elses",
        "OPENAI_ADMIN_KEY": "sk-of-an-admin",
        "OPENAI_ORG_ID": "org-canary",
        "OPENAI_PROJECT_ID": "proj-canary",
    }
    for name, value in ambient.items():
        monkeypatch.setenv(name, value)
    for key in (None, KEY):
        with serving(Reply(), api_key=key) as (server, endpoint):
            ask(endpoint, question(), Query("2", continues="x"))
        for request in server.requests:
            sent = repr(dict(request.headers)) + repr(request.body)
            assert not [value for value in ambient.values() if value in sent]
            assert ("authorization" in request.headers) == (key is not None)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://[::1/v1",
        "http://host:99999/v1",
        "http://user:hunter2hunter2@host/v1",
        "http://host/v1?key=hunter2hunter2",
        "http://host/v1#hunter2hunter2",
    ],
)
def test_urls_that_cannot_be_meant(url):
    with pytest.raises(ConfigError, match="expected http") as caught:
        Endpoint(url, model="m")
    assert "hunter2" not in str(caught.value)


def test_a_key_that_no_header_carries_is_not_repeated():
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        Endpoint("http://host/v1", model="m", api_key="sk-\ncanary")
    assert "canary" not in str(caught.value)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="pip install openai"):
        Endpoint("http://host/v1", model="m")
