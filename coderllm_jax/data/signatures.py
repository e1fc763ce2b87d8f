"""What a function or a constructor takes, as its signature shows it.

    def scale(x, /, factor=0.5, *, dtype=_UNSET, **rest)
      → Parameter("x"), Parameter("/"), Parameter("factor", "0.5"), Parameter("*"),
        Parameter("dtype", "<no value>"), Parameter("**rest")

A constructor is the class's `__init__`, the nearest base's, or the fields of a dataclass or
NamedTuple. Annotations are left out: they double the length and say little to a reader.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from coderllm_jax.data.namespaces import Definition, Function, Namespaces

NO_VALUE = "<no value>"  # a default that is a private marker object, as NumPy shows it

_MARKER = re.compile(
    r"(?:\w+\.)*(?:_\w+|\w*(?:no_?value|sentinel|unset|missing)\w*)(?:\(\))?", re.IGNORECASE
)
_MOST_BASES = 12


class Parameter(NamedTuple):
    """One parameter: `name` carries its stars, `default` is source text, None where required."""

    name: str
    default: str | None = None


def parameters_of(node: Function, *, bound: int = 0) -> tuple[Parameter, ...]:
    """The parameters as written, without the first `bound` ones (self, cls)."""
    signature = node.args
    positional = [*signature.posonlyargs, *signature.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(signature.defaults))
    defaults += signature.defaults
    found = [
        Parameter(argument.arg, _shown(default))
        for argument, default in zip(positional, defaults, strict=True)
    ]
    if len(signature.posonlyargs) > bound:
        found.insert(len(signature.posonlyargs), Parameter("/"))
    found = found[bound:]
    if signature.vararg:
        found.append(Parameter(f"*{signature.vararg.arg}"))
    elif signature.kwonlyargs:
        found.append(Parameter("*"))
    found += [
        Parameter(argument.arg, _shown(default))
        for argument, default in zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
    ]
    if signature.kwarg:
        found.append(Parameter(f"**{signature.kwarg.arg}"))
    return tuple(found)


def constructor_of(
    definition: Definition, namespaces: Namespaces, *, step: int = 0
) -> Function | ast.ClassDef | None:
    """The `__init__` of a class or its nearest base; the class whose fields make one; or None."""
    node = definition.node
    if not isinstance(node, ast.ClassDef) or step > _MOST_BASES:
        return None
    for member in node.body:
        if isinstance(member, Function) and member.name == "__init__":
            return member
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    if "dataclass" in decorators or any(base.endswith("NamedTuple") for base in bases):
        return node
    for base in bases:
        target = namespaces.resolve_dotted(definition.module, base)
        if isinstance(target, Definition) and target != definition:
            found = constructor_of(target, namespaces, step=step + 1)
            if found is not None:
                return found
    return None


def constructor_parameters(
    constructor: Function | ast.ClassDef | None,
) -> tuple[Parameter, ...] | None:
    """What a constructor takes; None where that cannot be read off."""
    if constructor is None:
        return None
    if not isinstance(constructor, ast.ClassDef):
        return parameters_of(constructor, bound=1)
    fields = []
    for member in constructor.body:
        if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
            continue
        if member.target.id.startswith("_") or "ClassVar" in ast.unparse(member.annotation):
            continue
        value = member.value
        if isinstance(value, ast.Call):  # field(default=...)
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            if "default" not in given and {"default_factory", "init"} & set(given):
                return None
            value = given.get("default")
        fields.append(Parameter(member.target.id, _shown(value)))
    return tuple(fields) or None


def _shown(default: ast.expr | None) -> str | None:
    """A default as a signature shows it."""
    if default is None:
        return None
    text = ast.unparse(default)
    return NO_VALUE if _MARKER.fullmatch(text) else text
