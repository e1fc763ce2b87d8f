"""The official client against a real port: OpenAI's interface, and every answer the engine's."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from coderllm_jax.generation.answering import answer_all
from coderllm_jax.generation.endpoint import Endpoint
from coderllm_jax.generation.engine import Engine, Event
from coderllm_jax.records import GREEDY, Delta, Query, Sampling, Turn
from coderllm_jax.serving import service as service_module
from coderllm_jax.serving.tickets import Lane
from tests.fakes import FakeAnswerer, FakeClock, Reply
from tests.serving.running import reference, running
from tests.web.served import wait_until

HOT = {"temperature": 1.0, "top_p": 0.9, "seed": 7}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(folder=tmp_path_factory.mktemp("log"), keeps_text=True) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return server.client()


def said(*words: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": word} for i, word in enumerate(words)]


def in_process(*, count: int = 8, **how: Any) -> Any:
    """What the generator answers to the same, without a server."""
    how = {"turns": (Turn("user", "What?"),)} | how
    query = Query("q", max_new_tokens=count, **how)
    return answer_all(reference(), [query])[0]


def lines(server: Any, id: str) -> dict[str, Any]:
    """The log's line about an answer, which may follow the answer."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [
            row for row in map(json.loads, server.log.read_text().splitlines()) if row["id"] == id
        ]
        return bool(found)

    wait_until(is_there)
    assert len(found) == 1
    return found[0]


def test_a_greedy_answer_is_the_generator_s(client: openai.OpenAI) -> None:
    answer = in_process()
    reply = client.chat.completions.create(
        model="base", messages=said("What?"), max_tokens=8, temperature=0
    )
    (choice,) = reply.choices
    assert choice.message.content == answer.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == answer.finish
    assert reply.object == "chat.completion"
    assert reply.usage.prompt_tokens == answer.num_prompt_tokens
    assert reply.usage.completion_tokens == answer.num_new_tokens


def test_conversations_become_prompts_where_all_others_do(client: openai.OpenAI) -> None:
    turns = (
        Turn("system", "Be brief."),
        Turn("user", "A?"),
        Turn("model", " b"),
        Turn("user", "C?"),
    )
    answer = in_process(turns=turns)
    messages = [{"role": "developer", "content": "Be brief."}, *said("A?", " b", "C?")]
    messages[-1]["content"] = [{"type": "text", "text": "C"}, {"type": "text", "text": "?"}]
    reply = client.chat.completions.create(model="base", messages=messages, max_completion_tokens=8)
    assert reply.choices[0].message.content == answer.text
    assert reply.usage.prompt_tokens == answer.num_prompt_tokens


def test_every_sampling_option_reaches_the_engine(client: openai.OpenAI) -> None:
    sampling = Sampling(
        temperature=0.7, top_k=5, top_p=0.8, min_p=0.01, repetition_penalty=1.3, seed=11
    )
    answer = in_process(sampling=sampling)
    extras = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.3}
    reply = client.chat.completions.create(
        model="base",
        messages=said("What?"),
        max_tokens=8,
        temperature=0.7,
        top_p=0.8,
        seed=11,
        extra_body=extras,
    )
    assert reply.choices[0].message.content == answer.text
    other = client.chat.completions.create(
        model="base", messages=said("What?"), max_tokens=8, **HOT, extra_body=extras
    )
    assert other.choices[0].message.content != answer.text


def test_choice_i_is_drawn_with_seed_plus_i(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="base", messages=said("What?"), max_tokens=8, n=3, **HOT
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for i, choice in enumerate(reply.choices):
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=7 + i)
        assert choice.message.content == in_process(sampling=sampling).text
    assert len({choice.message.content for choice in reply.choices}) > 1
    one = in_process()
    assert reply.usage.prompt_tokens == one.num_prompt_tokens  # counted once, as OpenAI does


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    texts = {
        client.chat.completions.create(
            model="base", messages=said("What?"), max_tokens=16, temperature=1
        )
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) > 1


def test_stop_texts_end_the_answer_before_them(client: openai.OpenAI) -> None:
    whole = in_process(count=24, sampling=Sampling(temperature=1.0, seed=5)).text
    stop = whole[3:5]
    reply = client.chat.completions.create(
        model="base", messages=said("What?"), max_tokens=24, temperature=1, seed=5, stop=[stop]
    )
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_says(client: openai.OpenAI, n: int) -> None:
    how: dict[str, Any] = {"model": "base", "messages": said("What?"), "max_tokens": 12, "n": n}
    how |= HOT | {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**how)
    texts, roles, finishes, logprobs = [""] * n, [0] * n, [""] * n, [[] for _ in range(n)]
    usage = None
    for chunk in client.chat.completions.create(
        **how, stream=True, stream_options={"include_usage": True}
    ):
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage
        for choice in chunk.choices:
            assert not finishes[choice.index]
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role == "assistant"
            finishes[choice.index] = choice.finish_reason or ""
            if choice.logprobs:
                logprobs[choice.index] += choice.logprobs.content
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == [1] * n
    assert finishes == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    for choice, found in zip(whole.choices, logprobs, strict=True):
        assert [t.token for t in found] == [t.token for t in choice.logprobs.content]
        assert [t.logprob for t in found] == pytest.approx(
            [t.logprob for t in choice.logprobs.content], abs=1e-5
        )
        assert all(len(t.top_logprobs) == 2 for t in found)


def test_a_stream_is_one(client: openai.OpenAI) -> None:
    """Every token that ends a character is a chunk of its own, counted where that is asked for."""
    stream = client.chat.completions.create(
        model="base",
        messages=said("What?"),
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        logprobs=True,
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.choices and chunk.usage]
    assert counts == [1, 2, 3, 4, 5, 6, 6]


def test_completions_continue_texts(client: openai.OpenAI) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=7)
    answers = [in_process(continues=text, turns=(), sampling=sampling) for text in ("def f(", "x")]
    reply = client.completions.create(
        model="base", prompt=["def f(", "x"], max_tokens=8, logprobs=2, **HOT
    )
    assert [choice.text for choice in reply.choices] == [answer.text for answer in answers]
    found = reply.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 8
    assert found.text_offset[0] == 0
    assert reply.usage.prompt_tokens == sum(answer.num_prompt_tokens for answer in answers)
    stream = client.completions.create(
        model="base", prompt="def f(", max_tokens=8, stream=True, **HOT
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answers[0].text


def test_offsets_of_a_stream_run_on_as_those_of_the_whole(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "base", "prompt": "x", "max_tokens": 8, "logprobs": 1, "n": 2}
    whole = client.completions.create(**how, **HOT)
    offsets: list[list[int]] = [[], []]
    for chunk in client.completions.create(**how, **HOT, stream=True):
        for choice in chunk.choices:
            offsets[choice.index] += choice.logprobs.text_offset if choice.logprobs else []
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert len(set(offsets[0])) > 1


def test_who_asks_for_no_logprobs_hears_nothing_of_them(tmp_path: Path) -> None:
    """The server computes them for its log: tokens that are held back are no chunks."""
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=7)
    text = in_process(continues="x", turns=(), sampling=sampling).text
    with running(folder=tmp_path, keeps_confidence=True) as up:
        stream = up.client().completions.create(
            model="base", prompt="x", max_tokens=8, stop=[text[3:5]], stream=True, **HOT
        )
        chunks = list(stream)
        assert lines(up, chunks[0].id)["mean_logprob"] < 0
    *pieces, end = [chunk.choices[0] for chunk in chunks]
    assert "".join(piece.text for piece in pieces) == text[: text.index(text[3:5])]
    assert all(piece.text for piece in pieces)
    assert end.finish_reason == "stop"


def test_logprobs_are_the_engine_s(client: openai.OpenAI) -> None:
    answer = in_process(logprobs=True)
    reply = client.chat.completions.create(
        model="base",
        messages=said("What?"),
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
        extra_body={"return_tokens_as_token_ids": True},
    )
    content = reply.choices[0].logprobs.content
    assert [token.token for token in content] == [f"token_id:{t.token}" for t in answer.logprobs]
    assert [token.logprob for token in content] == pytest.approx(
        [t.logprob for t in answer.logprobs], abs=1e-5
    )
    assert [token.top_logprobs[0].token for token in content] == [
        f"token_id:{t.alternatives[0][0]}" for t in answer.logprobs
    ]


def test_our_own_client_of_endpoints_gets_the_same_answers(server: Any) -> None:
    """What evaluates and compares remote models reads our stream to the last figure."""
    endpoint = Endpoint(f"{server.url}v1", model="base", api_key=None, max_in_flight=4)
    try:
        queries = [
            Query.from_question(f"{i}", "What?", max_new_tokens=8, sampling=sampling, logprobs=True)
            for i, sampling in enumerate((GREEDY, Sampling(temperature=1.0, top_k=9, seed=3)))
        ]
        for answer, query in zip(answer_all(endpoint, queries), queries, strict=True):
            expected = in_process(sampling=query.sampling, logprobs=True)
            assert (answer.text, answer.finish) == (expected.text, expected.finish)
            assert answer.num_prompt_tokens == expected.num_prompt_tokens
            assert answer.num_new_tokens == expected.num_new_tokens
            # Tokens without text of their own come with the first that has some.
            assert 1 <= answer.num_first_tokens <= answer.num_new_tokens
            assert [token.logprob for token in answer.logprobs] == pytest.approx(
                [token.logprob for token in expected.logprobs], abs=1e-5
            )
    finally:
        endpoint.close()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base"]
    assert client.models.retrieve("base").owned_by == "coderllm_jax"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"model": "gpt-4"}, "model", "model_not_found"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": said("a", "b")}, "messages", "invalid_value"),
        ({"messages": said("a" * 130)}, "messages", "context_length_exceeded"),
        ({"messages": said("a" * 10_000)}, "messages", "context_length_exceeded"),
        ({"n": 99}, "n", "invalid_value"),
    ],
)
def test_a_wrong_request_names_its_field(
    client: openai.OpenAI, server: Any, wrong: dict[str, Any], param: str, code: str
) -> None:
    body = {"model": "base", "messages": said("What?"), "max_tokens": 4} | wrong
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert caught.value.body["param"] == param
    assert caught.value.body["code"] == code
    row = lines(server, caught.value.response.headers["x-request-id"])
    assert (row["status"], row["error"], row["completion_tokens"]) == (
        caught.value.status_code,
        code,
        0,
    )


def test_a_stream_that_cannot_begin_has_its_own_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="base", messages=said("a" * 130), stream=True)


def test_a_line_is_kept_of_an_answer(client: openai.OpenAI, server: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="base", messages=said("What?"), max_tokens=5, logprobs=True
    )
    reply = raw.parse()
    row = lines(server, reply.id)
    assert raw.headers["x-request-id"] == reply.id
    assert row["question"] == "What?"
    assert row["answer"] == reply.choices[0].message.content
    assert (row["arm"], row["operation"], row["status"]) == ("base", "chat", 200)
    assert (row["finish"], row["error"]) == ("length", "")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        reply.usage.prompt_tokens,
        reply.usage.completion_tokens,
    )
    values = [token.logprob for token in reply.choices[0].logprobs.content]
    assert row["mean_logprob"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert 0 <= row["queue_s"] <= row["ttft_s"] <= row["total_s"]
    assert row["time_per_token_s"] > 0
    assert row["top_score"] is None
    assert row["num_sources"] == 0
    assert abs(row["time"] - time.time()) < 60


def test_figures_follow(client: openai.OpenAI, server: Any) -> None:
    def count() -> float:
        page = httpx.get(f"{server.url}metrics").text
        name = 'coderllm_request_success_total{finished_reason="length",model_name="base"} '
        return sum(float(x.removeprefix(name)) for x in page.splitlines() if x.startswith(name))

    before = count()
    client.chat.completions.create(model="base", messages=said("What?"), max_tokens=2)
    wait_until(lambda: count() == before + 1)


def test_a_client_that_leaves_frees_its_slot(server: Any) -> None:
    body = {"model": "base", "messages": said("What?"), "max_tokens": 100, "stream": True}
    with httpx.stream("POST", f"{server.url}v1/chat/completions", json=body) as response:
        name = response.headers["x-request-id"]
        next(response.iter_bytes())
    row = lines(server, name)
    assert (row["status"], row["finish"], row["error"]) == (499, "cancelled", "cancelled")
    assert 0 < row["completion_tokens"] < 100
    assert server.service.desk.is_idle


def test_a_client_that_waits_for_the_whole_and_leaves_frees_its_slot(server: Any) -> None:
    rows = len(server.log.read_text().splitlines())
    body = {"model": "base", "messages": said("What?"), "max_tokens": 100, "n": 8}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}v1/chat/completions", json=body, timeout=0.05)
    wait_until(lambda: len(server.log.read_text().splitlines()) > rows)
    row = json.loads(server.log.read_text().splitlines()[-1])
    assert (row["status"], row["num_choices"]) == (499, 8)
    assert server.service.desk.is_idle


def test_too_many_are_turned_away_with_a_time() -> None:
    with running(max_waiting=0) as up:
        client = up.client()
        streams = [
            client.chat.completions.create(
                model="base", messages=said(f"{i}?"), max_tokens=100, stream=True
            )
            for i in range(4)
        ]
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="base", messages=said("What?"))
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.body["code"] == "queue_full"
        for stream in streams:
            assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")
        client.chat.completions.create(model="base", messages=said("What?"), max_tokens=2)


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred tokens take three seconds, on any machine at least."""
    step = Engine.step

    def slowly(engine: Engine) -> list[Event]:
        time.sleep(0.03)
        return step(engine)

    monkeypatch.setattr(Engine, "step", slowly)


@pytest.mark.usefixtures("slow_steps")
def test_a_deadline_ends_a_request_and_no_other() -> None:
    with running(deadline_s=1.5) as up:
        client = up.client()
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(
                model="base", messages=said("What?"), max_tokens=100, n=8, temperature=1
            )
        assert caught.value.status_code == 504
        reply = client.chat.completions.create(model="base", messages=said("What?"), max_tokens=2)
        assert reply.usage.completion_tokens == 2


@pytest.mark.usefixtures("slow_steps")
def test_a_stream_past_its_deadline_ends_with_an_error() -> None:
    with running(deadline_s=1.5) as up:
        stream = up.client().chat.completions.create(
            model="base", messages=said("What?"), max_tokens=100, n=8, temperature=1, stream=True
        )
        with pytest.raises(openai.APIError, match="no whole answer within"):
            list(stream)


def test_an_engine_that_is_stuck_keeps_no_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The desk's thread is in native code for ever: the event loop ends what is late by itself."""
    monkeypatch.setattr(service_module, "_DEADLINE_GRACE_S", 0.1)
    free = threading.Event()

    class Stuck(FakeAnswerer):
        def poll(self, timeout_s: float = 0.0) -> list[Delta]:
            free.wait(60)
            return super().poll(timeout_s)

    fake = Stuck(FakeClock(), Reply(), poll_s=0.1)
    with running(Lane({"base": fake}, fake, 1), folder=tmp_path, deadline_s=0.1, stall_s=0.1) as up:
        assert httpx.get(f"{up.url}health").status_code == 200
        with pytest.raises(openai.InternalServerError) as caught:
            up.client().chat.completions.create(model="base", messages=said("What?"))
        assert caught.value.status_code == 504
        assert httpx.get(f"{up.url}health").status_code == 503
        free.set()
        wait_until(lambda: up.service.desk.is_idle)
        wait_until(lambda: httpx.get(f"{up.url}health").status_code == 200)
    assert up.log is not None
    assert [json.loads(row)["status"] for row in up.log.read_text().splitlines()] == [504]


def test_while_loading_and_draining() -> None:
    with running(open_at_once=False) as up:
        assert httpx.get(f"{up.url}health").status_code == 200
        assert httpx.get(f"{up.url}ready").status_code == 503
        with pytest.raises(openai.InternalServerError) as caught:
            up.client().chat.completions.create(model="base", messages=said("What?"))
        assert (caught.value.status_code, caught.value.body["code"]) == (503, "loading")
    with running() as up:
        client = up.client()
        assert httpx.get(f"{up.url}ready").status_code == 200
        stream = client.chat.completions.create(
            model="base", messages=said("What?"), max_tokens=100, stream=True, logprobs=True
        )
        text = next(stream)
        up.server.stop()
        wait_until(lambda: up.service.desk.state == "draining")
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="base", messages=said("What?"))
        assert (caught.value.status_code, caught.value.body["code"]) == (503, "draining")
        assert "retry-after" in caught.value.response.headers
        assert text
        assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")


def test_answers_under_way_together_are_those_of_each_alone(server: Any) -> None:
    def ask(i: int) -> None:
        sampling = {"temperature": 1.0, "seed": i} if i % 2 else {"temperature": 0}
        texts[i] = (
            server.client()
            .chat.completions.create(
                model="base", messages=said(f"What is {'x' * i}?"), max_tokens=8 + i, **sampling
            )
            .choices[0]
            .message.content
        )

    texts: dict[int, str] = {}
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(12):
        how = {"sampling": Sampling(temperature=1.0, seed=i)} if i % 2 else {}
        turns = (Turn("user", f"What is {'x' * i}?"),)
        assert texts[i] == in_process(turns=turns, count=8 + i, **how).text
