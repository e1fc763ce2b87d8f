"""The order in which a comparison asks: prompts first, then everybody in turns.

    validation questions ──► a prompt for each arm                      phase validation
    12 questions, one at a time, in turns                               phase alone
    every question, as many at a time as there are slots, in turns      phase together
    16 questions again, and in other words, in turns                    phases again, reworded
    HumanEval, where it is asked for                                    phase human_eval

What was asked is kept (`rounds.Book`), so all of this costs nothing a second time. What it comes to
is for `findings` to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coderllm_jax.comparison.arms import Arm, Arms, Corpus, warm_up
from coderllm_jax.comparison.consistency import Reworded, reordered, reword
from coderllm_jax.comparison.human_eval import Passed, ask_human_eval
from coderllm_jax.comparison.prompts import Choice, Plan, Worth, choose_plan, first_plans
from coderllm_jax.comparison.questions import SEEN, Chosen, Question
from coderllm_jax.comparison.rounds import Book, InTurns, ask_in_turns, with_stop
from coderllm_jax.comparison.scoring import cited_by
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.evaluation.asking import AnswerProgress
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.records import Answer, Answerer, EvalItem, Query

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison in progress: who, what, where, and what was asked so far."""

    config: ComparisonConfig
    arms: Arms
    chosen: Chosen
    book: Book
    folder: Path
    note: Note
    warm: set[str] = dataclasses.field(default_factory=set)  # arms that have compiled everything

    @property
    def names(self) -> list[str]:
        """The arms', in the table's order."""
        return [arm.name for arm in self.arms.arms]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Everything that was answered. together: set → all arms' answers to its questions.

    Of the questions asked again: `again` in `reasked`'s order, `reworded` in `rewordings`'.
    """

    choices: Mapping[str, Choice | None]
    alone_questions: tuple[Question, ...]
    alone: InTurns
    together: Mapping[str, InTurns]
    reasked: tuple[Question, ...]
    again: InTurns
    rewordings: tuple[Reworded, ...]
    reworded: InTurns
    passed: Passed

    @property
    def pooled(self) -> InTurns:
        """All sets' questions together, in order: times do not ask what is known."""
        sets = list(self.together.values())
        return InTurns(
            {arm: [a for turns in sets for a in turns.answers[arm]] for arm in sets[0].answers},
            [number for turns in sets for number in turns.rounds],
            [turn for turns in sets for turn in turns.turns],
        )


def ask_everybody(study: Study) -> Asked:
    """Asks whatever is not known yet; see the drawing above."""
    config, chosen = study.config, study.chosen
    choices = choose_prompts(study)
    main_set = chosen.sets[0]
    main = chosen.of_set(main_set)
    alone_questions = main[: config.speed.alone_items]
    alone = _in_turns(
        study,
        choices,
        "alone",
        [
            _query(f"alone/{each.id}", each.text, config.speed.alone_tokens)
            for each in alone_questions
        ],
        set_name=main_set,
        size=1,
    )
    together = {}
    first_round = 1
    for name in chosen.sets:
        queries = [
            _query(each.id, each.text, config.max_new_tokens) for each in chosen.of_set(name)
        ]
        together[name] = _in_turns(
            study, choices, "together", queries, set_name=name, first_round=first_round
        )
        first_round += max(together[name].rounds)
    subset = main[: config.consistency.items]
    reasked = reordered(subset, seed=config.seed)
    again = _in_turns(
        study,
        choices,
        "again",
        [_query(f"again/{each.id}", each.text, config.max_new_tokens) for each in reasked],
        set_name=main_set,
    )
    rewordings = reword(subset, count=config.consistency.paraphrases, seed=config.seed)
    reworded = _in_turns(
        study,
        choices,
        "reworded",
        [
            _query(f"reworded/{number}", each.text, config.max_new_tokens)
            for number, each in enumerate(rewordings)
        ],
        set_name=main_set,
    )
    return Asked(
        choices,
        tuple(alone_questions),
        alone,
        together,
        tuple(reasked),
        again,
        tuple(rewordings),
        reworded,
        _ask_human_eval(study, choices),
    )


def _ask_human_eval(study: Study, choices: Mapping[str, Choice | None]) -> Passed:
    if not study.config.human_eval:
        return Passed({})
    answerers = {
        arm.name: study.arms.answerer(arm, _plan(choices[arm.name]), "known")
        for arm in study.arms.arms
        if not arm.looks_up
    }
    return ask_human_eval(
        study.book,
        answerers,
        study.folder,
        num_problems=study.config.human_eval,
        note=study.note,
    )


def choose_prompts(study: Study) -> dict[str, Choice | None]:
    """Every arm's prompt; None for an endpoint, whose prompt is its server's."""
    choices: dict[str, Choice | None] = {}
    for arm in study.arms.arms:
        if arm.name == "endpoint":
            choices[arm.name] = None
            continue
        plans = first_plans(
            knows_turns=arm.knows_turns,
            looks_up=arm.looks_up,
            section=study.config.validation,
            prompt=study.config.prompt,
            num_shots=study.arms.num_shots,
        )

        def measure(plan: Plan, arm: Arm = arm) -> Worth:
            return _worth(study, arm, plan)

        choice = choose_plan(
            plans,
            section=study.config.validation,
            measure=measure if study.chosen.validation else None,
        )
        tried = f", the best of {len(choice.tried)}" if choice.tried else ""
        study.note(f"{arm.name} is asked with {choice.plan.words}{tried}")
        choices[arm.name] = choice
    return choices


def corpus_of(set_name: str) -> Corpus:
    """What may be looked up for a set: for seen questions, what the trained arm has seen."""
    return "known" if set_name == SEEN else "everything"


def _worth(study: Study, arm: Arm, plan: Plan) -> Worth:
    items = study.chosen.validation
    answers, _ = study.book.ask(
        arm.name,
        study.arms.answerer(arm, plan, "known"),
        with_stop(
            [
                _query(f"validation/{item.id}", item.question, study.config.max_new_tokens)
                for item in items
            ],
            plan.stop,
        ),
        phase="validation",
    )
    values = [_fact_f1(item, answer) for item, answer in zip(items, answers, strict=True)]
    fact_f1 = bootstrap_mean(values, bounds=(0.0, 1.0), seed=study.config.seed)
    if not arm.looks_up:
        return Worth(fact_f1)
    num_citing = sum(bool(cited_by(answer)) for answer in answers)
    return Worth(fact_f1, wilson_interval(num_citing, len(answers)))


def _fact_f1(item: EvalItem, answer: Answer) -> float:
    found = score_facts(answer.text.strip(), item)
    return found.f1 if found is not None else 0.0


def _in_turns(
    study: Study,
    choices: Mapping[str, Choice | None],
    phase: str,
    queries: Sequence[Query],
    *,
    set_name: str,
    size: int = 0,
    first_round: int = 1,
) -> InTurns:
    """All arms, `size` questions at a time; 0: as many as there are slots."""
    answerers: dict[str, Answerer] = {
        arm.name: study.arms.answerer(arm, _plan(choices[arm.name]), corpus_of(set_name))
        for arm in study.arms.arms
    }
    stops = {arm: choice.plan.stop for arm, choice in choices.items() if choice is not None}
    if queries:
        study.note(f"{phase}: {len(queries)} questions, {len(answerers)} arms in turns")

    def warm(answerer: Answerer) -> None:
        if answerer.name not in ("endpoint", *study.warm):
            study.note(f"{answerer.name} warms up")
            warm_up(answerer, max_length=study.config.generation.max_length)
            study.warm.add(answerer.name)

    told = AnswerProgress("answers")
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        told(done, len(queries) * len(answerers))

    return ask_in_turns(
        study.book,
        answerers,
        queries,
        phase=phase,
        size=size or study.config.generation.num_slots,
        seed=study.config.seed,
        first_round=first_round,
        stops=stops,
        before=warm,
        progress=progress,
    )


def _plan(choice: Choice | None) -> Plan | None:
    return choice.plan if choice is not None else None


def _query(id: str, text: str, max_new_tokens: int) -> Query:
    return Query.from_question(id, text, max_new_tokens=max_new_tokens)
