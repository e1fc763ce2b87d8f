"""Asked in turns, metered apart, kept as it comes: nobody always first, nothing asked twice."""

from __future__ import annotations

import collections
import itertools
import json

import pytest

from coderllm_jax.comparison.rounds import Book, ask_in_turns, order_of, with_stop
from coderllm_jax.records import Query
from tests.comparison.made import TableAnswerer

ARMS = ["trained", "rag", "base", "trained_rag"]


def queries(count, *, start=0):
    return [Query.from_question(f"q/{n}", f"Question {n}?") for n in range(start, start + count)]


def echo(question):
    return f"answer to {question}"


def answerers(**changes):
    return {
        name: TableAnswerer(echo, name=name, identity={"arm": name}, **changes) for name in ARMS
    }


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_every_arm_comes_as_often_at_every_place(seed):
    places = collections.Counter(
        (arm, place)
        for number in range(1, 9)
        for place, arm in enumerate(order_of(ARMS, number, seed=seed))
    )
    assert set(places.values()) == {2}
    assert len(places) == 16


def test_no_arm_always_follows_the_same_one():
    before = collections.defaultdict(set)
    for number in range(1, 9):
        order = order_of(ARMS, number, seed=0)
        for first, second in itertools.pairwise(order):
            before[second].add(first)
    assert all(len(others) > 1 for others in before.values())


def test_another_seed_is_another_order_and_the_same_one_the_same():
    def orders(seed):
        return [order_of(ARMS, number, seed=seed) for number in range(8)]

    assert orders(3) == orders(3)
    assert len({json.dumps(orders(seed)) for seed in range(5)}) > 1


def test_all_arms_get_the_same_questions_in_the_same_batches(tmp_path):
    arms = answerers()
    asked = ask_in_turns(Book(tmp_path), arms, queries(10), phase="together", size=4, seed=0)
    batches = [[f"Question {n}?" for n in batch] for batch in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])]
    assert all(answerer.asked == batches for answerer in arms.values())
    assert asked.rounds == [1] * 4 + [2] * 4 + [3] * 2
    for arm in ARMS:
        assert [answer.id for answer in asked.answers[arm]] == [f"q/{n}" for n in range(10)]
        assert [answer.text for answer in asked.answers[arm]] == [
            echo(f"Question {n}?") for n in range(10)
        ]
    assert len(asked.turns) == 3 * 4
    assert all(turn.is_whole for turn in asked.turns)
    assert sum(turn.num_answers for turn in asked.turns) == 40


def test_arms_are_asked_in_the_rounds_order(tmp_path):
    arms, order = answerers(), []
    for name, answerer in arms.items():
        answerer.on_poll = lambda name=name: order.append(name)
    ask_in_turns(Book(tmp_path), arms, queries(8), phase="together", size=2, seed=5)
    assert order == [arm for number in range(1, 5) for arm in order_of(ARMS, number, seed=5)]


def test_a_second_time_nothing_is_asked_and_everything_is_the_same(tmp_path):
    first = ask_in_turns(Book(tmp_path), answerers(), queries(6), phase="p", size=3, seed=0)
    arms, book = answerers(), Book(tmp_path)
    second = ask_in_turns(book, arms, queries(6), phase="p", size=3, seed=0)
    assert all(answerer.asked == [] for answerer in arms.values())
    assert second == first
    assert book.num_asked == 0


class _Killed(BaseException):
    pass


def test_a_turn_that_was_cut_is_asked_again_as_a_whole(tmp_path):
    """Or what it cost would be that of half a turn."""
    whole_arms = answerers()
    whole = ask_in_turns(
        Book(tmp_path / "whole"), whole_arms, queries(6), phase="p", size=3, seed=0
    )
    seen = []

    def progress(done):
        seen.append(done)
        if len(seen) == 8:  # in the middle of the third turn
            raise _Killed

    with pytest.raises(_Killed):
        ask_in_turns(
            Book(tmp_path), answerers(), queries(6), phase="p", size=3, seed=0, progress=progress
        )
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "cut in the midd')
    arms = answerers()
    again = ask_in_turns(Book(tmp_path), arms, queries(6), phase="p", size=3, seed=0)
    batches = [batch for answerer in arms.values() for batch in answerer.asked]
    assert [len(batch) for batch in batches] == [3] * (8 - 2)
    assert all(batch in whole_arms[name].asked for name in ARMS for batch in arms[name].asked)
    texts = {arm: [answer.text for answer in given] for arm, given in again.answers.items()}
    assert texts == {arm: [a.text for a in given] for arm, given in whole.answers.items()}
    assert all(turn.is_whole for turn in again.turns)
    assert len(again.turns) == len(whole.turns)


def test_before_anything_is_asked_there_is_time_to_warm_up(tmp_path):
    warmed = []
    for _ in range(2):
        ask_in_turns(
            Book(tmp_path),
            answerers(),
            queries(2),
            phase="p",
            size=2,
            seed=0,
            before=lambda answerer: warmed.append(answerer.name),
        )
    assert sorted(warmed) == sorted(ARMS)


@pytest.mark.parametrize(
    "change",
    [
        {"arm": "base"},
        {"phase": "alone"},
        {"identity": {"arm": "trained", "index": "another"}},
        {"tokens": 5},
    ],
)
def test_what_can_change_an_answer_is_part_of_its_key(tmp_path, change):
    """Above all another arm: no arm profits from what another one was asked."""
    book = Book(tmp_path)
    same = {"arm": "trained", "phase": "p", "identity": {"arm": "trained"}, "tokens": 9}

    def ask(arm, phase, identity, tokens):
        answerer = TableAnswerer(echo, identity=identity)
        query = Query.from_question("q", "What?", max_new_tokens=tokens)
        book.ask(arm, answerer, [query], phase=phase)
        return len(answerer.asked)

    assert ask(**same) == 1
    assert ask(**same) == 0
    assert ask(**{**same, **change}) == 1


def test_what_ended_in_an_error_is_told_and_asked_again(tmp_path):
    answerer = TableAnswerer(echo, refuses="Question 1?")
    given, turn = Book(tmp_path).ask("base", answerer, queries(3), phase="p")
    assert [answer.finish for answer in given] == ["stop", "error", "stop"]
    assert given[1].error == "refused, as told"
    assert not turn.is_whole
    mended = TableAnswerer(echo)
    given, _ = Book(tmp_path).ask("base", mended, queries(3), phase="p")
    assert [answer.finish for answer in given] == ["stop"] * 3
    assert mended.asked == [["Question 1?"]]


def test_lines_say_who_was_asked_what(tmp_path):
    Book(tmp_path).ask("rag", TableAnswerer(echo), queries(1), phase="alone", round=3)
    (line,) = (tmp_path / "answers.jsonl").read_text().splitlines()
    asked = json.loads(line)["asked"]
    assert (asked["arm"], asked["phase"], asked["round"], asked["id"]) == ("rag", "alone", 3, "q/0")
    assert asked["question"] == "Question 0?"
    assert asked["answer"]["text"] == echo("Question 0?")


def test_times_stay_with_their_answers(tmp_path):
    first, _ = Book(tmp_path).ask("rag", TableAnswerer(echo), queries(2), phase="p")
    again, _ = Book(tmp_path).ask("rag", TableAnswerer(echo), queries(2), phase="p")
    for one, other in zip(first, again, strict=True):
        assert one.time_to_first_token_s == other.time_to_first_token_s == 0.5
        assert one.total_s == other.total_s


def test_what_ends_an_arms_answers_is_its_own(tmp_path):
    arms = answerers()
    stops = []
    for name, answerer in arms.items():
        submit = answerer.submit

        def note(query, name=name, submit=submit):
            stops.append((name, query.stop))
            submit(query)

        answerer.submit = note
    asked = with_stop(queries(1), ("END",))
    ask_in_turns(Book(tmp_path), arms, asked, phase="p", size=1, seed=0, stops={"base": ("\n\n",)})
    assert dict(stops) == {**dict.fromkeys(ARMS, ("END",)), "base": ("END", "\n\n")}
