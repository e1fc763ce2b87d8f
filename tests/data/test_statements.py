"""What is asked about a symbol: whole answers, honest defaults, facts that can be checked."""

from __future__ import annotations

import pytest

from coderllm_jax.data import harvest, trees
from coderllm_jax.data.facts import with_distinctive_facts
from coderllm_jax.data.meanings import argument_meaning
from coderllm_jax.data.signatures import NO_VALUE, Parameter
from coderllm_jax.data.snippets import doctest_asserts, shortest_use, with_imports
from coderllm_jax.data.statements import Bounds, statements_of
from coderllm_jax.data.tokens import estimate_tokens
from tests.data.sources import write_package

WIDE = Bounds(100, 100, estimate_tokens)


@pytest.fixture
def statements(tmp_path):
    tree = trees.folder_tree(write_package(tmp_path))
    found = harvest.harvest_tree(tree).symbols
    return {s.key: s for symbol in found for s in statements_of(symbol, WIDE)}


def test_every_kind(statements):
    answers = {key: statement.answer for key, statement in statements.items()}
    assert (
        answers["toy.scale:purpose"] == "Multiplies a value by a factor and adds an offset to it."
    )
    assert answers["toy.scale:signature"].startswith("`toy.scale(value, factor=2.0,")
    assert answers["toy.scale:argument:value"] == "Number to be scaled."
    assert (
        answers["toy.scale:argument:factor"]
        == "What the value is multiplied with. The default is `2.0`."
    )
    assert (
        answers["toy.scale:argument:offset"] == "Added after the multiplication. Can be negative."
    )
    assert answers["toy.scale:returns"] == "The scaled value as a number."
    assert answers["toy.scale:raises:ValueError"] == "If the value is not finite."
    assert (
        answers["toy.scale:example"] == "```python\nimport toy\ntoy.scale(3, factor=4)  # 12\n```"
    )
    assert answers["toy.scale:which"] == "`toy.scale`"
    assert answers["toy.extras:module"].startswith("Extras")
    assert answers["toy.extras.Point:attribute:x"] == "Horizontal coordinate, growing to the right."
    assert "toy.scale:argument:missing" not in answers


def test_an_implementation_is_asked_for_with_its_stub_and_judged_by_its_doctests(statements):
    statement = statements["toy.double:implementation"]
    assert 'def twice(x):\n    """Doubles a number' in statement.fields["stub"]
    namespace: dict = {}
    exec(statement.answer.removeprefix("```python\n").removesuffix("\n```"), namespace)
    assert statement.tests == "assert twice(4) == 8\nassert twice('ab') == 'abab'"
    exec(statement.tests, namespace)


def test_nothing_exceeds_its_bound(tmp_path):
    tree = trees.folder_tree(write_package(tmp_path))
    narrow = Bounds(12, 16, estimate_tokens)
    found = [
        s for symbol in harvest.harvest_tree(tree).symbols for s in statements_of(symbol, narrow)
    ]
    assert found
    for statement in found:
        limit = 16 + 8 if "`" in statement.answer else 12  # a fence, and imports, stand around code
        assert estimate_tokens(statement.answer) <= limit
        assert statement.answer.rstrip("`").endswith((".", "\n", ")", statement.symbol))


def test_facts_are_in_the_answer_and_words_of_the_question_are_not(statements):
    for statement in with_distinctive_facts(statements.values()):
        lowered = statement.answer.lower()
        assert statement.facts
        for fact in statement.facts:
            assert fact.lower() in lowered or statement.kind in (
                "implementation",
                "example",
                "which",
            )
    purpose = next(
        s for s in with_distinctive_facts(statements.values()) if s.key == "toy.scale:purpose"
    )
    assert "scale" not in purpose.facts


@pytest.mark.parametrize(
    ("text", "default", "meaning"),
    [
        ("The rate.", None, "The rate."),
        ("The rate.", "0.1", "The rate. The default is `0.1`."),
        ("The rate. Defaults to 0.1.", "0.1", "The rate. The default is `0.1`."),
        ("The rate. Defaults to `0.5`.", "None", "The rate. The default is `0.5`."),
        ("The rate (default: 0.1).", "0.1", "The rate. The default is `0.1`."),
        ("The rate, defaults to 0.1.", "None", "The rate. The default is `0.1`."),
        ("The rate (default 0.1).", "None", "The rate. The default is `0.1`."),
        ("The rate (default None). Default: None.", "None", "The rate. The default is `None`."),
        ("Optional. The rate.", "'a.b'", "The rate. The default is `'a.b'`."),
        ("float, optional. The rate.", "1", "The rate. The default is `1`."),
        (
            "The rate. Defaults to the global rate of the config.",
            "None",
            "The rate. Defaults to the global rate of the config.",
        ),
        ("The rate.", NO_VALUE, "The rate."),
        ("Unused.", "1", ""),
        ("Rate.", "1", ""),
        ("Deprecated, use b instead.", "1", ""),
        ("", "1", ""),
    ],
)
def test_a_default_is_said_once_and_never_wrongly(text, default, meaning):
    found = argument_meaning(text, Parameter("rate", default), fits=lambda text: True)
    assert found.text == meaning
    assert found.default in found.text


def fits(limit):
    return lambda text: len(text) <= limit


SESSION = "import lib\na = 1\nb = lib.make(a)\nc = other(5)\nlib.use(b)\nprint(c)"


@pytest.mark.parametrize(
    ("limit", "part"),
    [(99, SESSION), (50, "import lib\na = 1\nb = lib.make(a)\nlib.use(b)"), (10, "")],
)
def test_the_shortest_use_keeps_what_it_needs(limit, part):
    assert shortest_use(SESSION, "use", fits=fits(limit)) == part


def test_an_example_of_something_else_is_no_example():
    assert shortest_use("import lib\nlib.make(1)", "use", fits=fits(99)) == ""
    assert shortest_use("not python at all", "use", fits=fits(99)) == ""


def test_missing_imports_are_added():
    assert with_imports("jnp.sin(make(x))", "lib.sub.make") == (
        "import jax.numpy as jnp\nfrom lib.sub import make\njnp.sin(make(x))"
    )
    assert with_imports("lib.sub.make()", "lib.sub.make") == "import lib\nlib.sub.make()"
    assert (
        with_imports("import numpy as np\nnp.sort(a)", "numpy.sort")
        == "import numpy as np\nnp.sort(a)"
    )


@pytest.mark.parametrize(
    ("session", "asserts"),
    [
        ((("f(1)\n", "2\n"),), "assert f(1) == 2"),
        ((("x = [1]\n", ""), ("pack.f(x)\n", "[2]\n")), "x = [1]\nassert f(x) == [2]"),
        ((("f(1)\n", "<object at 0x7>\n"),), ""),
        ((("f(1)\n", "[1, ..., 9]\n"),), ""),
        ((("g(1)\n", "2\n"),), ""),
        ((("x = g(1)\n", ""), ("f(x)\n", "2\n")), ""),
        (
            (("import numpy as np\n", ""), ("f(np.ones(1))\n", "array([2.])\n")),
            "import numpy as np\nassert np.allclose(f(np.ones(1)), [2.], rtol=1e-06, atol=1e-08)",
        ),
        ((("f(\n", "2\n"),), ""),
    ],
)
def test_asserts_come_from_sessions_that_stand_alone(session, asserts):
    assert doctest_asserts("f", {"pack.f"}, [session]) == asserts
