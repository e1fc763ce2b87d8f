"""Phrasings: several of each kind, one held out, chosen by content and not by chance."""

from __future__ import annotations

import string
import subprocess
import sys

import pytest

from coderllm_jax.data.templates import (
    PHRASINGS,
    held_out_question,
    stable_hash,
    trained_questions,
)

FIELDS = {
    "name": "pack.thing",
    "package": "pack",
    "subject": "x",
    "summary": "Does it.",
    "stub": "def f(): ...",
    "title": "Guide",
}


@pytest.mark.parametrize("kind", PHRASINGS)
def test_several_phrasings_and_one_that_no_row_uses(kind):
    trained = trained_questions(kind, FIELDS, key="a")
    assert len(set(trained)) == len(trained) >= 2
    assert held_out_question(kind, FIELDS) not in trained


@pytest.mark.parametrize("kind", PHRASINGS)
def test_every_phrasing_names_what_it_asks_about(kind):
    fields = [
        {name for _, name, _, _ in string.Formatter().parse(phrasing) if name}
        for phrasing in (*PHRASINGS[kind].trained, PHRASINGS[kind].held_out)
    ]
    assert all(names == fields[0] for names in fields)
    assert fields[0] & {"name", "summary", "stub", "title"}


def test_the_key_decides_where_the_circle_is_entered():
    everything = trained_questions("purpose", FIELDS, key="a")
    starts = {trained_questions("purpose", FIELDS, key=str(i), count=1)[0] for i in range(40)}
    assert starts == set(everything)
    assert trained_questions("purpose", FIELDS, key="a", count=2) == everything[:2]


def test_hashes_do_not_depend_on_the_process():
    code = "from coderllm_jax.data.templates import stable_hash; print(stable_hash('optax.adam'))"
    values = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert values == {f"{stable_hash('optax.adam')}\n".encode()}
