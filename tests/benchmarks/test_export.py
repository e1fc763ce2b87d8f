"""What the export's benchmark compares and tells: the first difference, and where answers end."""

from __future__ import annotations

import pytest

from benchmarks.export import Difference, Outcome, differences_table, first_difference, table
from benchmarks.export_arm import cut

FOUND = {
    "versions": {"lib": "1.2"},
    "program": {"difference": 0.25, "kl": 1e-6},
    "rounding": None,
}


@pytest.mark.parametrize(
    ("ours", "theirs", "at"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [1, 2], 2),
        ([1], [1, 2], 1),
        ([], [], None),
        ([], [4], 0),
    ],
)
def test_the_first_difference(ours, theirs, at):
    assert first_difference(ours, theirs) == at


def test_an_answer_ends_before_its_first_stop():
    assert cut([5, 6, 106, 7, 1], [1, 106]) == [5, 6]
    assert cut([106], [1, 106]) == []
    assert cut([5, 6], [1, 106]) == [5, 6]


def test_tables_show_counts_and_every_difference():
    difference = Difference(question=2, at=4, ours="'a'", theirs="(end)", lead=0.01234, rank=2)
    outcome = Outcome(
        "m-q8_0.gguf", "llama.cpp", 3 * 10**8, FOUND, 19, 20, 30.5, 32.0, [difference], 1.0
    )
    row = "| m-q8_0.gguf | lib 1.2 | 0.30 | 0.25 | 1e-06 |  | 19 of 20 | 30.5 of 32.0 |"
    assert row in table([outcome])
    assert "| m-q8_0.gguf | 3 | 5 | 'a' | (end) | 0.0123 | 2 |" in differences_table([outcome])
    assert differences_table([outcome._replace(differences=[])]) == "No answer differs."
