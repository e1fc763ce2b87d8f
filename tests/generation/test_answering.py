"""The local Answerer: the engine's answers, whoever asks and however many at once."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from coderllm_jax.config.generation import PromptSection
from coderllm_jax.data.prompts import PromptStyle, encode_query
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.generation.answering import LocalAnswerer, answer_all, style_for
from coderllm_jax.generation.engine import Engine, Request
from coderllm_jax.generation.scoring import score_text
from coderllm_jax.generation.trained import TrainedModel
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.lora import init_adapters
from coderllm_jax.records import Query
from tests.model.tiny_model import random_adapters, tiny_weights

OPTIONS = ForwardOptions(lora_scale=0.5)
ADAPTERS = random_adapters(
    init_adapters(TINY, targets=("query", "value"), rank=4, key=jax.random.key(0))
)
QUESTIONS = ["What?", "How does optax.adam work?", "a" * 90, "Why?", "Who wrote this?"]


@pytest.fixture
def answerer():
    engine = Engine(
        TINY,
        ByteTokenizer(),
        tiny_weights(),
        ADAPTERS,
        options=OPTIONS,
        num_slots=2,
        max_length=160,
        merge=False,
    )
    return LocalAnswerer(engine, name="tiny", style=PromptStyle(), model={"name": "tiny"})


def queries(*, count=12):
    return [
        Query.from_question(f"q{number}", question, max_new_tokens=count)
        for number, question in enumerate(QUESTIONS)
    ]


def test_answers_are_the_engine_s_in_the_order_asked(answerer):
    told = []
    answers = answer_all(answerer, queries(), lambda query, answer: told.append(query.id))
    requests = [
        Request(query.id, encode_query(ByteTokenizer(), query, PromptStyle()), 12)
        for query in queries()
    ]
    expected = answerer.engine.generate(requests)
    assert [answer.text for answer in answers] == [each.text for each in expected]
    assert [answer.id for answer in answers] == [f"q{number}" for number in range(5)]
    assert sorted(told) == [answer.id for answer in answers]
    assert answerer.is_idle


def test_times_stand_in_their_order_and_tokens_are_counted(answerer):
    for answer in answer_all(answerer, queries()):
        times = (answer.submitted_s, answer.started_s, answer.first_token_s, answer.finished_s)
        assert list(times) == sorted(times)
        assert 0 < answer.num_new_tokens <= 12
        assert answer.finish in ("stop", "length")
        assert answer.total_s >= answer.time_to_first_token_s > 0


def test_deltas_joined_are_the_text(answerer):
    answerer.submit(queries()[1])
    text, answer = "", None
    while answer is None:
        for delta in answerer.poll():
            text, answer = text + delta.text, delta.answer
    assert text == answer.text


def test_one_that_cannot_be_answered_costs_the_others_nothing(answerer):
    too_long = Query.from_question("long", "x" * 500)
    mixed = [queries()[0], too_long, Query("none", turns=()), queries()[1]]
    first, long, none, last = answer_all(answerer, mixed)
    assert (long.finish, none.finish) == ("error", "error")
    assert "160" in long.error
    assert [first.text, last.text] == [a.text for a in answer_all(answerer, queries()[:2])]


def test_a_cancelled_query_ends_once(answerer):
    for query in queries():
        answerer.submit(query)
    answerer.poll()
    assert answerer.cancel("q4")  # waits
    assert answerer.cancel("q0")  # is being answered
    assert not answerer.cancel("q0")
    ended = []
    while not answerer.is_idle:
        ended += [delta.answer for delta in answerer.poll() if delta.answer]
    assert sorted(answer.id for answer in ended) == [f"q{number}" for number in range(5)]
    assert {a.id for a in ended if a.finish == "cancelled"} == {"q0", "q4"}


def test_an_id_is_answered_once_at_a_time(answerer):
    answerer.submit(queries()[0])
    with pytest.raises(DataError, match="its own id"):
        answerer.submit(queries()[0])
    with pytest.raises(DataError, match="same id"):
        answer_all(answerer, [queries()[1]] * 2)


def test_closing_ends_what_goes_on(answerer):
    for query in queries():
        answerer.submit(query)
    answerer.close()
    ended = answerer.poll()
    assert [delta.answer.finish for delta in ended] == ["cancelled"] * 5
    assert answerer.is_idle


def test_what_can_change_an_answer_is_in_the_identity(answerer):
    identity = answerer.identity
    assert identity["model"] == {"name": "tiny"}
    assert identity["prompt"] == {"kind": "chat", "shots": []}
    assert identity["setting"]["num_slots"] == 2


@functools.cache
def _hidden():
    return jax.jit(functools.partial(hidden_states, architecture=TINY, options=OPTIONS))


def test_a_reference_s_loss_is_that_of_the_whole_softmax(answerer):
    query, reference = queries()[1], "By moments."
    score = answerer.score_reference(query, reference)
    prompt = encode_query(ByteTokenizer(), query, PromptStyle()).tolist()
    answer = [*ByteTokenizer().encode(reference), ByteTokenizer().end_of_turn_id]
    ids = np.array([prompt + answer], np.int32)
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    hidden = _hidden()(tiny_weights(), ADAPTERS, ids, positions, np.ones_like(ids))
    logits = np.asarray(hidden[0], np.float64) @ np.asarray(tiny_weights()["embedding"]).T
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nats = -sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(answer))
    assert score.num_tokens == len(answer)
    assert score.nats == pytest.approx(nats, rel=1e-5)


def test_padding_changes_no_loss(answerer):
    ids = np.arange(20, 84, dtype=np.int32)
    supervised = np.arange(64) >= 10
    weights = answerer.engine.weights
    fits = score_text(weights, ids, supervised, architecture=TINY, options=OPTIONS)
    longer = np.append(ids, 99).astype(np.int32)
    padded = score_text(
        weights, longer, np.append(supervised, False), architecture=TINY, options=OPTIONS
    )
    assert padded.nats == pytest.approx(fits.nats, rel=1e-5)
    assert padded.num_tokens == fits.num_tokens == 54


@pytest.mark.parametrize(
    ("asked", "knows_turns", "kind"),
    [
        ("auto", True, "chat"),
        ("auto", False, "few_shot"),
        ("chat", False, "chat"),
        ("few_shot", True, "few_shot"),
    ],
)
def test_the_style_suits_the_model(asked, knows_turns, kind):
    model = TrainedModel("m", TINY, ByteTokenizer(), {}, {}, OPTIONS, knows_turns, {})
    shots = [("a", "b"), ("c", "d"), ("e", "f")]
    style = style_for(model, PromptSection(style=asked, shots=2), shots)
    assert style.kind == kind
    assert list(style.shots) == (shots[:2] if kind == "few_shot" else [])
