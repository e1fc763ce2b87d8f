"""Figures about code: pass@k from verdicts, and whether the Python in an answer parses.

problem   samples   passed          pass@1   pass@2
A         4         1               0.25     0.5
B         4         4               1.0      1.0
                                    0.625    0.75      the mean over problems; problems are
                                                       resampled, each with all of its samples
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.extraction import FENCE, PYTHON_LANGUAGES, extract_code, parses
from coderllm_jax.evaluation.statistics import bootstrap_mean, wilson_interval
from coderllm_jax.records import Estimate

_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: |$)", re.MULTILINE)
# Statements that are words of prose, too.
_WORDS = ast.Expr | ast.Pass | ast.Break | ast.Continue


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float | None:
    """Chance that one of k samples passes, from n of which c passed; None where k > n.

    Unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained
    on Code", equation 1), as a product. The plug-in 1 - (1 - c/n)^k is biased downward.
    """
    if k < 1 or not 0 <= num_passed <= num_samples:
        raise DataError(
            f"pass@{k} where {num_passed} of {num_samples} samples passed; expected k of at least "
            "1 and at most as many passed as samples"
        )
    if k > num_samples:
        return None
    if num_samples - num_passed < k:
        return 1.0
    all_fail = 1.0
    for number in range(num_samples - num_passed + 1, num_samples + 1):
        all_fail *= 1.0 - k / number
    return 1.0 - all_fail


def pass_at_k_estimate(
    counts: Iterable[tuple[int, int]], k: int, *, num_resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Mean pass@k over problems, from (samples, passed) of each, with its 95 % interval.

    Problems are resampled and keep all of their samples: 10 samples of 20 problems are 20
    independent things, not 200. Where every problem passes wholly or not at all, as with one sample
    each, that is a proportion of problems, and the interval is Wilson's. `value` is None where a
    problem has fewer than k samples.

    Covers: these problems as a sample of such problems. Does not cover: problems that resemble one
    another; another draw of samples for these same problems alone, a narrower interval.
    """
    values = [pass_at_k(num_samples, num_passed, k) for num_samples, num_passed in counts]
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return Estimate(None, num_items=len(values))
    if all(value in (0.0, 1.0) for value in defined):
        return wilson_interval(round(sum(defined)), len(defined))
    return bootstrap_mean(defined, bounds=(0.0, 1.0), num_resamples=num_resamples, seed=seed)


def code_parses(answer: str) -> bool:
    """Whether `answer` has Python in it, fenced or bare, and `ast` parses all of it.

    Interactive sessions are read without their prompts and results. False where there is no code.
    Covers: syntax. Does not cover: whether it runs, and whether names exist.
    """
    answer = answer.replace("\r\n", "\n")
    blocks = [
        textwrap.dedent(match["code"])
        for match in FENCE.finditer(answer)
        if match["language"].lower() in PYTHON_LANGUAGES and match["code"].strip()
    ]
    if blocks:
        return all(parses(_without_prompts(block)) for block in blocks)
    return is_program(_without_prompts(extract_code(answer)))


def parse_rate(answers: Iterable[str]) -> Estimate:
    """Share of the answers in which `code_parses`, with Wilson's interval."""
    parsed = [code_parses(answer) for answer in answers]
    return wilson_interval(sum(parsed), len(parsed))


def _without_prompts(code: str) -> str:
    if not _PROMPT.search(code):
        return code
    lines = code.split("\n")
    return "\n".join(_PROMPT.sub("", line) for line in lines if _PROMPT.match(line))


def is_program(code: str) -> bool:
    """Whether bare text is code that parses, and not a word or two that happens to."""
    code = textwrap.dedent(code)
    if not parses(code):
        return False
    nodes = list(ast.walk(ast.parse(code)))
    return any(
        isinstance(node, ast.Call) or (isinstance(node, ast.stmt) and not isinstance(node, _WORDS))
        for node in nodes
    )
