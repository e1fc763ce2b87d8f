"""Each arm gets the prompt that suits it, by a walk of few steps, and says what was tried."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.prompts import Plan, Worth, choose_plan, first_plans
from coderllm_jax.config.comparison import ValidationSection
from coderllm_jax.config.generation import PromptSection
from coderllm_jax.records import Estimate

SECTION = ValidationSection()


def plans(**changes):
    values = {"knows_turns": False, "looks_up": False, "num_shots": 4}
    return first_plans(section=SECTION, **{"prompt": PromptSection(), **values, **changes})


def measured(worth):
    """Plans are worth what `worth` says; `asked` lists them."""
    asked = []

    def measure(plan):
        asked.append(plan)
        return Worth(Estimate(worth(plan), 0.0, 1.0, 16))

    return measure, asked


def test_a_pretrained_base_is_shown_examples():
    assert plans() == [Plan("few_shot", 2), Plan("few_shot", 4), Plan("few_shot", 0)]


def test_a_model_that_knows_turns_begins_with_them():
    assert plans(knows_turns=True) == [Plan("chat"), Plan("few_shot", 2)]


def test_retrieval_shows_passages_in_its_examples_too():
    assert plans(looks_up=True) == [
        Plan("few_shot", 2, 3),
        Plan("few_shot", 2, 3, shows_passages=True),
        Plan("few_shot", 0, 3),
    ]
    assert plans(looks_up=True, knows_turns=True) == [
        Plan("chat", 0, 3),
        Plan("few_shot", 2, 3, shows_passages=True),
    ]


def test_without_training_rows_there_is_nothing_to_show():
    assert plans(num_shots=0) == [Plan("few_shot", 0)]
    assert plans(num_shots=0, looks_up=True) == [Plan("few_shot", 0, 3)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (PromptSection(style="chat"), [Plan("chat")]),
        (PromptSection(style="few_shot", shots=1), [Plan("few_shot", 1)]),
    ],
)
def test_a_style_that_is_named_is_the_only_one(prompt, expected):
    assert plans(prompt=prompt) == expected


def test_the_best_wins_and_everything_that_was_tried_is_told():
    measure, asked = measured(lambda plan: plan.shots / 10)
    choice = choose_plan(plans(), section=SECTION, measure=measure)
    assert choice.plan == Plan("few_shot", 4)
    assert [each.plan for each in choice.tried] == asked
    assert asked == [*plans(), Plan("few_shot", 4, ends_at_blank=True)]
    told = choice.to_json()
    assert [each["is_chosen"] for each in told["candidates"]] == [False, True, False, False]
    assert told["num_items"] == 16


def test_the_first_of_equals_wins():
    measure, _ = measured(lambda plan: 0.5)
    assert choose_plan(plans(), section=SECTION, measure=measure).plan == Plan("few_shot", 2)


def test_passages_and_wording_are_tried_on_the_best_style_alone():
    def worth(plan):
        return plan.shows_passages + plan.passages / 10 + plan.cites

    measure, asked = measured(worth)
    choice = choose_plan(plans(looks_up=True), section=SECTION, measure=measure)
    assert choice.plan == Plan("few_shot", 2, 5, shows_passages=True, cites=True)
    assert len(asked) == len(set(asked)) == 3 + 2 + 1 + 1  # nothing twice
    assert all(plan.shows_passages for plan in asked[3:])


def test_with_nothing_to_measure_by_the_first_is_taken_and_nothing_was_tried():
    choice = choose_plan(plans(), section=SECTION, measure=None)
    assert (choice.plan, choice.tried) == (Plan("few_shot", 2), ())


def test_an_answerer_that_knows_nothing_keeps_its_first_prompt():
    measure, _ = measured(lambda plan: None)
    assert choose_plan(plans(), section=SECTION, measure=measure).plan == Plan("few_shot", 2)


def test_plain_text_may_end_at_a_blank_line_and_turns_end_by_themselves():
    measure, asked = measured(lambda plan: plan.ends_at_blank)
    choice = choose_plan(plans(), section=SECTION, measure=measure)
    assert choice.plan == Plan("few_shot", 2, ends_at_blank=True)
    assert choice.plan.stop == ("\n\n",)
    assert choice.plan.words == "plain text, 2 examples, ends at a blank line"
    measure, asked = measured(lambda plan: plan.kind == "chat")
    choose_plan(plans(knows_turns=True), section=SECTION, measure=measure)
    assert not any(plan.ends_at_blank for plan in asked)
    assert Plan("chat").stop == ()


def test_what_is_told_to_cite_is_remembered_also_where_it_was_not_chosen():
    def measure(plan):
        return Worth(Estimate(0.5 - 0.1 * plan.cites), Estimate(float(plan.cites)))

    choice = choose_plan(plans(looks_up=True), section=SECTION, measure=measure)
    assert not choice.plan.cites
    assert choice.told_to_cite().worth.cites.value == 1.0
    assert choose_plan(plans(), section=SECTION, measure=measure).told_to_cite() is None
