"""Which questions are asked: by the run's own account, in halves, whatever the file's order."""

from __future__ import annotations

import random
from collections import Counter

from coderllm_jax.evaluation.items import choose_questions
from coderllm_jax.records import EvalItem


def item(number, split, kind="purpose"):
    return EvalItem(
        f"{split}:{number}", "q?", "a", split, symbol=f"{split}{number}", kind=kind, facts=("a",)
    )


ITEMS = [
    item(n, split, kind) for n in range(20) for split in ("seen", "unseen") for kind in ("purpose",)
] + [item(100 + n, "seen", "example") for n in range(3)]


def test_half_of_each_and_kinds_are_mixed():
    chosen = choose_questions(ITEMS, 10).items
    assert Counter(each.split for each in chosen) == {"seen": 5, "unseen": 5}
    assert [each.kind for each in chosen[:2]] != ["purpose", "purpose"]


def test_the_same_ones_whatever_order_the_file_has():
    shuffled = ITEMS.copy()
    random.Random(1).shuffle(shuffled)
    assert choose_questions(shuffled, 10) == choose_questions(ITEMS, 10)


def test_a_short_half_is_filled_up_by_the_other():
    few = [each for each in ITEMS if each.split == "seen"] + [item(0, "unseen")]
    chosen = choose_questions(few, 10).items
    assert Counter(each.split for each in chosen) == {"seen": 9, "unseen": 1}


def test_seen_is_what_the_run_has_trained_on():
    times = {"unseen0": 2, "seen1": 1, "seen2": 4}
    chosen = choose_questions(
        [item(0, "unseen"), item(1, "seen"), item(2, "seen"), item(3, "seen")], 10, times_seen=times
    )
    assert {each.symbol: each.split for each in chosen.items} == {
        "unseen0": "seen",
        "seen1": "seen",
        "seen2": "seen",
        "seen3": "unseen",
    }
    assert chosen.num_moved == 2
    twice = choose_questions(
        [item(1, "seen"), item(2, "seen")], 10, times_seen=times, least_times=2
    )
    assert [each.symbol for each in twice.items] == ["seen2"]  # seen once is neither
