"""Programs out of docstring examples: the shortest use of a name, and asserts. Nothing is run.

>>> import numpy as np                 shortest_use(code, "sort")
>>> a = np.array([3, 1])        →        import numpy as np
>>> b = np.zeros(2)                      a = np.array([3, 1])
>>> np.sort(a)                           np.sort(a)
array([1, 3])
                                       doctest_asserts("sort", {"numpy.sort"}, sessions)
                                →        import numpy as np
                                         a = np.array([3, 1])
                                         assert np.array_equal(sort(a), [1, 3])
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable

from coderllm_jax.data.examples import Doctest
from coderllm_jax.data.markup import Fits

_SAFE_NAMES = frozenset(
    {"abs", "all", "any", "bool", "bytes", "complex", "dict", "divmod", "enumerate", "float"}
    | {"frozenset", "int", "isinstance", "len", "list", "map", "max", "min", "pow", "range"}
    | {"repr", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"}
)
_NUMPY = "import numpy as np"
_WELL_KNOWN = {
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "keras": "import keras",
    "lax": "from jax import lax",
    "nnx": "from flax import nnx",
    "np": _NUMPY,
    "ocp": "import orbax.checkpoint as ocp",
    "ops": "from keras import ops",
    "optax": "import optax",
}
_ARRAY = re.compile(r"array\((?P<values>.*?)(?:, dtype=\w+)?\)", re.DOTALL)


def shortest_use(code: str, name: str, *, fits: Fits) -> str:
    """The example whole, or the statements that its first use of `name` needs, or nothing."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return ""
    use = next((i for i, node in enumerate(body) if _mentions(node, name)), None)
    if use is None:
        return ""
    if fits(code):
        return code.strip("\n")
    needed, kept = _loaded(body[use]), [body[use]]
    for node in reversed(body[:use]):
        if _stored(node) & needed:
            needed |= _loaded(node)
            kept.append(node)
    lines = code.splitlines()
    part = "\n".join(
        line for node in reversed(kept) for line in lines[node.lineno - 1 : node.end_lineno]
    )
    return part if fits(part) else ""


def unresolved(code: str) -> set[str]:
    """The names that a program uses and neither binds nor finds among the builtins."""
    tree = ast.parse(code)
    bound = {
        name for node in ast.walk(tree) if isinstance(node, ast.stmt) for name in _stored(node)
    }
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return _loaded(tree) - bound - frozenset(dir(builtins))


def with_imports(code: str, own: str) -> str:
    """The program with imports for `own` (a dotted name), its package and well-known modules.

    Docstrings leave out what their readers know; a program that is to be run cannot.
    """
    missing = unresolved(code)
    home, _, name = own.rpartition(".")
    known = {home.partition(".")[0]: f"import {home.partition('.')[0]}"} if home else {}
    known |= _WELL_KNOWN
    lines = [line for module, line in sorted(known.items()) if module in missing]
    if home and name in missing:
        lines.append(f"from {home} import {name}")
    return "\n".join([*lines, code])


def doctest_asserts(
    name: str, names: Iterable[str], sessions: Iterable[tuple[Doctest, ...]]
) -> str:
    """Asserts from sessions: calls of `name` whose printed result is a literal or a NumPy array.

    `names` are the dotted names under which the sessions may call it. Only statements that need
    nothing but the function, builtins, NumPy and what was assigned before are taken.
    """
    dotted = set(names)
    dotted |= {f"np.{full.removeprefix('numpy.')}" for full in dotted if full.startswith("numpy.")}
    lines: list[str] = []
    for session in sessions:
        known = {name} | _SAFE_NAMES
        setup: list[str] = []
        for source, want in session:
            try:
                (node,) = ast.parse(source).body
            except (SyntaxError, ValueError):
                break
            if isinstance(node, ast.Import | ast.ImportFrom):
                if ast.unparse(node) == _NUMPY:
                    known.add("np")
                    setup.append(_NUMPY)
                continue
            node = _Unqualified(name, dotted).visit(node)
            used = _loaded(node)
            if not used <= known:
                break
            if isinstance(node, ast.Assign) and not want:
                known |= _stored(node)
                setup.append(ast.unparse(node))
            elif isinstance(node, ast.Expr) and name in used:
                check = _check(ast.unparse(node), want.strip())
                new = [line for line in setup if line not in lines] if check else []
                lines += [*new, check] if check and check not in lines else []
    return "\n".join(_with_numpy(lines))


def _check(call: str, want: str) -> str:
    if "..." in want or not want:
        return ""
    array = _ARRAY.fullmatch(want)
    if array and _is_literal(array["values"]):
        # Printed floats are rounded, so arrays are compared as closely as they are printed.
        values = " ".join(array["values"].split())
        return f"assert np.allclose({call}, {values}, rtol=1e-06, atol=1e-08)"
    if not _is_literal(want):
        return ""
    return f"assert {call} == {want}"


def _with_numpy(lines: list[str]) -> list[str]:
    if not any(line.startswith("assert") for line in lines):
        return []
    needed = any("np." in line for line in lines)
    rest = [line for line in lines if line != _NUMPY]
    return [_NUMPY, *rest] if needed else rest


def _is_literal(text: str) -> bool:
    try:
        return ast.literal_eval(text) is not None
    except (SyntaxError, ValueError):
        return False


def _mentions(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return False
    return any(
        (isinstance(inner, ast.Attribute) and inner.attr == name)
        or (isinstance(inner, ast.Name) and inner.id == name)
        for inner in ast.walk(node)
    )


def _loaded(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _stored(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


class _Unqualified(ast.NodeTransformer):
    """`textwrap.dedent(...)` as `dedent(...)`, for a program that defines `dedent` itself."""

    def __init__(self, name: str, dotted: set[str]) -> None:
        self._name = name
        self._dotted = dotted

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) in self._dotted:
            return ast.Name(self._name, ast.Load())
        return self.generic_visit(node)
