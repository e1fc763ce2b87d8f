"""Asking arms in turns, so that they share whatever the machine does meanwhile.

    questions    q1 … q16            q17 … q32           q33 … q48
    round        1                   2                   3
    in it        rag  base  trained  base  trained  rag  trained  rag  base

A round's questions go to one arm after another, as many at a time as there are slots; from round to
round the order turns, so that each arm comes as often first as last. A machine that slows down, or
that somebody else uses for a while, slows all arms alike. Each arm's share of a round is metered.

Everything is kept as it comes, and a comparison that was killed goes on:

    answers.jsonl    {"key": "5f1c…", "asked": {"arm": "rag", "phase": "together", "round": 1,
                                                "id": "qa/17", "question": "…", "answer": {…}}}
    rounds.jsonl     {"key": "77ab…", "round": {"arm", "phase", "round", "wall_s", "cpu_s", …}}

An answer's key is a digest of the arm, who answers, the phase, and the query but for its id; times
are the answer's own, and stay with it. Answers that ended in an error are not kept.

A turn that was cut is asked again as a whole: half a turn has other costs than a whole one, and its
answers are the same again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.evaluation.asking import Kept, from_json, read_kept, to_json
from coderllm_jax.evaluation.usage import Usage, UsageMeter
from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Answer, Answerer, Query


class Turn(NamedTuple):
    """One arm's share of one round, as it was metered.

    is_whole: whether all of it was answered, and nothing was compiled meanwhile.
    """

    arm: str
    phase: str
    round: int
    num_answers: int
    tokens_in: int
    tokens_out: int
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    compile_s: float
    is_whole: bool


class Book:
    """Everything that was asked and metered in a folder; asks what is missing."""

    def __init__(self, folder: Path) -> None:
        self._answers, self._rounds = folder / "answers.jsonl", folder / "rounds.jsonl"
        self._known = read_kept(self._answers, "asked")
        self._metered = read_kept(self._rounds, "round")
        self.num_asked = 0

    def ask(
        self,
        arm: str,
        answerer: Answerer,
        queries: Sequence[Query],
        *,
        phase: str,
        round: int = 0,
        before: Callable[[Answerer], None] = lambda answerer: None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[list[Answer], Turn]:
        """Answers in the queries' order, and what they took.

        Equal questions are asked once. `before` is called where anything is asked, off the meter;
        `progress` hears of every answer.
        """
        keys = _keys(arm, answerer, queries, phase=phase)
        turn_key = _digest([round, keys])
        is_kept = turn_key in self._metered
        missing: dict[str, Query] = {}
        for key, query in zip(keys, queries, strict=True):
            if is_kept and key in self._known:
                progress(1)
            else:
                missing.setdefault(key, query)
        fresh: dict[str, Answer] = {}
        if missing:
            before(answerer)
            key_of = {query.id: key for key, query in missing.items()}
            with Kept(self._answers, name="asked") as kept, UsageMeter() as meter:

                def take(query: Query, answer: Answer) -> None:
                    key = key_of[query.id]
                    fresh[key] = answer
                    if answer.finish in ("stop", "length"):
                        self._known[key] = {
                            "arm": arm,
                            "phase": phase,
                            "round": round,
                            "id": query.id,
                            "question": query.question,
                            "answer": to_json(answer),
                        }
                        kept.add(key, self._known[key])
                    progress(1)

                answer_all(answerer, list(missing.values()), take)
                # An engine is a step ahead of what it tells: that step is this arm's, too.
                while not answerer.is_idle:
                    answerer.poll()
            self.num_asked += len(missing)
        if not is_kept:
            turn = _meter(arm, phase, round, list(fresh.values()), meter.usage)
            self._metered[turn_key] = turn._asdict()
            with Kept(self._rounds, name="round") as kept:
                kept.add(turn_key, turn._asdict())
        answers = [
            dataclasses.replace(
                fresh.get(key) or from_json(self._known[key]["answer"]), id=query.id
            )
            for key, query in zip(keys, queries, strict=True)
        ]
        return answers, Turn(**self._metered[turn_key])


def _keys(arm: str, answerer: Answerer, queries: Sequence[Query], *, phase: str) -> list[str]:
    by = _digest({"arm": arm, "phase": phase, "answerer": dict(answerer.identity)})
    return [
        _digest({"by": by, "query": dataclasses.asdict(query) | {"id": ""}}) for query in queries
    ]


def _meter(arm: str, phase: str, round: int, answers: Sequence[Answer], usage: Usage) -> Turn:
    return Turn(
        arm,
        phase,
        round,
        num_answers=len(answers),
        tokens_in=sum(answer.num_prompt_tokens for answer in answers),
        tokens_out=sum(answer.num_new_tokens for answer in answers),
        wall_s=usage.wall_s,
        cpu_s=usage.cpu_s,
        peak_memory_bytes=usage.peak_memory_bytes,
        compile_s=usage.compile_s,
        is_whole=not usage.compile_s
        and all(answer.finish in ("stop", "length") for answer in answers),
    )


class InTurns(NamedTuple):
    """All arms' answers in the queries' order, the round each query was in, and the turns."""

    answers: Mapping[str, list[Answer]]
    rounds: list[int]
    turns: list[Turn]


def ask_in_turns(
    book: Book,
    answerers: Mapping[str, Answerer],
    queries: Sequence[Query],
    *,
    phase: str,
    size: int,
    seed: int,
    first_round: int = 1,
    stops: Mapping[str, tuple[str, ...]] = types.MappingProxyType({}),
    before: Callable[[Answerer], None] = lambda answerer: None,
    progress: Callable[[int], None] = lambda done: None,
) -> InTurns:
    """Asks every arm every query, `size` at a time, in turns; see the drawing above.

    stops: texts that end an arm's answers, which belong to its prompt.
    """
    answers: dict[str, list[Answer]] = {arm: [] for arm in answerers}
    rounds: list[int] = []
    turns: list[Turn] = []
    for start in range(0, len(queries), size):
        batch = queries[start : start + size]
        number = first_round + start // size
        rounds += [number] * len(batch)
        for arm in order_of(list(answerers), number, seed=seed):
            own = with_stop(batch, stops.get(arm, ()))
            given, turn = book.ask(
                arm,
                answerers[arm],
                own,
                phase=phase,
                round=number,
                before=before,
                progress=progress,
            )
            answers[arm] += given
            turns.append(turn)
    return InTurns(answers, rounds, turns)


def with_stop(queries: Sequence[Query], stop: tuple[str, ...]) -> list[Query]:
    """The same queries, whose answers these texts end, too."""
    return [dataclasses.replace(query, stop=(*query.stop, *stop)) for query in queries]


def order_of(arms: Sequence[str], round: int, *, seed: int) -> list[str]:
    """The arms' order in a round: of as many rounds as there are arms, each is first once.

    Every second time around it runs backward, so that no arm always follows the same one.
    """
    shuffled = random.Random(seed).sample(list(arms), len(arms))  # noqa: S311 - no secret
    times_around, place = divmod(round, len(arms))
    turned = shuffled[place:] + shuffled[:place]
    return turned[::-1] if times_around % 2 else turned


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
