"""Fact F1: the reference gets 1, nothing and everything get nothing, inventions cost."""

from __future__ import annotations

import collections
import random
from pathlib import Path

import pytest

from coderllm_jax import entry
from coderllm_jax.config.data import DataConfig
from coderllm_jax.data.preparation import prepare_data, read_evaluation_items
from coderllm_jax.evaluation.facts import score_facts
from coderllm_jax.records import EvalItem

ROOT = Path(__file__).parents[2]


def item(question: str, answer: str, *facts: str, symbol: str = "") -> EvalItem:
    return EvalItem("item", question, answer, "seen", facts=facts, symbol=symbol)


ARGUMENT = item(
    "What should I pass as momentum to optax.lars?",
    "Decay rate for momentum. The default is `0.9`.",
    "0.9",
    "decay",
    symbol="optax.lars",
)
SIGNATURE = item(
    "Write out the parameters of optax.signum with their defaults.",
    "`optax.signum(learning_rate, beta=0.9, accumulator_dtype=None)`",
    "learning_rate",
    "beta",
    "accumulator_dtype",
    "0.9",
    symbol="optax.signum",
)
WHICH = item("I need layer-wise adaptive rates.", "`optax.lars`", "lars", symbol="optax.lars")
EXAMPLE = item(
    "Write a few lines of code that use optax.lion.",
    "```python\nimport optax\nsolver = optax.lion(learning_rate=0.003)\n```",
    "lion",
    symbol="optax.lion",
)
RETURNS = item(
    "What do I get back from optax.partition?",
    "A `optax.GradientTransformationExtraArgs` that implements an `init` and `update` function.",
    "gradienttransformationextraargs",
    "implements",
    "update",
)


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[EvalItem]:
    """The default domain's 240 evaluation items."""
    config = entry.load_card(str(ROOT / "configs/data.py"))
    config.output_dir = str(tmp_path_factory.mktemp("prepared"))
    prepare_data(DataConfig.from_config_dict(config))
    return read_evaluation_items(f"{config.output_dir}/evaluation")


def mean_f1(items: list[EvalItem], answers: list[str] | str) -> float:
    if isinstance(answers, str):
        answers = [answers] * len(items)
    scores = [score_facts(answer, each) for answer, each in zip(answers, items, strict=True)]
    return sum(score.f1 for score in scores) / len(scores)


# ------------------------------------------------------------------------------------ real items


def test_every_reference_is_right(items):
    for each in items:
        score = score_facts(each.answer, each)
        assert (score.f1, score.precision, score.recall) == (1, 1, 1), each
        assert set(score.found) <= set(each.facts)


def test_chat_around_a_right_answer_costs_nothing(items):
    answers = [f"Sure, here it is:\n{each.answer}\nAsk me if you need more." for each in items]
    assert mean_f1(items, answers) == 1


def test_neither_nothing_nor_the_question_says_anything(items):
    assert mean_f1(items, "") == 0
    assert mean_f1(items, " \n") == 0
    assert mean_f1(items, [each.question for each in items]) == 0
    assert mean_f1(items, [f"`{each.symbol}`. {each.question}" for each in items]) < 0.2


def test_a_list_of_everything_does_not_win(items):
    """One answer to all questions, made with the facts of all of them in hand."""
    facts = collections.Counter(fact for each in items for fact in each.facts)
    ranked = [fact for fact, _ in facts.most_common()]
    names = sorted({each.symbol.rpartition(".")[2] for each in items})
    items = items[::3]
    for words in (ranked, names):
        assert mean_f1(items, " ".join(words)) < 0.05
        assert mean_f1(items, f"`{' '.join(words)}`") < 0.05
        assert mean_f1(items, " ".join(f"`{word}`" for word in words)) < 0.05
        assert mean_f1(items, "```python\n" + "\n".join(words) + "\n```") < 0.05
        assert mean_f1(items, "```\n" + " ".join(words) + "\n```") < 0.05
    plain = [fact for fact in ranked if fact.isalpha() and fact.islower()]
    assert max(mean_f1(items, " ".join(plain[:size])) for size in (10, 30, 100, 300)) < 0.3


def test_answers_to_other_questions_are_wrong(items):
    by_kind = collections.defaultdict(list)
    for each in items:
        by_kind[each.kind].append(each)
    chooser = random.Random(0)
    answers = [
        chooser.choice([o for o in by_kind[each.kind] if o.symbol != each.symbol] or items).answer
        for each in items
    ]
    assert mean_f1(items, answers) < 0.15


# ----------------------------------------------------------------------------------------- found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Decay rate, `0.9` by default.", ("0.9", "decay")),
        ("decay=0.90", ("0.9", "decay")),
        ("The DECAY is .9", ("0.9", "decay")),
        ("Decays. Default: 9e-1", ("0.9", "decay")),
        ("decayed 0.95", ()),
        ("a weight_decay of 10.9", ()),
        ("decay-free, -0.9", ("decay",)),
        ("1-0.9", ("0.9",)),
    ],
)
def test_what_is_found(answer, found):
    assert score_facts(answer, ARGUMENT).found == found


def test_code_is_found_as_it_is_written():
    assert score_facts("`optax.Lars`", WHICH).f1 == 0
    assert score_facts("LARS", WHICH).f1 == 0
    assert score_facts("optax.lars", WHICH).f1 == 1
    none = item("What is mask?", "A tree. The default is `None`.", "None", "tree")
    assert score_facts("No tree, none.", none).found == ("tree",)
    # This fact is a name in lower case: the reference has no such code, so case is not asked for.
    assert score_facts(RETURNS.answer, RETURNS).f1 == 1
    assert score_facts("An update implementing little", RETURNS).found == ("update",)


@pytest.mark.parametrize(
    ("one", "other"),
    [("update", "Updates"), ("policies", "policy"), ("caches", "cache"), ("losses", "losses")],
)
def test_plain_words_are_found_in_either_number(one, other):
    assert score_facts(f"Some {other}.", item("What?", f"The {one} here.", one)).f1 == 1
    assert score_facts(f"Some {one}.", item("What?", f"The {other} here.", other.lower())).f1 == 1


@pytest.mark.parametrize("other", ["updated", "los", "lossy", "class", "bus"])
def test_other_words_are_not(other):
    for fact in ("update", "loss", "clas", "bu"):
        assert score_facts(f"Some {other}.", item("What?", f"The {fact} here.", fact)).f1 == 0


def test_quotes_and_signs():
    fro = item("Which norm?", "The default is `'fro'`, along `axis=-1`.", "'fro'", "-1")
    assert score_facts('`"fro"`, -1', fro).found == ("'fro'", "-1")
    assert score_facts("fro, 1", fro).found == ()
    assert score_facts("`n-1`", fro).found == ()
    plus = item("Which axis?", "The default is `1`.", "1")
    assert score_facts("It is -1.", plus).f1 == 0
    assert score_facts("It is 1.", plus).f1 == 1


def test_more_than_a_word():
    header = item("Add.", "```python\ndef add(a, b):\n    return a + b\n```", "def add(")
    assert score_facts("```python\ndef add (x, y):\n    return x + y\n```", header).f1 == 1
    assert score_facts("```python\ndef add_all(x):\n    return x\n```", header).f1 == 0
    dotted = item("Split.", "```python\nkeys = jax.random.split(key)\n```", "jax.random.split")
    assert score_facts("```python\na, b = jax.random.split(k)\n```", dotted).f1 == 1
    assert score_facts("```python\na, b = numpy.random.split(k)\n```", dotted).f1 == 0
    hyphen = item("How?", "It clips per-example.", "per-example")
    assert score_facts("Per-example clipping.", hyphen).f1 == 1
    assert score_facts("An example.", hyphen).f1 == 0


# ----------------------------------------------------------------------------------------- wrong


def test_the_drawn_example():
    score = score_facts("The momentum's decay, `0.99` unless you set `nesterov`.", ARGUMENT)
    assert score.found == ("decay",)
    assert score.missed == ("0.9",)
    assert score.wrong == ("0.99", "nesterov")
    assert (score.recall, score.precision, score.f1) == (0.5, pytest.approx(1 / 3), 0.4)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("Decay 0.9 and 0.95 and 0.95", ("0.95",)),
        ("Decay 0.9 by set_decay", ("set_decay",)),
        ("Decay 0.9, see optax.sgd", ("sgd",)),
        ("Decay 0.9, see SgdState", ("SgdState",)),
        ("Decay 0.9, call sgd() for parameter(s)", ("sgd",)),
        ("Decay 0.9, nesterov=True", ("nesterov", "True")),
        ("Decay 0.9, `nesterov`", ("nesterov",)),
        ("Decay 0.9, `momentum` of `optax.lars`, a `float` for x", ()),
        ("1. Decay\n2. 0.9", ()),
        ("Decay 0.9, e.g. for 2D, i.e. often", ()),
    ],
)
def test_what_is_claimed(answer, wrong):
    score = score_facts(answer, ARGUMENT)
    assert score.wrong == wrong
    assert score.recall == 1
    assert score.precision == 2 / (2 + len(wrong))


def test_plain_words_are_free_until_they_are_many():
    words = [f"word{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(100)]
    answer = "Decay, 0.9. "
    assert score_facts(answer + " ".join(words[:29]), ARGUMENT).f1 == 1
    assert score_facts(answer + " ".join(words[:30]), ARGUMENT).precision == 2 / 3
    score = score_facts(answer + " ".join(words), ARGUMENT)
    assert (score.num_new_words, score.precision) == (100, 2 / 10)
    # Saying them again, or saying what question and reference say, is not new.
    assert score_facts(answer + " ".join(words[:20] * 9), ARGUMENT).f1 == 1
    assert score_facts(f"{ARGUMENT.question} {ARGUMENT.answer}" * 9, ARGUMENT).num_new_words == 0


# -------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nimport optax\nopt = optax.lion(1e-4, b1=0.95)\n```",
        "import optax\nopt = optax.lion(1e-4)\nstate = opt.init({'w': 2.0})",
        "```python\nimport optax\nopt = optax.lion(1e-4)\n```\nHere `opt` takes steps of `1e-4`.",
        "```python\nimport optax\nopt = optax.lion(learning_rate=",
        "Use `optax.lion(learning_rate)`.",
    ],
)
def test_a_program_that_uses_it(answer):
    score = score_facts(answer, EXAMPLE)
    assert score.recall == 1
    assert score.precision == 1


@pytest.mark.parametrize(
    "answer",
    [
        "optax.lion",
        "`optax.lion`",
        "```python\noptax.lion\n```",
        "You can use optax.lion for that.",
        "```python\nimport optax\nsolver = optax.adam(1e-3)\n```",
        "```python\nsolver = optax.lio",
    ],
)
def test_an_echo_of_the_question_is_no_use_of_it(answer):
    assert score_facts(answer, EXAMPLE).f1 == 0


def test_a_program_of_all_names_is_a_list_of_them():
    names = "\n".join(f"optax.name_{number}" for number in range(200))
    score = score_facts(f"```python\noptax.lion()\n{names}\n```", EXAMPLE)
    assert score.recall == 1
    assert score.f1 < 0.15


def test_an_illustration_beside_prose_neither_finds_nor_claims():
    illustration = "```python\nimport optax\nopt = optax.lars(1e-3, momentum=0.5)\n```"
    assert score_facts(f"Decay, 0.9.\n{illustration}", ARGUMENT).f1 == 1
    assert score_facts("```python\ndecay = 0.9\n```", ARGUMENT).f1 == 0
    assert score_facts("```\nDecay rate, 0.9 by default.\n```", ARGUMENT).f1 == 1


def test_code_that_was_asked_for_may_be_fenced():
    bare = SIGNATURE.answer.strip("`")
    for answer in (bare, f"```python\n{bare}\n```", f"```\n{bare}\n```", f"It is `{bare}`."):
        assert score_facts(answer, SIGNATURE).f1 == 1
    score = score_facts("```python\noptax.signum(learning_rate, beta=0.5, decay=1)\n```", SIGNATURE)
    assert score.found == ("learning_rate", "beta")
    assert score.wrong == ("0.5", "decay", "1.0")


def test_no_facts_no_figure():
    assert score_facts("x", item("q", "a")) is None
    # What the question says in plain words is no evidence of knowing it.
    assert score_facts("wrong", item("What went wrong?", "A wrong type.", "wrong")) is None
