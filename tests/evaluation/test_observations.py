"""Tests split in two: the candidate's half never holds what answers are compared with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from coderllm_jax.data.preparation import read_evaluation_items
from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.observations import split_tests
from coderllm_jax.evaluation.tasks import tasks_from_items

QUESTIONS = Path(__file__).parents[2] / "data" / "questions.jsonl"


def split(tests: str, reference: str = ""):
    done = split_tests(tests, name="x", reference=reference)
    return done.script, [check.expression for check in done.checks]


@pytest.mark.parametrize(
    ("tests", "script", "expression"),
    [
        ("assert f(1) == 2", "__observe__(0, f(1))", "seen[0] == 2"),
        ("assert not f('a')", "__observe__(0, f('a'))", "not seen[0]"),
        ("assert f() is None", "__observe__(0, f())", "seen[0] is None"),
        ("assert 1 < f() <= 3", "__observe__(0, f())", "1 < seen[0] <= 3"),
        ("assert f() == list(range(3))", "__observe__(0, f())", "seen[0] == list(range(3))"),
        ("assert abs(f() - 0.5) < 1e-6", "__observe__(0, f())", "abs(seen[0] - 0.5) < 1e-06"),
        (
            "assert f() == 1 and g() == 2",
            "__observe__(0, f(), g())",
            "seen[0] == 1 and seen[1] == 2",
        ),
        ("assert f() == g()", "__observe__(0, f() == g())", "seen[0]"),
        (
            "assert f() == [i for i in (1, 2)]",
            "__observe__(0, f())",
            "seen[0] == [i for i in (1, 2)]",
        ),
        ("assert f(), 'message with 42'", "__observe__(0, f())", "seen[0]"),
    ],
)
def test_what_is_compared_stays_outside(tests, script, expression):
    assert split(tests) == (script, [expression])


def test_modules_of_the_tests_compare_outside():
    script, (expression,) = split("import numpy as np\nassert np.allclose(f(2), [0.25, 4])")
    assert script == "import numpy as np\n__observe__(0, f(2))"
    assert expression == "np.allclose(seen[0], [0.25, 4])"


def test_a_name_that_the_candidate_defines_is_its_own():
    assert split("assert sum([1, 2]) == 3") == ("__observe__(0)", ["sum([1, 2]) == 3"])
    assert split("assert sum([1, 2]) == 3", "def sum(x): ...") == (
        "__observe__(0, sum([1, 2]))",
        ["seen[0] == 3"],
    )


def test_every_assert_is_reported_where_it_stood():
    done = split_tests("for x in (1, 2):\n    assert f(x)\nassert g() == 1", name="x")
    assert [check.is_top_level for check in done.checks] == [False, True]
    assert done.script == "for x in (1, 2):\n    __observe__(0, f(x))\n__observe__(1, g())"


@pytest.mark.parametrize(
    ("tests", "message"),
    [("assert f(", "line 1"), ("f()", "asserts? nothing"), ("if f():\n    assert g()", "nothing")],
)
def test_what_is_no_test_is_refused(tests, message):
    with pytest.raises(DataError, match=message):
        split_tests(tests, name="item 3")


def test_the_written_questions_give_no_expected_value_away():
    """Each value is planted: were a constant left in the candidate's half, it would be found."""
    for task in tasks_from_items(read_evaluation_items(QUESTIONS)).values():
        tree = ast.parse(task.tests)
        planted = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
                planted.append(f"planted-{len(planted)}")
                node.test.comparators[-1] = ast.Constant(planted[-1])
        done = split_tests(ast.unparse(tree), name=task.task_id, reference=task.reference)
        assert "planted" not in done.script
        assert sum("planted" in check.expression for check in done.checks) == len(planted)
