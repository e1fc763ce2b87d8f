"""How fast each arm is, and what it takes: from the times of its answers and its turns.

    asked alone        one question at a time: what one person waits for
    asked together     as many at a time as there are slots: what a server under load does

Times of one setting: with other slots they are other times. Latencies are medians and 95th
percentiles with intervals that suppose nothing about their distribution (`evaluation.latency`);
rates resample turns. Whatever was compiled during a turn takes it out of the rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.figures import Figure, Spec
from coderllm_jax.comparison.rounds import InTurns, Turn
from coderllm_jax.comparison.verdicts import Contest, hold_contests
from coderllm_jax.evaluation.latency import estimate_percentile
from coderllm_jax.evaluation.statistics import bootstrap_mean, bootstrap_totals
from coderllm_jax.records import Answer, Estimate

ALONE, TOGETHER = "alone", "together"
_WAYS = {ALONE: "asked one at a time", TOGETHER: "asked as many at a time as there are slots"}

Time = Callable[[Answer], float | None]
TIMES: Mapping[str, Time] = {
    "time_to_first_token_s": lambda answer: answer.time_to_first_token_s,
    "time_per_token_s": lambda answer: answer.time_per_token_s,
    "total_s": lambda answer: answer.total_s,
    "retrieval_s": lambda answer: answer.retrieval_s or None,
}
_LABELS = {
    "time_to_first_token_s": "Time to first token",
    "time_per_token_s": "Time per token",
    "total_s": "End to end",
    "retrieval_s": "Retrieval",
}
# What is tested: one figure of each way of asking.
TESTED = {ALONE: "time_to_first_token_s", TOGETHER: "total_s"}


def latency_figures(
    asked: Mapping[str, Mapping[str, Sequence[Answer]]], *, ids: Mapping[str, Sequence[str]]
) -> list[Figure]:
    """Medians and 95th percentiles. asked: way → arm → answers; ids: way → their questions."""
    figures = []
    for way, by_arm in asked.items():
        for name, time_of in TIMES.items():
            times = {arm: known_times(answers, time_of) for arm, answers in by_arm.items()}
            times = {arm: values for arm, values in times.items() if values}
            for share, word in ((0.5, "p50"), (0.95, "p95")):
                arms = {arm: estimate_percentile(values, share) for arm, values in times.items()}
                if not arms or all(each.value is None for each in arms.values()):
                    continue
                figures.append(
                    Figure(
                        "performance",
                        f"{way}/{name}/{word}",
                        f"{_LABELS[name]}, {'median' if word == 'p50' else '95th percentile'}",
                        f"{_LABELS[name]}, {_WAYS[way]}.",
                        arms,
                        unit="seconds",
                        better="lower",
                        is_headline=(way, name, word) == (ALONE, "time_to_first_token_s", "p50"),
                        is_clocked=True,
                        items=tuple(ids[way]),
                    )
                )
    return figures


def known_times(answers: Sequence[Answer], time_of: Time) -> list[float]:
    """One time of every answer that ended well and has it."""
    ended = [answer for answer in answers if answer.finish in ("stop", "length")]
    return [value for answer in ended if (value := time_of(answer)) is not None]


def usage_figures(
    arms: Sequence[Arm],
    answers: Mapping[str, Sequence[Answer]],
    turns: Sequence[Turn],
    *,
    ids: Sequence[str],
    seed: int,
) -> list[Figure]:
    """Rates, tokens, processor time and memory, of questions that were asked together."""
    whole = {arm.name: whole_turns(turns, arm.name) for arm in arms}

    def figure(
        name: str, label: str, words: str, values: Mapping[str, Estimate], **how: Any
    ) -> Figure:
        known = {arm: value for arm, value in values.items() if value.value is not None}
        return Figure("performance", name, label, words, known, items=tuple(ids), **how)

    def rate(over: Callable[[Turn], float], by: Callable[[Turn], float]) -> dict[str, Estimate]:
        return {arm: ratio(of_arm, over, by, seed=seed) for arm, of_arm in whole.items()}

    def mean(count: Callable[[Answer], float]) -> dict[str, Estimate]:
        return {
            arm: bootstrap_mean([count(answer) for answer in of_arm if answer.finish], seed=seed)
            for arm, of_arm in answers.items()
        }

    figures = [
        figure(
            "tokens_per_s",
            "Throughput",
            "Tokens of answers a second, asked as many at a time as there are slots.",
            rate(lambda turn: turn.tokens_out, lambda turn: turn.wall_s),
            unit="tokens/s",
            is_headline=True,
            is_clocked=True,
        ),
        figure(
            "answers_per_s",
            "Answers a second",
            "The same in answers: short ones count as much as long ones.",
            rate(lambda turn: turn.num_answers, lambda turn: turn.wall_s),
            unit="answers/s",
            is_clocked=True,
        ),
        figure(
            "cpu_s_per_answer",
            "Processor time",
            "Seconds of this machine's processors for an answer; none of an endpoint's.",
            rate(lambda turn: turn.cpu_s, lambda turn: turn.num_answers),
            unit="seconds",
            better="lower",
            is_clocked=True,
        ),
        figure(
            "tokens_in",
            "Tokens in",
            "Tokens of a prompt, examples and passages included.",
            mean(lambda answer: answer.num_prompt_tokens),
            unit="tokens",
            better="lower",
        ),
        figure(
            "tokens_out",
            "Tokens out",
            "Tokens of an answer.",
            mean(lambda answer: answer.num_new_tokens),
            unit="tokens",
            better="",
        ),
        figure(
            "memory_bytes",
            "Memory",
            "Weights, caches, index and embedder that serving this arm alone takes, counted; "
            "Python and its libraries come on top.",
            {arm.name: Estimate(float(sum(arm.memory.values()))) for arm in arms if arm.memory},
            unit="bytes",
            better="lower",
            is_headline=True,
            is_clocked=True,
        ),
    ]
    return [each for each in figures if each.arms]


def speed_contests(
    asked: Mapping[str, Mapping[str, Sequence[Answer]]],
    *,
    ids: Mapping[str, Sequence[str]],
    rounds: Mapping[str, Sequence[int]],
    seed: int,
) -> list[Contest]:
    """Arms against each other: first token alone, end to end together; a round is a cluster."""
    contests = []
    for way, name in TESTED.items():
        if way not in asked:
            continue
        spec = Spec(
            "performance",
            f"{way}/{name}",
            f"{_LABELS[name]}, {_WAYS[way]}",
            "",
            unit="seconds",
            better="lower",
            bounds=None,
            family="speed",
        )
        values: dict[str, dict[str, float]] = {}
        for arm, answers in asked[way].items():
            times = {
                question: TIMES[name](answer)
                for question, answer in zip(ids[way], answers, strict=True)
                if answer.finish in ("stop", "length")
            }
            values[arm] = {question: time for question, time in times.items() if time is not None}
        clusters = dict(zip(ids[way], rounds[way], strict=True))
        contests += hold_contests(spec, values, set_name="", seed=seed, clusters=clusters)
    return contests


def whole_turns(turns: Sequence[Turn], arm: str) -> list[Turn]:
    """The arm's turns that say something about its rates."""
    return [turn for turn in turns if turn.arm == arm and turn.is_whole]


def ratio(
    turns: Sequence[Turn],
    over: Callable[[Turn], float],
    by: Callable[[Turn], float],
    *,
    seed: int,
    factor: float = 1.0,
) -> Estimate:
    """The sum of one thing over the sum of another; its interval resamples turns."""
    if not turns or not sum(by(turn) for turn in turns):
        return Estimate(None)
    columns_IS = np.array([[over(turn), by(turn)] for turn in turns], np.float64)

    def divide(totals_RS: np.ndarray) -> np.ndarray:
        return factor * totals_RS[:, 0] / np.maximum(totals_RS[:, 1], 1e-300)

    estimate = bootstrap_totals(columns_IS, divide, seed=seed)
    return estimate._replace(num_items=sum(turn.num_answers for turn in turns))


def latencies(in_turns: Mapping[str, InTurns]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Every time of every answer: way → arm → time → numbers; what a distribution is drawn from."""
    return {
        way: {
            arm: {name: known_times(answers, time_of) for name, time_of in TIMES.items()}
            for arm, answers in asked.answers.items()
        }
        for way, asked in in_turns.items()
    }
