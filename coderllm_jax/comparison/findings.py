"""What the answers come to: scores, figures, verdicts and costs.

answers ── scoring ── scored ─┬─ figures ─────────────────────── dimensions
                              ├─ pairs of arms ── all of them ── verdicts
times, turns ── performance ──┘                   together
             └─ cost
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from coderllm_jax.comparison.arms import Arm
from coderllm_jax.comparison.comparing import Asked, Study
from coderllm_jax.comparison.consistency import Consistency, judge_consistency
from coderllm_jax.comparison.cost import Costs, cost_figures, machine_of, reckon
from coderllm_jax.comparison.figures import SPECS, Figure, Spec, corpus_bleu, score_figures
from coderllm_jax.comparison.judging import Ask, judge_arms
from coderllm_jax.comparison.performance import (
    ALONE,
    TOGETHER,
    latency_figures,
    speed_contests,
    usage_figures,
    whole_turns,
)
from coderllm_jax.comparison.prompts import Choice
from coderllm_jax.comparison.questions import ASKED, SEEN, Question
from coderllm_jax.comparison.rounds import InTurns
from coderllm_jax.comparison.scoring import Scored, run_programs, score
from coderllm_jax.comparison.verdicts import Comparison, Contest, decide, hold_contests

# Figures of unseen questions and of a user's own are tested among the rest: the headline is `seen`.
_TESTED_UNSEEN = ("fact_f1",)
_TESTED_ASKED = ("clear",)


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that was found. rounds: question → the round in which it was asked together.

    main_set: the one that decides, the first that was asked.
    """

    arms: Sequence[Arm]
    choices: Mapping[str, Choice | None]
    questions: Sequence[Question]
    scored: Mapping[str, Sequence[Scored]]
    rounds: Mapping[str, int]
    figures: Sequence[Figure]
    comparisons: Sequence[Comparison]
    costs: Costs
    notes: Sequence[str]
    unscored: Sequence[str]
    main_set: str

    def figure(self, path: str) -> Figure | None:
        """The figure of that path, such as accuracy/seen/fact_f1."""
        return next((figure for figure in self.figures if figure.path == path), None)


def find_out(
    study: Study,
    asked: Asked,
    *,
    symbol_of: Mapping[str, str],
    fixed: Mapping[str, Mapping[str, float]],
    platform: str,
    ask_judge: Ask | None = None,
) -> Findings:
    """Scores every answer and sums up. fixed: chip-seconds that each arm spends once, by what for.

    symbol_of: of each chunk, by its id. ask_judge: None where there is no judge.
    """
    config, arms = study.config, study.arms.arms
    seed = config.seed
    scored, notes = _score(study, asked, symbol_of)
    main_set = study.chosen.sets[0]
    figures = [
        figure
        for name in study.chosen.sets
        for figure in (
            *score_figures(scored, set_name=name, seed=seed),
            *corpus_bleu(scored, set_name=name, seed=seed),
        )
    ]
    contests = [
        contest for name in study.chosen.sets for contest in _contests(scored, name, seed=seed)
    ]
    consistency = _consistency(study, asked, main_set)
    contests += [*consistency.contests, *asked.passed.contests(seed=seed)]
    figures += asked.passed.figures()
    if ask_judge is not None:
        study.note("asking the judge")
        judged = judge_arms(scored, ask_judge, set_name=main_set, max_items=config.judge.max_items)
        figures += judged.figures
        notes += judged.notes
    pooled = asked.pooled
    all_ids = [each.id for each in study.chosen.questions]
    ways: dict[str, InTurns] = {ALONE: asked.alone, TOGETHER: pooled}
    ids = {ALONE: [each.id for each in asked.alone_questions], TOGETHER: all_ids}
    answers = {way: turns.answers for way, turns in ways.items()}
    rounds = {way: turns.rounds for way, turns in ways.items()}
    contests += speed_contests(answers, ids=ids, rounds=rounds, seed=seed)
    figures += latency_figures(answers, ids=ids)
    figures += usage_figures(arms, pooled.answers, pooled.turns, ids=all_ids, seed=seed)
    figures += consistency.figures
    round_of = dict(zip(all_ids, pooled.rounds, strict=True))
    costs = reckon(
        [turn for arm in study.names for turn in whole_turns(pooled.turns, arm)],
        _right_by_round(scored, round_of) if main_set == SEEN else None,
        arms=study.names,
        fixed=fixed,
        machine=machine_of(platform, config.prices),
        prices=config.prices,
        seed=seed,
    )
    figures += cost_figures(costs, set_name="", ids=all_ids)
    comparisons = decide(
        contests,
        alpha=config.verdicts.alpha,
        margin=config.verdicts.margin,
        speed_margin=config.speed.margin,
    )
    return Findings(
        arms=arms,
        choices=asked.choices,
        questions=study.chosen.questions,
        scored=scored,
        rounds=round_of,
        figures=figures,
        comparisons=comparisons,
        costs=costs,
        notes=[*notes, *asked.passed.notes, *_notes(study, pooled)],
        unscored=_unscored(study),
        main_set=main_set,
    )


def _score(
    study: Study, asked: Asked, symbol_of: Mapping[str, str]
) -> tuple[dict[str, list[Scored]], list[str]]:
    scored: dict[str, list[Scored]] = {
        arm.name: [
            score(
                question,
                answer,
                looks_up=arm.looks_up,
                right_from=study.config.verdicts.right_from,
                symbol_of=symbol_of,
            )
            for name, turns in asked.together.items()
            for question, answer in zip(
                study.chosen.of_set(name), turns.answers[arm.name], strict=True
            )
        ]
        for arm in study.arms.arms
    }
    ran = run_programs(scored, study.folder, note=study.note)
    return ran.scored, list(ran.notes)


def _contests(scored: Mapping[str, Sequence[Scored]], set_name: str, *, seed: int) -> list[Contest]:
    contests = []
    for spec in _tested(set_name):
        values = {
            arm: {
                each.question.id: each.scores[spec.name]
                for each in of_arm
                if each.question.set == set_name and spec.name in each.scores
            }
            for arm, of_arm in scored.items()
        }
        contests += hold_contests(spec, values, set_name=set_name, seed=seed)
    return contests


def _tested(set_name: str) -> list[Spec]:
    """Only the headline set's fact F1 is of the family that has most of the budget."""
    tested = [spec for spec in SPECS if spec.family]
    if set_name == SEEN:
        return tested
    names = _TESTED_ASKED if set_name == ASKED else _TESTED_UNSEEN
    return [spec._replace(family="quality") for spec in tested if spec.name in names]


def _consistency(study: Study, asked: Asked, main_set: str) -> Consistency:
    ids = [each.id for each in study.chosen.of_set(main_set)]
    first = {
        arm: dict(zip(ids, answers, strict=True))
        for arm, answers in asked.together[main_set].answers.items()
    }
    again = {
        arm: {question.id: answer for question, answer in zip(asked.reasked, answers, strict=True)}
        for arm, answers in asked.again.answers.items()
    }
    return judge_consistency(
        first,
        again,
        asked.rewordings,
        asked.reworded.answers,
        set_name=main_set,
        seed=study.config.seed,
    )


def _right_by_round(
    scored: Mapping[str, Sequence[Scored]], round_of: Mapping[str, int]
) -> dict[str, dict[int, int]]:
    """Arm → round of seen questions → right answers in it."""
    right: dict[str, dict[int, int]] = {}
    for arm, of_arm in scored.items():
        right[arm] = {}
        for each in of_arm:
            if each.question.set == SEEN:
                number = round_of[each.question.id]
                right[arm][number] = right[arm].get(number, 0) + bool(each.checks["right"])
    return right


def _notes(study: Study, asked: InTurns) -> list[str]:
    notes = [
        f"{count} questions are left out: {why}" for why, count in study.chosen.left_out.items()
    ]
    for arm in study.names:
        failed = [answer for answer in asked.answers[arm] if answer.finish == "error"]
        if failed:
            notes.append(f"{arm} did not answer {len(failed)} questions: {failed[0].error}")
        num_whole = len(whole_turns(asked.turns, arm))
        num_rounds = len(set(asked.rounds))
        if num_whole < num_rounds:
            notes.append(
                f"{arm}: {num_rounds - num_whole} of {num_rounds} rounds compiled something or "
                "had questions without an answer, and count for no rate"
            )
    return notes


def _unscored(study: Study) -> list[str]:
    """What could not be scored, and why, in sentences."""
    found = []
    own = study.chosen.of_set(ASKED)
    if own:
        found.append(
            f"{len(own)} questions of your own have no reference answer: whether answers are "
            "right, complete or alike the reference cannot be said. Compared are their length, "
            "clarity, code that parses, citations, consistency, speed and cost"
        )
    no_facts = sum(1 for q in study.chosen.questions if q.item is not None and not q.item.facts)
    if no_facts:
        found.append(f"{no_facts} questions have no facts to look for: they have no fact F1")
    if study.config.human_eval and study.config.looks_up:
        found.append(
            "HumanEval's problems are continued, and passages have no place in them: arms that "
            "look things up answer as the arms that share their weights, and were not asked"
        )
    return found
