"""A function as a program of its own: what a person could paste and run.

    def tree_sub(tree_x: Any, tree_y: Any):       import operator
      '''Subtract two pytrees.'''                   import jax
      return jax.tree.map(operator.sub, ...)  →
                                                  def tree_sub(tree_x, tree_y):
                                                      return jax.tree.map(operator.sub, ...)

Annotations, docstring and comments go; imports come from what its module imports. A function that
needs a private name, a global, or a decorator cannot stand alone.
"""

from __future__ import annotations

import ast
import builtins

from coderllm_jax.data.namespaces import (
    Definition,
    Function,
    Import,
    Module,
    is_public,
)

_MOST_STATEMENTS = 12
_BUILTINS = frozenset(dir(builtins))


def standalone_body(node: Function, module: Module) -> tuple[str, tuple[str, ...]]:
    """The function's source and the imports it needs; ("", ()) where it cannot stand alone."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    if not 0 < len(statements) <= _MOST_STATEMENTS or node.decorator_list:
        return "", ()
    names = None if isinstance(node, ast.AsyncFunctionDef) else _free_names(node, statements)
    imports = [_import_of(name, module) for name in sorted(names or ())]
    if names is None or None in imports:
        return "", ()
    bare = ast.FunctionDef(
        name=node.name,
        args=_without_annotations(node.args),
        body=statements,
        decorator_list=[],
        returns=None,
    )
    bare.__dict__.setdefault("type_params", [])  # a field from Python 3.12 on
    source = ast.unparse(ast.fix_missing_locations(bare))
    return source, tuple(line for line in imports if line is not None)


def _free_names(node: Function, statements: list[ast.stmt]) -> set[str] | None:
    """The names a function takes from its module; None where it changes names outside itself."""
    bound = {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)} | {node.name}
    defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
    used = {n.id for d in defaults for n in ast.walk(d) if isinstance(n, ast.Name)}
    for inner in (inner for statement in statements for inner in ast.walk(statement)):
        match inner:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.Global() | ast.Nonlocal() | ast.Import() | ast.ImportFrom():
                return None
    return used - bound - _BUILTINS


def _import_of(name: str, module: Module) -> str | None:
    """The import that gives a program the module's `name`, such as `from jax import lax`."""
    binding = module.bindings.get(name)
    if isinstance(binding, Definition):
        return f"from {module.name} import {name}" if is_public(f"{module.name}.{name}") else None
    if not isinstance(binding, Import):
        return None
    if binding.name is None and is_public(binding.module):
        plain = binding.module == name
        return f"import {name}" if plain else f"import {binding.module} as {name}"
    suffix = "" if binding.name == name else f" as {name}"
    line = f"from {binding.module} import {binding.name}{suffix}"
    return line if is_public(f"{binding.module}.{binding.name}") else None


def _without_annotations(arguments: ast.arguments) -> ast.arguments:
    def bare(argument: ast.arg | None) -> ast.arg | None:
        return None if argument is None else ast.arg(argument.arg)

    return ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in arguments.posonlyargs],
        args=[ast.arg(a.arg) for a in arguments.args],
        vararg=bare(arguments.vararg),
        kwonlyargs=[ast.arg(a.arg) for a in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=bare(arguments.kwarg),
        defaults=arguments.defaults,
    )
