"""Splits a script of tests: what runs beside the candidate, and what only the examiner knows.

A script may use whatever the candidate defines (classes, decorators, coroutines), so it runs in the
candidate's process. Its asserts do not: there, each becomes a report of the values that the
assert would compare, and the comparison, with every constant in it, stays with the examiner.

    the tests                               beside the candidate
    cache = RecentCache(2)                  cache = RecentCache(2)
    cache.put("a", 1)                       cache.put("a", 1)
    assert cache.get("a") == 1              __observe__(0, cache.get('a'))
    assert not is_inside("/a", "/b")        __observe__(1, is_inside('/a', '/b'))
                                            the examiner
                                            seen[0] == 1
                                            not seen[0]

Split are `and`, `or`, `not`, comparisons, arithmetic with a constant, `abs`, `round` and NumPy's
and JAX's `allclose`, `isclose`, `array_equal`. An operand made of constants, built-in names and
modules that the tests import stays outside; the others are observed. Where every operand would be
observed (`first == second`), so is their comparison.

Covers: constants that answers are compared with never enter the candidate's process. Does not
cover: constants in other statements (a loop over inputs and results), which do; the truth of a
comparison between two of the candidate's own values, which the candidate can bend.
"""

from __future__ import annotations

import ast
import builtins
from typing import NamedTuple

from coderllm_jax.errors import DataError

_CLOSENESS = ("allclose", "isclose", "array_equal")
_ARITHMETIC = ("abs", "round")


class Check(NamedTuple):
    """One assert: an expression over `seen`, the assert as written, and where it stands."""

    expression: str
    source: str
    is_top_level: bool


class SplitTests(NamedTuple):
    """`script` runs beside the candidate; `setup` (imports) and `checks` with the examiner."""

    script: str
    setup: str
    checks: tuple[Check, ...]


def split_tests(tests: str, *, name: str, reference: str = "") -> SplitTests:
    """Splits `tests`, those of item `name`. Raises DataError where they are no script of asserts.

    What a right answer, `reference`, defines is the candidate's, even where a built-in or a module
    has the same name.
    """
    try:
        tree = ast.parse(tests)
    except SyntaxError as error:
        raise DataError(
            f"{name}: line {error.lineno} of its tests is no Python ({error.msg})"
        ) from None
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    splitter = _Splitter(imports, tree, _defined(reference))
    script = ast.unparse(ast.fix_missing_locations(splitter.visit(tree)))
    if not any(check.is_top_level for check in splitter.checks):
        raise DataError(
            f"{name}: its tests assert nothing outside loops and functions; add an assert"
        )
    setup = "\n".join(ast.unparse(node) for node in imports)
    return SplitTests(script, setup, tuple(splitter.checks))


class _Splitter(ast.NodeTransformer):
    """Replaces asserts by reports and collects what they compared."""

    def __init__(
        self,
        imports: list[ast.Import | ast.ImportFrom],
        tree: ast.Module,
        defined: set[str],
    ) -> None:
        self.checks: list[Check] = []
        self._top_level = {id(node) for node in tree.body}
        names = {alias.asname or alias.name.partition(".")[0] for i in imports for alias in i.names}
        self._modules = names - defined
        self._outside = (names | set(dir(builtins))) - defined - _assigned(tree)
        self._seen: list[ast.expr] = []

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        self._seen = []
        number, is_top_level = len(self.checks), id(node) in self._top_level
        source = ast.unparse(ast.Assert(node.test, None))
        # A constant condition has nothing to observe: it is what an `assert False` says.
        expression = node.test if self._is_known(node.test) else self._split(node.test)
        self.checks.append(Check(ast.unparse(expression), source, is_top_level))
        call = ast.Call(
            ast.Name("__observe__", ast.Load()), [ast.Constant(number), *self._seen], []
        )
        return ast.copy_location(ast.Expr(call), node)

    def _split(self, node: ast.expr) -> ast.expr:
        """`node` as the examiner evaluates it; what it has to be told is added to `_seen`."""
        if self._is_known(node):
            return node
        split: ast.expr | None = None
        match node:
            # All that is observed is evaluated before the report. After `and` that may raise, and
            # then nothing is reported, as in a test that fails; an `or` is observed as a whole.
            case ast.BoolOp(ast.And() as op, values):
                split = ast.BoolOp(op, [self._split(value) for value in values])
            case ast.UnaryOp(op, operand):
                split = ast.UnaryOp(op, self._split(operand))
            case ast.BinOp(left, op, right) if self._is_known(left) or self._is_known(right):
                split = ast.BinOp(self._split(left), op, self._split(right))
            case ast.Compare(left, ops, others) if any(map(self._is_known, (left, *others))):
                split = ast.Compare(self._split(left), ops, [self._split(o) for o in others])
            case ast.Call(function, args, keywords) if self._is_measured(node):
                named = [ast.keyword(k.arg, self._split(k.value)) for k in keywords]
                split = ast.Call(function, [self._split(a) for a in args], named)
        return split or self._observed(node)

    def _observed(self, node: ast.expr) -> ast.expr:
        self._seen.append(node)
        return ast.parse(f"seen[{len(self._seen) - 1}]", mode="eval").body

    def _is_measured(self, node: ast.expr) -> bool:
        """Whether `node` calls one of the functions that are as good outside as inside."""
        match node:
            case ast.Call(ast.Name(name)) if name in _ARITHMETIC:
                return True
            case ast.Call(ast.Attribute(ast.Name(module), name)) if module in self._modules:
                return name in _CLOSENESS
        return False

    def _is_known(self, node: ast.expr) -> bool:
        """Whether the examiner can evaluate `node` without the candidate."""
        names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
        bound = {
            inner.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
        }
        return all(name in self._outside or name in bound for name in names)


def _defined(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return _assigned(tree)


def _assigned(tree: ast.AST) -> set[str]:
    """Names that `tree` binds anywhere, imports aside."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names
