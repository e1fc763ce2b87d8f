"""Seconds and money, by hand; what nobody has said is not made up."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.cost import cost_figures, machine_of, price_words, reckon
from coderllm_jax.config.comparison import PricesSection
from tests.comparison.made import turn

# 10 answers each: trained takes 5 s and 5 s, rag 10 s and 20 s; of those 4, 6, 5 and 5 are right.
TURNS = [
    turn("trained", 1, wall_s=5.0),
    turn("trained", 2, wall_s=5.0),
    turn("rag", 1, wall_s=10.0),
    turn("rag", 2, wall_s=20.0),
]
RIGHT = {"trained": {1: 4, 2: 6}, "rag": {1: 5, 2: 5}, "endpoint": {1: 10}}
FIXED = {"trained": {"training": 400.0}}


def costs(prices=None, *, right=RIGHT, arms=("trained", "rag"), turns=TURNS, fixed=FIXED):
    prices = prices or PricesSection(volumes=(100,))
    return reckon(
        turns,
        right,
        arms=arms,
        fixed=fixed,
        machine=machine_of("cpu", prices),
        prices=prices,
        seed=0,
    )


def test_machine_time_of_answers_and_of_right_ones():
    found = costs()
    assert found.arms["trained"].per_1000.value == pytest.approx(10 / 20 * 1000)
    assert found.arms["rag"].per_1000.value == pytest.approx(30 / 20 * 1000)
    assert found.arms["rag"].per_right.value == pytest.approx(30 / 10)
    assert found.arms["rag"].per_right.num_items == 20


def test_training_is_spread_over_the_answers():
    trained = costs().to_json()["arms"]["trained"]
    assert trained["amortised"] == [
        {"answers": 100, "chip_seconds_per_1000": pytest.approx(4500.0), "price_per_1000": None}
    ]
    assert trained["fixed"] == {"training": 400.0}


def test_the_volume_from_which_training_has_paid_for_itself():
    """400 s more at the start, 1 s less an answer."""
    (even,) = costs().to_json()["break_even"]
    assert even["answers"] == 400
    assert "trained" in even["words"]
    assert "400 answers" in even["words"]


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({}, "costs less than rag from the first answer on"),
        ({"rag": {"training": 9.0}}, "trained, and saves nothing later"),
    ],
)
def test_where_nothing_is_saved_there_is_no_such_volume(fixed, words):
    (even,) = costs(fixed=fixed).to_json()["break_even"]
    assert even["answers"] is None
    assert words in even["words"]


def test_without_a_price_there_is_no_money():
    found = costs()
    told = found.to_json()
    assert told["price_per_chip_hour"] is None
    assert told["currency"] == ""
    assert all(arm["price_per_1000"]["value"] is None for arm in told["arms"].values())
    assert "set prices.cpu_hour" in price_words(found)
    assert {figure.name for figure in cost_figures(found, set_name="", ids=[])} == {
        "chip_seconds_per_1000",
        "chip_seconds_per_right",
    }


def test_a_price_is_the_users_and_its_source_is_told():
    prices = PricesSection(cpu_hour=3.6, source="my bill of May", volumes=(100,))
    found = costs(prices)
    assert found.arms["rag"].price_per_1000.value == pytest.approx(1.5)  # 0.001 a second
    assert found.arms["rag"].price_per_right.value == pytest.approx(0.003)
    assert found.to_json()["arms"]["trained"]["amortised"][0]["price_per_1000"] == pytest.approx(
        4.5
    )
    assert "my bill of May" in price_words(found)
    assert "not said" in price_words(costs(PricesSection(cpu_hour=1.0)))
    (even,) = found.to_json()["break_even"]
    assert even["answers"] == 400  # the same in money


def test_no_right_answer_has_no_price():
    found = costs(right={"trained": {1: 0, 2: 0}, "rag": {1: 0, 2: 1}})
    assert found.arms["trained"].per_right.value is None
    # Resampled turns may hold no right answer: there is no upper end then.
    assert found.arms["rag"].per_right.value == 30.0
    assert found.arms["rag"].per_right.high is None


def test_without_references_nothing_is_right():
    assert costs(right=None).arms["rag"].per_right.value is None


def test_an_endpoint_costs_its_tokens_and_no_time_of_ours():
    prices = PricesSection(tokens_in_million=2.0, tokens_out_million=10.0)
    turns = [turn("endpoint", 1, tokens_in=1000, tokens_out=100)]
    found = costs(prices, arms=("endpoint",), turns=turns).arms["endpoint"]
    assert found.per_1000.value is None
    assert found.price_per_1000.value == pytest.approx((0.002 + 0.001) / 10 * 1000)
    assert found.price_per_right.value == pytest.approx(0.0003)


def test_a_chip_is_the_machine_or_one_accelerator():
    prices = PricesSection(gpu_hour=2.0, tpu_chip_hour=1.0)
    assert machine_of("cpu", prices).price is None
    assert machine_of("gpu", prices).price == 2.0
    assert machine_of("tpu", prices).price == 1.0
    assert "whole machine" in machine_of("cpu", prices).words
    assert "TPU chip" in machine_of("tpu", prices).words


def test_rounds_of_questions_that_are_not_scored_so_cost_time_and_no_right_answers():
    """A third round of newer questions: its time counts for answers, not for right ones."""
    found = costs(turns=[*TURNS, turn("rag", 3, wall_s=100.0)]).arms["rag"]
    assert found.per_1000.value == pytest.approx(130 / 30 * 1000)
    assert found.per_right.value == pytest.approx(30 / 10)
    assert found.per_right.num_items == 20
