"""Everything that was read, before anything is selected: sources, symbols, texts, statements.

DataConfig(packages=("optax",), documents=("docs",))
→ Material(sources=[{"name": "optax", "version": "0.2.8", ...}, {"name": "docs", ...}],
subjects=[Subject("optax.adam", ...), ...],
texts={"optax.adam": Text("optax.adam(learning_rate, ...)", "The Adam ...")},
statements=[Statement("optax.adam", "purpose", ...), ...])
"""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.config.data import DataConfig
from coderllm_jax.data.documents import Section, document_statements, read_documents
from coderllm_jax.data.facts import with_distinctive_facts
from coderllm_jax.data.harvest import Symbol, harvest_tree
from coderllm_jax.data.splits import Subject
from coderllm_jax.data.statements import Bounds, Statement, statements_of
from coderllm_jax.data.trees import folder_tree, installed_tree, standard_library_tree
from coderllm_jax.errors import DataError


class Text(NamedTuple):
    """A symbol's or section's whole documentation, under the line that names it."""

    header: str
    text: str
    source: str
    license: str


@dataclasses.dataclass
class Material:
    """See the drawing at the top of this module. `dropped` counts what was left out, by reason."""

    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    subjects: list[Subject] = dataclasses.field(default_factory=list)
    texts: dict[str, Text] = dataclasses.field(default_factory=dict)
    statements: list[Statement] = dataclasses.field(default_factory=list)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def read_material(config: DataConfig, bounds: Bounds) -> Material:
    """Reads every source of the configuration; DataError where one is missing, broken or empty."""
    material = Material()
    _read_trees(material, config, bounds)
    for folder in config.documents:
        _read_folder(material, Path(folder), bounds)
    material.statements = with_distinctive_facts(material.statements)
    return material


def _read_trees(material: Material, config: DataConfig, bounds: Bounds) -> None:
    trees = [installed_tree(name) for name in config.packages]
    trees += [standard_library_tree()] if config.standard_library else []
    trees += [folder_tree(Path(folder)) for folder in config.source_trees]
    for tree in trees:
        symbols, left_out = harvest_tree(tree, exclude=config.exclude)
        material.dropped.update({f"symbol: {reason}": n for reason, n in left_out.items()})
        material.sources.append(
            {
                "name": tree.name,
                "version": tree.version,
                "license": tree.license,
                "files": len(tree.modules),
                "symbols": len(symbols),
            }
        )
        for symbol in symbols:
            _claim(material, symbol.name, symbol.source)
            _add_symbol(material, symbol, bounds)


def _read_folder(material: Material, folder: Path, bounds: Bounds) -> None:
    sections = read_documents(folder)
    material.sources.append(
        {
            "name": sections[0].source,
            "version": "",
            "license": sections[0].license,
            "files": len({section.symbol.partition("#")[0] for section in sections}),
            "symbols": len(sections),
        }
    )
    for section in sections:
        _claim(material, section.symbol, section.source)
        _add_section(material, section, bounds)


def _claim(material: Material, name: str, source: str) -> None:
    """Two sources that define one name would mix their rows: the user must choose."""
    if name in material.texts:
        raise DataError(
            f"{source} and {material.texts[name].source} both define {name}; "
            "take one of them out of the sources, or name the module in `exclude`"
        )


def _add_symbol(material: Material, symbol: Symbol, bounds: Bounds) -> None:
    member = symbol.kind in ("method", "property")
    owner = symbol.name.rpartition(".")[0] if member else symbol.name
    header = symbol.signature if symbol.signature.startswith(symbol.name) else symbol.name
    material.subjects.append(Subject(symbol.name, owner, symbol.doc.text))
    material.texts[symbol.name] = Text(header, symbol.doc.text, symbol.source, symbol.license)
    found = statements_of(symbol, bounds)
    material.dropped["symbol: nothing that can be asked within the bounds"] += not found
    material.statements += found


def _add_section(material: Material, section: Section, bounds: Bounds) -> None:
    header = " > ".join(dict.fromkeys((section.title, section.heading)))
    material.subjects.append(Subject(section.symbol, section.symbol, section.text))
    material.texts[section.symbol] = Text(header, section.text, section.source, section.license)
    found = document_statements(section, bounds)
    material.dropped["section: no sentence that stands alone"] += not found
    material.statements += found
