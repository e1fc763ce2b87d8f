"""JSON and YAML files of options, read without running or guessing anything.

    lora:                        Entry("lora.rank", 16, "overlay.yaml:2")
      rank: 16             →     Entry("learning_rate", 0.001, "overlay.yaml:3")
    learning_rate: 1e-3

Sections may be nested or written with dots. YAML means what version 1.2 means by it: `1e-3` is a
number, `on` and `no` are words, `010` is neither 8 nor 10. Refused, each with its line: a key
given twice, anchors (a few lines of them can stand for gigabytes), and tags that name types.
Knows no option: whether a path exists and a value fits is for the reader to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from coderllm_jax.errors import ConfigError

YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".json", *YAML_SUFFIXES)


class Entry(NamedTuple):
    """One value of a document; an empty section is an entry too, of {} or None."""

    path: str
    value: Any
    place: str


def read_document(path: Path, *, name: str) -> list[Entry]:
    """The file's entries, told apart by its suffix. `name` is what errors call it."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{name}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from error
    parse = parse_yaml if path.suffix.lower() in YAML_SUFFIXES else parse_json
    return parse(text, name=name)


def parse_yaml(text: str, *, name: str) -> list[Entry]:
    """The entries of a YAML document, each with its line; an empty document has none."""
    try:
        loader = _Loader(text)
        try:
            top = loader.get_single_node()
            if top is None or (isinstance(top, yaml.ScalarNode) and not top.value):
                return []
            if not isinstance(top, yaml.MappingNode):
                raise _not_a_mapping(name)
            return _once(_walk_yaml(loader, top, "", name))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = _one_line(error.problem or error.context)
        raise ConfigError(f"{name}{line}: this is not YAML we read: {problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: this is not YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error


def parse_json(text: str, *, name: str) -> list[Entry]:
    """The entries of a JSON document; JSON's reader knows lines only where the syntax is wrong."""

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ConfigError(f"{name}: {twice!r} is set twice; keep one of them")
        return values

    try:
        top = json.loads(text, object_pairs_hook=refuse_twice)
        if not isinstance(top, dict):
            raise _not_a_mapping(name)
        return _once(_walk_json(top, "", name))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}: this is not JSON: {error.msg}") from error
    except ConfigError:
        raise
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise ConfigError(f"{name}: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error


def _walk_json(values: dict[str, Any], prefix: str, name: str) -> Iterator[Entry]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _walk_json(value, f"{prefix}{key}.", name)
        else:
            yield Entry(f"{prefix}{key}", value, name)


def _walk_yaml(loader: _Loader, node: yaml.MappingNode, prefix: str, name: str) -> Iterator[Entry]:
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}:{line}: a key is not a name; expected an option's name")
        key = key_node.value
        if key in lines:
            raise _set_twice(f"{name}:{line}", f"{prefix}{key}", f"line {lines[key]}")
        lines[key] = line
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _walk_yaml(loader, value_node, f"{prefix}{key}.", name)
            continue
        place = f"{name}:{line}"
        try:
            yield Entry(f"{prefix}{key}", loader.construct_object(value_node, deep=True), place)
        except ValueError as error:  # Python reads no integer of more than 4,300 digits
            raise ConfigError(f"{place}: {prefix}{key}: {_one_line(error)}") from error


def _once(entries: Iterator[Entry]) -> list[Entry]:
    """The entries, no path of which is there twice: nested and dotted name the same option."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in found:
            raise _set_twice(entry.place, entry.path, found[entry.path].place)
        found[entry.path] = entry
    return list(found.values())


def _set_twice(place: str, path: str, earlier: str) -> ConfigError:
    return ConfigError(f"{place}: '{path}' is set twice (first: {earlier}); keep one of them")


def _not_a_mapping(name: str) -> ConfigError:
    return ConfigError(f"{name}: expected options at the top, such as `seed: 1`")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's plain scalars, and without anchors and tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        for part in ("anchor", "tag"):
            if getattr(event, part, None) is not None:
                problem = f"{part}s are not used here; write the value itself"
                raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # A leading zero is octal to some and decimal to others: left a word, it fits no number.
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
