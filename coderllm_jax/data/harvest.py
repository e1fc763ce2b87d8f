"""What a source tree offers: its public symbols, read from the syntax tree without importing.

    optax/_src/alias.py   def adam(learning_rate, b1=0.9): "The Adam optimizer."
    optax/__init__.py     from optax._src.alias import adam
    optax/foo/__init__.py from optax._src.alias import adam as my_adam
                          ↓
    Symbol(name="optax.adam", aliases=("optax.foo.my_adam",), origin="optax._src.alias:adam", ...)

Every public name is followed through imports, star imports and plain assignments to the one place
that defines it, so two names of one object are one symbol. A name is public where no part of its
path is private (`_x`, `src`) and its module lists it: in `__all__`, or else by defining it, by
importing it in an `__init__`, or by `import x as x`. Of several names the shortest path is kept.

Covers functions, classes, their methods and properties, and modules. Does not cover what only
exists at run time: C extensions, names made in loops, docstrings filled in by decorators.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from coderllm_jax.data.docstrings import Docstring, parse_docstring
from coderllm_jax.data.namespaces import (
    Definition,
    Function,
    Namespaces,
    is_below,
    is_overload,
    is_public,
)
from coderllm_jax.data.signatures import (
    Parameter,
    constructor_of,
    constructor_parameters,
    parameters_of,
)
from coderllm_jax.data.standalone import standalone_body
from coderllm_jax.data.trees import SourceTree

SymbolKind = Literal["function", "class", "method", "property", "module"]


@dataclasses.dataclass(frozen=True, slots=True)
class Symbol:
    """One public object. `parameters` is None where the signature is not known.

    `origin` is `module:qualname` of its definition. `body` is the function's own source without
    docstring and decorators; `imports` are the lines that its free names need, and `body` is
    empty where it cannot stand alone (see `standalone`).
    """

    name: str
    kind: SymbolKind
    origin: str
    doc: Docstring
    source: str
    license: str
    aliases: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] | None = None
    body: str = ""
    imports: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]

    @property
    def short_name(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def call_name(self) -> str:
        """How it is written in code: methods without their module."""
        return ".".join(self.name.split(".")[-2:]) if self.kind == "method" else self.name

    @property
    def signature(self) -> str:
        """`optax.adam(learning_rate, b1=0.9)`; empty where unknown."""
        if self.parameters is None:
            return ""
        shown = (p.name if p.default is None else f"{p.name}={p.default}" for p in self.parameters)
        return f"{self.call_name}({', '.join(shown)})"


class Harvest(NamedTuple):
    """The symbols of one tree, by name, and how many definitions were left out, by reason."""

    symbols: list[Symbol]
    dropped: dict[str, int]


def harvest_tree(tree: SourceTree, *, exclude: tuple[str, ...] = ()) -> Harvest:
    """The documented public symbols of a tree; `exclude` names dotted prefixes to leave out.

    Raises DataError for a file that cannot be decoded or parsed.
    """
    namespaces = Namespaces(tree, exclude=exclude)
    found: dict[str, Symbol] = {}
    dropped: collections.Counter[str] = collections.Counter()
    for definition, names in _public_names(namespaces, exclude):
        for symbol in _symbols_of(definition, names, namespaces, tree):
            if reason := _unfit(symbol):
                dropped[reason] += 1
            else:
                found.setdefault(symbol.name, symbol)
    for module in namespaces.modules.values():
        text = ast.get_docstring(module.tree)
        if text and is_public(module.name):
            symbol = Symbol(
                name=module.name,
                kind="module",
                origin=module.name,
                doc=parse_docstring(text),
                source=tree.source,
                license=tree.license,
            )
            # A function of its module's name hides the module from its users.
            if not _unfit(symbol):
                found.setdefault(symbol.name, symbol)
    return Harvest([symbol for _, symbol in sorted(found.items())], dict(dropped))


def _public_names(
    namespaces: Namespaces, exclude: tuple[str, ...]
) -> Iterator[tuple[Definition, list[str]]]:
    """Every public definition with its names, the one to use first."""
    names: dict[str, list[str]] = {}
    definitions: dict[str, Definition] = {}
    for module in namespaces.modules.values():
        for name in namespaces.exported(module) if is_public(module.name) else ():
            target = namespaces.resolve(module.name, name)
            public = f"{module.name}.{name}"
            if isinstance(target, Definition) and not is_below(public, exclude):
                origin = f"{target.module}:{target.qualname}"
                definitions[origin] = target
                names.setdefault(origin, []).append(public)
    for origin, definition in definitions.items():
        yield definition, sorted(names[origin], key=lambda name: _preference(name, definition))


def _preference(name: str, definition: Definition) -> tuple[int, bool, int, str]:
    same = name.rpartition(".")[2] == definition.qualname
    return name.count("."), not same, len(name), name


def _unfit(symbol: Symbol) -> str:
    """Why a symbol is left out; empty where it is kept."""
    if not symbol.doc.text.strip():
        return "no docstring"
    if re.match(r"(\W*deprecat|\.\. deprecated|legacy)", symbol.doc.text.strip(), re.IGNORECASE):
        return "deprecated"
    if re.match(r"\W*(internal|private)\b", symbol.doc.text.strip(), re.IGNORECASE):
        return "internal"
    if re.search(r"%\(\w+\)s|\{\{", symbol.doc.text):
        return "docstring is a template"
    return ""


def _symbols_of(
    definition: Definition, names: list[str], namespaces: Namespaces, tree: SourceTree
) -> Iterator[Symbol]:
    """The definition itself, and of a class its documented public members."""
    node, (name, *aliases) = definition.node, names
    bare = Symbol(
        name=name,
        kind="class",
        origin=f"{definition.module}:{definition.qualname}",
        doc=parse_docstring(ast.get_docstring(node) or ""),
        source=tree.source,
        license=tree.license,
        aliases=tuple(aliases),
    )
    if isinstance(node, ast.ClassDef):
        yield _class_symbol(bare, definition, namespaces)
        for member in node.body:
            if isinstance(member, Function) and not is_overload(member):
                yield from _member_symbol(bare, member)
    else:
        body, imports = standalone_body(node, namespaces.modules[definition.module])
        yield dataclasses.replace(
            bare, kind="function", parameters=parameters_of(node), body=body, imports=imports
        )


def _class_symbol(bare: Symbol, definition: Definition, namespaces: Namespaces) -> Symbol:
    """A class as its constructor documents it: in its own docstring or in `__init__`'s."""
    constructor = constructor_of(definition, namespaces)
    doc = bare.doc
    if isinstance(constructor, ast.FunctionDef) and (text := ast.get_docstring(constructor)):
        parameters = parse_docstring(text).parameters | doc.parameters
        doc = dataclasses.replace(doc, parameters=parameters)
    return dataclasses.replace(bare, doc=doc, parameters=constructor_parameters(constructor))


def _member_symbol(owner: Symbol, node: Function) -> Iterator[Symbol]:
    text = ast.get_docstring(node)
    if not text or (node.name.startswith("_") and node.name != "__call__"):
        return
    decorators = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
    if decorators & {"setter", "deleter"}:
        return
    is_property = bool(decorators & {"property", "cached_property", "classproperty"})
    bound = 0 if "staticmethod" in decorators else 1
    yield dataclasses.replace(
        owner,
        name=f"{owner.name}.{node.name}",
        kind="property" if is_property else "method",
        origin=f"{owner.origin}.{node.name}",
        doc=parse_docstring(text),
        aliases=tuple(f"{alias}.{node.name}" for alias in owner.aliases),
        parameters=None if is_property else parameters_of(node, bound=bound),
    )
