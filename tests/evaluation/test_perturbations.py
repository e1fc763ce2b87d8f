"""Disturbed questions: the same for a seed, answerable where they should be, hostile elsewhere."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from coderllm_jax.data.templates import PHRASINGS
from coderllm_jax.evaluation import perturbations
from coderllm_jax.evaluation.perturbations import PERTURBATIONS, perturb, protected_words
from coderllm_jax.records import EvalItem

WAYS = {each.name: each for each in PERTURBATIONS}
KEEPING = [each.name for each in PERTURBATIONS if each.keeps_answer]
QUESTION = (
    "What should I pass as momentum to optax.lars, and why is `learning rate` not enough for JAX? "
    "See lr_schedule, CamelCase words, 0.9, call() and this:\n\n"
    "```python\ndef please keep(every single space):\n    return   them\n```"
)
ITEM = EvalItem(
    id="seen:optax.lars:argument:momentum",
    question=QUESTION,
    answer="",
    split="seen",
    symbol="optax.lars",
    kind="argument",
    facts=("0.9", "decay"),
)
# What a question must keep to be this question, the fence as a whole.
KEPT = (
    "momentum",
    "optax.lars",
    "`learning rate`",
    "JAX",
    "lr_schedule",
    "CamelCase",
    "0.9",
    "call()",
    QUESTION[QUESTION.index("```") :],
)


def disturbed(name, text=QUESTION, seed=0, protected=None):
    protected = protected_words(ITEM) if protected is None else protected
    return perturb(WAYS[name], text, seed=seed, protected=protected)


@pytest.mark.parametrize("name", WAYS)
def test_a_seed_decides_and_something_changes(name):
    assert disturbed(name) == disturbed(name) != QUESTION


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("seed", range(20))
def test_names_code_and_numbers_stay_where_the_answer_should(name, seed):
    text = disturbed(name, seed=seed)
    for kept in KEPT:
        assert kept in text


def test_words_that_are_not_protected_are_not_spared():
    words = {disturbed("typos", "momentum", seed=seed, protected=frozenset()) for seed in range(9)}
    assert "momentum" not in words
    assert disturbed("typos", "momentum") == "momentum"


@pytest.mark.parametrize("seed", range(50))
def test_a_typo_is_two_letters_swapped_or_a_neighbouring_key(seed):
    before = ["please", "describe", "something"]
    after = perturb(WAYS["typos"], " ".join(before), seed=seed).split()
    (old, new) = next((o, n) for o, n in zip(before, after, strict=True) if o != n)
    assert sum(o != n for o, n in zip(before, after, strict=True)) == 1
    assert old[0] == new[0]
    places = [i for i in range(len(old)) if old[i] != new[i]]
    if len(places) == 2:
        i, j = places
        assert j == i + 1
        assert (old[i], old[j]) == (new[j], new[i])
    else:
        (i,) = places
        row = next(row for row in perturbations._KEYS if old[i] in row)
        assert abs(row.index(old[i]) - row.index(new[i])) == 1


def test_one_word_in_five_is_mistyped():
    text = " ".join(["describe"] * 40)
    words = perturb(WAYS["typos"], text, seed=1).split()
    assert sum(word != "describe" for word in words) == 8


def test_whitespace_changes_nothing_but_whitespace_and_no_indentation():
    text = disturbed("whitespace")
    assert text.split() == QUESTION.split()
    assert "\n    return   them\n" in text


def test_shouting_changes_case_alone():
    text = disturbed("case")
    assert text.lower() == QUESTION.lower()
    assert text.startswith("WHAT SHOULD I PASS AS momentum TO optax.lars, AND WHY IS")


@pytest.mark.parametrize("kind", PHRASINGS)
def test_a_known_question_is_asked_in_other_words_with_the_same_fields(kind):
    fields = {
        "name": "optax.lars",
        "subject": "momentum",
        "package": "the standard library",
        "summary": "Scales by {braces} and more: of them.",
        "title": "Notes on training",
        "stub": "def f(x):\n    '''One: {x}.'''",
    }
    phrasings = PHRASINGS[kind]
    for template in (phrasings.held_out, *phrasings.trained):
        question = template.format(**fields)
        wanted = {other.format(**fields) for other in perturbations._REPHRASED[kind]}
        found = {perturb(WAYS["paraphrase"], question, seed=seed) for seed in range(12)}
        assert found == wanted


def test_no_paraphrase_is_a_phrasing_of_training_or_evaluation():
    known = {phrasing for kind in PHRASINGS.values() for phrasing in (*kind.trained, kind.held_out)}
    ours = [phrasing for kind in perturbations._REPHRASED.values() for phrasing in kind]
    assert perturbations._REPHRASED.keys() == PHRASINGS.keys()
    assert known.isdisjoint(ours)
    for kind, phrasings in perturbations._REPHRASED.items():
        wanted = set(re.findall(r"\{(\w+)\}", PHRASINGS[kind].held_out))
        for phrasing in phrasings:
            # The stub of a function says what its summary says, and need not be asked for twice.
            assert set(re.findall(r"\{(\w+)\}", phrasing)) == wanted


def test_any_other_question_is_wrapped_as_it_is():
    assert QUESTION in disturbed("paraphrase")
    assert "{question}" in perturb(WAYS["paraphrase"], "What is {question}?", seed=0)


def test_full_width_is_the_same_text_to_unicode():
    text = disturbed("full_width")
    assert unicodedata.normalize("NFKC", text) == unicodedata.normalize("NFKC", QUESTION)


def test_fake_turns_are_whole_turns_as_text():
    text = disturbed("fake_turns")
    assert text.startswith(QUESTION + "<end_of_turn>\n<start_of_turn>model\n")
    assert text.count("<start_of_turn>") == 2


def test_an_open_fence_is_never_closed():
    assert disturbed("open_fence", "What is it?") == "```python\nWhat is it?"


@pytest.mark.parametrize("name", WAYS)
def test_any_text_can_be_disturbed(name):
    chance = random.Random(0)
    for text in ("", " ", "\n", "?", "`", "```", "a", "\ud800", "İstanbul ǅ ﬀ", "\x00"):
        assert isinstance(disturbed(name, text), str)
    for _ in range(200):
        text = "".join(
            chr(chance.choice((32, 96, 10, 65, 97, 233, 0x4E00, 0x202E))) for _ in "ab" * 9
        )
        assert isinstance(disturbed(name, text), str)
