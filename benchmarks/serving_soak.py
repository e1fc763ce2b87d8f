"""A long day for a server in minutes: requests of all kinds in bursts, and what came of them.

    make_plan    N requests: mixed lengths and options, some that leave, some that make no sense
    run_soak     sent in bursts that are now and then larger than the server's room
    find_wrong   every answer against the in-process generator's to the same query

Requests that are turned away (429) wait as long as they are told and come again, so every planned
answer is given in the end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import openai

from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Answerer
from coderllm_jax.serving.requests import Limits, read_request

Kind = Literal["answered", "cancelled", "malformed"]
_WORDS = (
    "what does optax clip scale norm tree mask lion adam return when the a of and is f(x) = ü \n"
)
_MALFORMED: Sequence[Mapping[str, Any]] = (
    {"temperature": 9},
    {"messages": [{"role": "user", "content": 3}]},
    {"messages": []},
    {"n": 0},
    {"tools": [{}]},
    {"no_such_field": 1},
    {"model": "no such model"},
    {"messages": [{"role": "user", "content": "a" * 100_000}]},
    {"max_tokens": -1},
    {"top_p": 0},
)
# Longer than any request of the soak can take on a machine that is not stuck.
_TIMEOUT_S = 300.0
_MOST_CUT = 2
_LIMITS = Limits(
    default_tokens=16, default_temperature=0.0, max_choices=8, max_characters=1_000_000
)


class Planned(NamedTuple):
    """One request: its body, and what is to happen to it."""

    kind: Kind
    body: Mapping[str, Any]


class Outcome(NamedTuple):
    """What became of a request. texts: of its choices, where it was answered."""

    status: int
    texts: tuple[str, ...] = ()
    num_turned_away: int = 0


def make_plan(
    count: int, *, seed: int, longest_prompt: int, most_tokens: int, arm: str = "base"
) -> list[Planned]:
    """`count` requests, of which 5 % leave and 5 % are malformed. Prompts are in characters."""
    draw = random.Random(seed)  # noqa: S311 - a plan, no secret
    kinds: list[Kind] = ["cancelled"] * (count // 20) + ["malformed"] * (count // 20)
    kinds += ["answered"] * (count - len(kinds))
    draw.shuffle(kinds)
    words = _WORDS.split(" ")
    plan = []
    for number, kind in enumerate(kinds):
        length = draw.randint(1, longest_prompt)
        text = ""
        while len(text.encode()) < length:
            text += f"{draw.choice(words)} "
        body: dict[str, Any] = {
            "model": arm,
            "messages": [{"role": "user", "content": text.strip() or "?"}],
            "max_tokens": draw.randint(1, most_tokens),
            "temperature": draw.choice([0, 0, 0.7, 1]),
            "top_p": draw.choice([1, 0.9]),
            "seed": number,
            "stream": draw.random() < 0.5,
        }
        if draw.random() < 0.1:
            body["n"] = 2
        if draw.random() < 0.1:
            body |= {"logprobs": True, "top_logprobs": 2}
        if draw.random() < 0.1:
            body["stop"] = ["e"]
        if kind == "cancelled":
            body |= {"stream": True, "max_tokens": most_tokens}
        if kind == "malformed":
            body |= draw.choice(_MALFORMED)
        plan.append(Planned(kind, body))
    return plan


async def run_soak(
    url: str,
    plan: Sequence[Planned],
    *,
    most_at_once: int,
    seed: int = 0,
    on_ended: Callable[[int], None] = lambda count: None,
) -> list[Outcome]:
    """Sends the plan in bursts of 1 to `most_at_once`; `on_ended` hears how many have ended.

    Raises TimeoutError where a request hangs.
    """
    draw = random.Random(seed)  # noqa: S311 - a plan, no secret
    outcomes: list[Outcome] = []
    async with openai.AsyncOpenAI(
        base_url=f"{url}v1", api_key="none", max_retries=0, timeout=_TIMEOUT_S
    ) as client:
        while len(outcomes) < len(plan):
            burst = plan[len(outcomes) : len(outcomes) + draw.randint(1, most_at_once)]
            async with asyncio.timeout(_TIMEOUT_S):
                outcomes += await asyncio.gather(*(_send(client, planned) for planned in burst))
            on_ended(len(outcomes))
    return outcomes


def find_wrong(
    plan: Sequence[Planned], outcomes: Sequence[Outcome], reference: Answerer
) -> list[int]:
    """Numbers of the requests that ended otherwise than they should have.

    reference: the in-process answerer of the same weights and setting. It is asked everything at
    once, so that each query has other neighbours there than it had in the server.
    """
    queries = {
        number: read_request(planned.body, "chat", _LIMITS).queries(f"soak-{number}")
        for number, planned in enumerate(plan)
        if planned.kind == "answered"
    }
    answers = iter(answer_all(reference, [query for each in queries.values() for query in each]))
    expected = {number: tuple(next(answers).text for _ in each) for number, each in queries.items()}
    wrong = []
    for number, (planned, outcome) in enumerate(zip(plan, outcomes, strict=True)):
        if planned.kind == "malformed":
            is_right = 400 <= outcome.status < 500
        else:
            is_right = outcome.status == 200 and outcome.texts == expected.get(
                number, outcome.texts
            )
        if not is_right:
            wrong.append(number)
    return wrong


async def _send(client: openai.AsyncOpenAI, planned: Planned) -> Outcome:
    num_turned_away = num_cut = 0
    while True:
        try:
            texts = await _ask(client, planned)
        except openai.APIConnectionError:
            # An idle connection that the server was closing; the client's own retries do the same.
            num_cut += 1
            if num_cut > _MOST_CUT:
                raise
        except openai.RateLimitError as error:
            num_turned_away += 1
            # Told in whole seconds; a soak of tiny answers would do nothing but wait.
            wait_s = float(error.response.headers["retry-after"]) / 20
            await asyncio.sleep(min(1.0, wait_s))
        except openai.APIStatusError as error:
            return Outcome(error.status_code, num_turned_away=num_turned_away)
        else:
            return Outcome(200, texts, num_turned_away)


async def _ask(client: openai.AsyncOpenAI, planned: Planned) -> tuple[str, ...]:
    body = planned.body
    if planned.kind == "malformed" or not body["stream"]:
        # Not as a stream: the client would not see that a refusal is none.
        reply: Any = await client.post(
            "/chat/completions", body={**body, "stream": False}, cast_to=object
        )
        return tuple(choice["message"]["content"] for choice in reply["choices"])
    texts = [""] * body.get("n", 1)
    stream = await client.chat.completions.create(**body)
    async with stream:
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
            if planned.kind == "cancelled" and any(texts):
                break
    return tuple(texts)
