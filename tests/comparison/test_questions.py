"""Who could have known what: sets, validation questions, and what is left out."""

from __future__ import annotations

import pytest

from coderllm_jax.comparison.questions import ASKED, SEEN, UNSEEN, choose, choose_own
from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk
from tests.comparison.made import item


def chunk(number: int) -> Chunk:
    return Chunk(f"m.f{number}#0", "text", "m 1", symbol=f"m.f{number}")


SEEN_ITEMS = [item(n) for n in range(20)]
UNSEEN_ITEMS = [item(n, split="unseen") for n in range(50, 60)]
TIMES = {f"m.f{n}": 2 for n in range(20)}


def chosen(**changes):
    values = {
        "num_seen": 100,
        "num_unseen": 100,
        "num_validation": 4,
        "times_seen": TIMES,
        "trained_chunks": [chunk(n) for n in range(20)],
        "newer_chunks": [chunk(n) for n in range(50, 60)],
    }
    return choose([*SEEN_ITEMS, *UNSEEN_ITEMS], **{**values, **changes})


def ids(questions):
    return {question.id for question in questions}


def test_validation_questions_are_compared_by_nobody():
    found = chosen()
    assert len(found.validation) == 4
    assert len(found.of_set(SEEN)) == 16
    assert ids(found.questions).isdisjoint(each.id for each in found.validation)
    assert ids(found.of_set(UNSEEN)) == {each.id for each in UNSEEN_ITEMS}
    assert found.sets == [SEEN, UNSEEN]
    assert found.left_out == {}


def test_at_most_a_quarter_is_given_up_for_validation():
    assert len(chosen(num_validation=16).validation) == 5
    assert chosen(num_validation=0).validation == ()


def test_the_order_of_the_file_changes_nothing():
    found = chosen(num_seen=7, num_unseen=3)
    backward = choose(
        [*UNSEEN_ITEMS, *SEEN_ITEMS][::-1],
        num_seen=7,
        num_unseen=3,
        num_validation=4,
        times_seen=TIMES,
        trained_chunks=[chunk(n) for n in range(20)],
        newer_chunks=[chunk(n) for n in range(50, 60)],
    )
    assert found == backward
    assert (len(found.of_set(SEEN)), len(found.of_set(UNSEEN))) == (7, 3)


def test_more_questions_leave_the_validation_questions_as_they_are():
    assert chosen(num_seen=3).validation == chosen(num_seen=100).validation


def test_the_trained_arm_has_seen_it_twice_or_it_is_not_compared():
    found = chosen(times_seen={**TIMES, "m.f0": 1, "m.f1": 0}, num_validation=0)
    assert "seen:m.f0" not in ids(found.questions)
    assert "seen:m.f1" not in ids(found.of_set(SEEN))  # never trained on, and not newer either
    assert found.left_out == {
        "trained on, but once only": 1,
        "not in the chunks that retrieval may look up": 1,
    }


def test_retrieval_may_look_it_up_or_it_is_not_compared():
    found = chosen(trained_chunks=[chunk(n) for n in range(10)], newer_chunks=[chunk(50)])
    assert all(int(each.item.symbol[3:]) < 10 for each in found.of_set(SEEN))
    assert ids(found.of_set(UNSEEN)) == {"unseen:m.f50"}
    assert found.left_out == {"not in the chunks that retrieval may look up": 10 + 9}


def test_without_retrieval_no_chunk_is_asked_for():
    found = chosen(trained_chunks=None, newer_chunks=())
    assert len(found.questions) == 16 + 10


def test_without_a_run_the_files_word_stands():
    assert len(chosen(times_seen=None).of_set(SEEN)) == 16


def test_own_questions_keep_their_order_and_have_no_reference():
    found = choose_own(("b?", "a?"), tuple(SEEN_ITEMS[:2]))
    assert [each.text for each in found.of_set(ASKED)] == ["b?", "a?"]
    assert [each.item for each in found.questions] == [None, None]
    assert found.validation == tuple(SEEN_ITEMS[:2])
    assert found.sets == [ASKED]


def test_an_own_question_twice_is_refused():
    with pytest.raises(DataError, match="'a\\?' twice"):
        choose_own(("a?", "b?", "a?"), ())
