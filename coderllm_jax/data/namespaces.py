"""Which names the modules of a source tree bind, and what each leads to, without importing.

    optax/__init__.py     from optax._src.alias import adam     "adam" → Import(alias module, adam)
    optax/_src/alias.py   def adam(...)                         "adam" → Definition(...)

    Namespaces(tree).resolve("optax", "adam") → that Definition

Follows imports, star imports and plain assignments (`new = old`). Does not follow what only
happens at run time: names put into globals(), modules replaced while they load, `__getattr__`.
"""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.data.trees import SourceTree
from coderllm_jax.errors import DataError

Function = ast.FunctionDef | ast.AsyncFunctionDef

_PRIVATE_PARTS = frozenset({"src", "tests", "internal"})
_MOST_STEPS = 24  # of a chain of imports; a longer one goes in a circle


class Definition(NamedTuple):
    """A class or function where it is defined."""

    module: str
    qualname: str
    node: ast.ClassDef | Function


class Import(NamedTuple):
    """A name from elsewhere: of a module, or (`name` is None) a module itself."""

    module: str
    name: str | None
    explicit: bool = False  # `import x as x`, which offers x to others


class Alias(NamedTuple):
    """`name = dotted`."""

    dotted: str


Binding = Definition | Import | Alias


@dataclasses.dataclass
class Module:
    """One file: what its top level binds, its star imports, and `__all__` where it is literal."""

    name: str
    is_package: bool
    tree: ast.Module
    bindings: dict[str, Binding] = dataclasses.field(default_factory=dict)
    stars: list[str] = dataclasses.field(default_factory=list)
    all_names: list[str] | None = None


class Namespaces:
    """The modules of one source tree. `modules` maps dotted names to them, in sorted order."""

    def __init__(self, tree: SourceTree, *, exclude: tuple[str, ...] = ()) -> None:
        """Reads every file but the excluded; DataError for one that cannot be parsed."""
        self.modules: dict[str, Module] = {}
        for name, path in tree.modules.items():
            if not is_below(name, exclude):
                module = Module(name, path.name == "__init__.py", _parse(path))
                _bind(module, module.tree.body)
                self.modules[name] = module

    def exported(self, module: Module) -> Iterator[str]:
        """The public names that a module offers, in sorted order; see `harvest` for the rule."""
        names: set[str] = set()
        if module.all_names is not None:
            names.update(module.all_names)
        else:
            names.update(n for n, binding in module.bindings.items() if _offers(module, binding))
            if module.is_package:
                for star in module.stars:
                    names |= self._star_names(star)
        yield from sorted(name for name in names if not name.startswith("_"))

    def resolve(self, module_name: str, name: str, *, step: int = 0) -> Definition | str | None:
        """The definition that `module.name` leads to; a str is a module's name."""
        module = self.modules.get(module_name)
        if module is None or step > _MOST_STEPS:
            return None
        submodule = f"{module_name}.{name}"
        match module.bindings.get(name):
            case (Definition() as found) | Import(found, None):
                return found
            case Alias(dotted):
                return self.resolve_dotted(module_name, dotted, step=step + 1)
            case Import(imported, str(original)) if (imported, original) != (module_name, name):
                return self.resolve(imported, original, step=step + 1)
            case None if stars := [star for star in module.stars if name in self._star_names(star)]:
                return self.resolve(stars[0], name, step=step + 1)
            case _:
                return submodule if submodule in self.modules else None

    def resolve_dotted(
        self, module_name: str, dotted: str, *, step: int = 0
    ) -> Definition | str | None:
        """What `a.b.c`, written in a module, leads to."""
        target: Definition | str | None = module_name
        for part in dotted.split("."):
            if not isinstance(target, str):
                return None
            target = self.resolve(target, part, step=step + 1)
        return target

    def _star_names(self, name: str, *, step: int = 0) -> set[str]:
        """What `from name import *` binds."""
        module = self.modules.get(name)
        if module is None or step > _MOST_STEPS:
            return set()
        if module.all_names is not None:
            return set(module.all_names)
        names = {name for name in module.bindings if not name.startswith("_")}
        for star in module.stars:
            names |= self._star_names(star, step=step + 1)
        return names


def is_public(dotted: str) -> bool:
    """Whether no part of a dotted name is private."""
    return not any(part.startswith("_") or part in _PRIVATE_PARTS for part in dotted.split("."))


def is_below(dotted: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(dotted == prefix or dotted.startswith(f"{prefix}.") for prefix in prefixes)


def is_overload(node: ast.ClassDef | Function) -> bool:
    """Whether a definition is only a type signature of the one after it."""
    return any(ast.unparse(d).rpartition(".")[2] == "overload" for d in node.decorator_list)


def _parse(path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
            return ast.parse(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); mend it, or name its module in `exclude`"
        ) from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or error
        raise DataError(
            f"{path}:{line}: not Python that this interpreter reads ({reason}); "
            "mend it, or name its module in `exclude`"
        ) from error


def _offers(module: Module, binding: Binding) -> bool:
    """Whether a name is there for others, where no `__all__` says so."""
    if not isinstance(binding, Import) or binding.explicit:
        return True
    same_package = binding.module.partition(".")[0] == module.name.partition(".")[0]
    return module.is_package and same_package


def _bind(module: Module, body: Sequence[ast.stmt]) -> None:
    """Records what each top-level statement binds; later bindings win, as at run time."""
    for node in body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if not is_overload(node):
                    module.bindings[node.name] = Definition(module.name, node.name, node)
            case ast.Import():
                _bind_import(module, node)
            case ast.ImportFrom():
                _bind_from(module, node)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                module.all_names = _literal_names(value)
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                module.all_names = _literal_names(value)
            case ast.AugAssign(target=ast.Name(id="__all__"), value=value):
                more = _literal_names(value)
                known = module.all_names
                module.all_names = None if known is None or more is None else known + more
            case ast.Assign(
                targets=[ast.Name(id=name)], value=ast.Name() | ast.Attribute() as value
            ):
                module.bindings[name] = Alias(ast.unparse(value))
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                # Not there at run time: where packages keep the names that they have deprecated.
                _bind(module, node.orelse)
            case ast.If() | ast.Try() | ast.With():
                # The first branch last, so that it wins over fall-backs.
                _bind(module, getattr(node, "orelse", []))
                for handler in getattr(node, "handlers", []):
                    _bind(module, handler.body)
                _bind(module, node.body)


def _bind_import(module: Module, node: ast.Import) -> None:
    for alias in node.names:
        if alias.asname:
            explicit = alias.asname == alias.name
            module.bindings[alias.asname] = Import(alias.name, None, explicit)
        else:
            top = alias.name.partition(".")[0]
            module.bindings[top] = Import(top, None)


def _bind_from(module: Module, node: ast.ImportFrom) -> None:
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        above = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*above, base] if base else above)
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(base)
        else:
            explicit = alias.asname == alias.name
            module.bindings[alias.asname or alias.name] = Import(base, alias.name, explicit)


def _literal_names(value: ast.expr) -> list[str] | None:
    try:
        return [str(name) for name in ast.literal_eval(value)]
    except ValueError:
        return None
