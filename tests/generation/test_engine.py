"""The engine: what a request is answered does not depend on what else goes on."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.generation import network, program
from coderllm_jax.generation.engine import Engine, Request
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.lora import init_adapters
from coderllm_jax.records import Sampling
from tests.model.tiny_model import random_adapters, random_sequences, tiny_weights

ADAPTERS = random_adapters(
    init_adapters(TINY, targets=("query", "value"), rank=4, key=jax.random.key(0))
)
OPTIONS = ForwardOptions(lora_scale=0.5)
LENGTH = 160
# The window of `tiny` is 16: all but the first are longer.
PROMPTS = [np.array(ids, np.int32) for ids in random_sequences([5, 30, 17, 60, 2, 100])]

hidden = jax.jit(functools.partial(hidden_states, architecture=TINY, options=OPTIONS))


class Endless(ByteTokenizer):
    """No token ends an answer, so that lengths are what was asked for."""

    def __init__(self):
        super().__init__()
        self.end_of_turn_id = self.eos_id = -1


def engine(**changes):
    tokenizer = changes.pop("tokenizer", Endless())
    settings = {"options": OPTIONS, "num_slots": 4, "max_length": LENGTH, "merge": False} | changes
    return Engine(TINY, tokenizer, tiny_weights(), ADAPTERS, **settings)


@functools.cache
def uncached(prompt, count):
    """Greedy tokens and their log-probabilities, the whole sequence computed anew for each."""
    weights = tiny_weights()
    tokens, logprobs = list(prompt), []
    for _ in range(count):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(tokens)] = tokens
        positions = np.arange(LENGTH, dtype=np.int32)[None]
        states = np.asarray(hidden(weights, ADAPTERS, row, positions, np.ones_like(row)))
        logits = states[0, len(tokens) - 1] @ np.asarray(weights["embedding"]).T
        tokens.append(int(np.argmax(logits)))
        logprobs.append(float(jax.nn.log_softmax(logits)[tokens[-1]]))
    return tokens[len(prompt) :], logprobs


def requests(prompts, count=20, **options):
    return [Request(str(i), prompt, count, **options) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("merge", [False, True])
def test_cached_equals_uncached_past_the_window_and_with_more_requests_than_slots(merge):
    found = engine(merge=merge).generate(requests(PROMPTS, logprobs=True))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids, logprobs = uncached(tuple(prompt.tolist()), 20)
        assert completion.ids == ids
        assert completion.finish == "length"
        np.testing.assert_allclose(
            [each.logprob for each in completion.logprobs], logprobs, atol=1e-4
        )
        assert all(
            each.alternatives[0] == (each.token, each.logprob) for each in completion.logprobs
        )


def test_prompts_in_pieces_equal_prompts_whole(monkeypatch):
    monkeypatch.setattr("coderllm_jax.generation.engine._LARGEST_PIECE", 32)
    found = engine().generate(requests(PROMPTS))
    assert [each.ids for each in found] == [uncached(tuple(p.tolist()), 20)[0] for p in PROMPTS]


def test_what_all_prompts_begin_with_is_computed_once(monkeypatch):
    shared = PROMPTS[5][:70]
    prompts = [np.concatenate([shared, prompt]) for prompt in PROMPTS[:3]]
    pieces = []
    original = program.prefill
    monkeypatch.setattr(
        program,
        "prefill",
        lambda *args, **options: pieces.append(args[2]) or original(*args, **options),
    )
    found = engine().generate(requests(prompts))
    assert [each.ids for each in found] == [uncached(tuple(p.tolist()), 20)[0] for p in prompts]
    assert sum(int(piece.length.sum()) for piece in pieces) == 70 + sum(
        len(p) - 1 for p in PROMPTS[:3]
    )


def test_an_answer_is_the_same_to_the_bit_beside_any_neighbours_and_at_any_time():
    """Where a token lies in a ring decides in which order it is summed, so nobody may move it."""
    crowded = engine()
    crowd = requests(PROMPTS, count=13, sampling=Sampling(temperature=2.0, seed=7))
    for request in crowd:
        crowded.submit(request)
    for _ in range(5):
        crowded.step()
    for number, prompt in enumerate(PROMPTS):
        asked = Request(f"mine/{number}", prompt, 20, logprobs=True)
        among = crowded.submit(asked)
        while not among.finish:
            crowded.step()
        (alone,) = engine().generate([asked])
        assert (among.ids, among.logprobs) == (alone.ids, alone.logprobs)


def test_a_sample_depends_on_its_seed_and_on_nothing_around_it():
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=7)
    alone = engine().generate(requests(PROMPTS[:1], sampling=sampling))[0]
    crowd = requests(PROMPTS[1:], count=13, sampling=Sampling(temperature=2.0, seed=7))
    mine = Request("mine", PROMPTS[0], 20, sampling=sampling)
    among = engine().generate([*crowd[:3], mine, *crowd[3:]])[3]
    assert among.ids == alone.ids
    other = engine().generate(requests(PROMPTS[:1], sampling=Sampling(temperature=1.0, seed=8)))[0]
    assert other.ids != alone.ids


def test_an_answer_ends_before_its_stop_token_and_its_stop_text():
    tokenizer = ByteTokenizer()
    weights = tiny_weights()
    always = tokenizer.encode("x")[0]
    # A head that says the same byte for ever.
    rigged = weights | {
        "embedding": jnp.zeros_like(weights["embedding"]).at[always].set(1.0),
        "final_norm": jnp.full_like(weights["final_norm"], 10.0),
        "blocks": jax.tree.map(jnp.zeros_like, weights["blocks"]),
    }
    prompt = np.array([always], np.int32)
    found = Engine(TINY, tokenizer, rigged, options=OPTIONS, num_slots=2, max_length=32).generate(
        [Request("to the end", prompt, 4), Request("stopped", prompt, 9, stop=("xxx",))]
    )
    assert [(each.text, each.finish) for each in found] == [("xxxx", "length"), ("", "stop")]

    tokenizer.end_of_turn_id = always
    ended = Engine(TINY, tokenizer, rigged, options=OPTIONS, num_slots=2, max_length=32)
    (only,) = ended.generate([Request("at once", prompt, 4)])
    assert (only.text, only.ids, only.finish, only.num_generated) == ("", [], "stop", 1)


def test_events_stream_the_text_of_the_completion():
    one = engine()
    completions = [one.submit(request) for request in requests(PROMPTS)]
    streamed = {completion.id: "" for completion in completions}
    finished = []
    while not one.is_idle:
        for event in one.step():
            streamed[event.id] += event.text
            finished += [event.id] * bool(event.finish)
    assert streamed == {completion.id: completion.text for completion in completions}
    assert sorted(finished) == sorted(streamed)
    assert all(c.submitted_s <= c.started_s <= c.first_token_s <= c.finished_s for c in completions)


def test_a_cancelled_request_frees_its_slot_and_disturbs_nobody():
    one = engine(num_slots=2)
    completions = [one.submit(request) for request in requests(PROMPTS[:4])]
    for _ in range(5):
        one.step()
    assert one.cancel("0")
    assert one.cancel("3")  # still waiting
    assert not one.cancel("0")
    while not one.is_idle:
        one.step()
    assert [each.finish for each in completions] == ["cancelled", "length", "length", "cancelled"]
    whole = uncached(tuple(PROMPTS[0].tolist()), 20)[0]
    assert completions[0].ids == whole[: len(completions[0].ids)]
    for place in (1, 2):
        assert completions[place].ids == uncached(tuple(PROMPTS[place].tolist()), 20)[0]


@pytest.mark.parametrize("half", ["prefill", "start"])
def test_a_prompt_that_breaks_prefill_keeps_no_slot_and_can_be_cancelled(monkeypatch, half):
    one = engine(num_slots=2)
    completions = [one.submit(request) for request in requests(PROMPTS[:4])]
    one.step()
    one.cancel("0")  # its slot is what the third gets

    def break_down(*args, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    with monkeypatch.context() as patch:
        patch.setattr(program, half, break_down)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
                one.step()
    assert one.cancel("2")
    for _ in range(100):  # a slot that is lost would be waited for without end
        one.step()
    assert one.is_idle
    assert [each.finish for each in completions] == ["cancelled", "length", "cancelled", "length"]
    for place in (1, 3):
        assert completions[place].ids == uncached(tuple(PROMPTS[place].tolist()), 20)[0]
    again = one.generate(requests(PROMPTS[:2]))
    assert [each.finish for each in again] == ["length", "length"]


def test_one_program_for_decoding_and_one_for_each_bucket(monkeypatch):
    traces = []
    original = network.apply_block

    def counted(x, *args, **options):
        traces.append(x.shape)
        return original(x, *args, **options)

    monkeypatch.setattr(network, "apply_block", counted)
    # Shapes of its own, or another test's compiled programs would be found.
    one = engine(num_slots=3, max_length=150)
    one.generate(requests(PROMPTS, count=3))
    one.generate(requests(PROMPTS[::-1], count=5))
    layers = TINY.num_layers
    shapes = {shape: traces.count(shape) for shape in traces}
    assert shapes == {
        (3, 1, 32): layers,
        (1, 32, 32): layers,
        (1, 64, 32): layers,
        (1, 128, 32): layers,
    }


@pytest.mark.parametrize(
    ("prompt", "count", "said"),
    [
        (np.zeros(0, np.int32), 4, "the prompt has no tokens"),
        (np.ones(LENGTH, np.int32), 4, "has 160 tokens, and prompt and answer may have 160"),
        (np.ones(3, np.int32), 0, "max_new_tokens is 0"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(prompt, count, said):
    with pytest.raises(DataError, match=said):
        engine().submit(Request("x", prompt, count))


def test_an_answer_stops_where_its_slot_is_full():
    (found,) = engine(max_length=40).generate(requests(PROMPTS[1:2], count=99))
    assert len(found.ids) == 10
    assert found.finish == "length"
