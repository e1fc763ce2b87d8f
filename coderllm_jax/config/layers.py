"""How values from several places become one configuration that knows where each came from.

    settings, lowest first                                      → join → TrainingConfig
      Setting("seed", 5, "configs/lora.py")                              .seed      7
      Setting("seed", 6, "overlay night.yaml")                           .origins   {"seed":
      Setting("seed", 7, "CODERLLM_SEED")                                  "CODERLLM_SEED", ...}

Each value is checked by itself where it was written, so that its error names that place; what
options say about each other is checked of the whole. Environment files and variables are shared
by all commands: an option that only another command has is passed over, one that none has is a
mistake. Which layers there are, and their order, is for `entry.resolve_config` to say.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from absl import flags

from coderllm_jax.config.documents import Entry, read_document
from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.config.schema import Config, OptionInfo, check_value
from coderllm_jax.errors import ConfigError

C = TypeVar("C", bound=Config)

# Every command's options, as MODULE:CLASS, imported where a name is not this command's own.
CONFIGS = (
    "coderllm_jax.config.training:TrainingConfig",
    "coderllm_jax.config.data:DataConfig",
    "coderllm_jax.config.doctor:DoctorConfig",
    "coderllm_jax.config.evaluation:EvaluationConfig",
    "coderllm_jax.config.comparison:ComparisonConfig",
    "coderllm_jax.config.ask:AskConfig",
    "coderllm_jax.config.export:ExportConfig",
    "coderllm_jax.config.preflight:PreflightConfig",
    "coderllm_jax.config.serving:ServingConfig",
    "coderllm_jax.config.monitoring:MonitoringConfig",
)
PREFIX = "CODERLLM_"
ENVIRONMENT_VARIABLE = "CODERLLM_ENV"
ENVIRONMENTS = Path("configs/environments")
COMMAND_LINE = "command line"

_PARSERS: Mapping[type, flags.ArgumentParser] = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
}


class Setting(NamedTuple):
    """One option's value, as one place gives it. `name` is what an error calls the option."""

    path: str
    value: Any
    origin: str
    name: str


def join(config_class: type[C], settings: Iterable[Setting]) -> C:
    """The frozen, validated configuration: defaults, and every setting over those before it."""
    options = options_by_path(config_class)
    values = {path: info.default for path, info in options.items()}
    origins = dict.fromkeys(options, "default")
    for path, value, origin, name in settings:
        values[path] = check_value(options[path], value, name=name)
        origins[path] = origin
    try:
        return config_class.from_flat(values).with_origins(origins)
    except ConfigError as error:
        raise ConfigError(_say_where_from(str(error), origins)) from error


def options_by_path(config_class: type[Config]) -> dict[str, OptionInfo]:
    """The options of one command, by path."""
    return {info.path: info for info in config_class.options()}


def card_settings(
    values: Mapping[str, Any], config_class: type[Config], *, origin: str, place: str
) -> Iterator[Setting]:
    """What a card's values say that the defaults do not. `place` is the card in an error."""
    try:
        given = config_class.flatten(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    options = options_by_path(config_class)
    for path, value in given.items():
        if value != options[path].default:
            yield Setting(path, value, origin, f"{place}: {path}")


def find_environments(roots: Iterable[Path]) -> dict[str, Path]:
    """Name → file of every environment below the roots; an earlier root's file hides a later's."""
    found: dict[str, Path] = {}
    for root in roots:
        for path in sorted((root / ENVIRONMENTS).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def environment_settings(
    name: str, config_class: type[Config], *, roots: Sequence[Path], named_by: str
) -> Iterator[Setting]:
    """What the environment of that name says about this command's options."""
    environments = find_environments(roots)
    if name not in environments:
        names = ", ".join(sorted(environments))
        there_are = f"there are {names}" if names else f"there is none in {ENVIRONMENTS}"
        hint = did_you_mean(name, sorted(environments), default="")
        raise ConfigError(f"{named_by} is {name!r}, which is no environment; {there_are}{hint}")
    file = shown(environments[name], roots)
    entries = read_document(environments[name], name=file)
    origin = f"environment {name} ({file})"
    return _document_settings(entries, config_class, origin=origin, is_shared=True)


def overlay_settings(
    file: str, config_class: type[Config], *, roots: Sequence[Path] = ()
) -> Iterator[Setting]:
    """What an overlay says; a run's own config.json is one, whose origins are passed over."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--overlay is {file!r}, which is not a file; "
            "name a .json, .yaml or .yml file, or leave --overlay out"
        )
    name = shown(Path(file), roots)
    entries = [
        entry
        for entry in read_document(path, name=name)
        if entry.path.partition(".")[0] != "origins"
    ]
    return _document_settings(entries, config_class, origin=f"overlay {name}", is_shared=False)


def variable_settings(environ: Mapping[str, str], config_class: type[Config]) -> Iterator[Setting]:
    """What the CODERLLM_ variables say; a value is never part of an origin."""
    options = options_by_path(config_class)
    paths = {variable_name(path): path for path in options}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == ENVIRONMENT_VARIABLE:
            continue
        if variable in paths:
            info = options[paths[variable]]
            value = parse_text(environ[variable], info, name=variable)
            yield Setting(info.path, value, variable, variable)
            continue
        known = every_path(config_class)
        if variable not in map(variable_name, known):
            path = variable.removeprefix(PREFIX).lower().replace("__", ".")
            hint = did_you_mean(path, [*known, "env"], spell=variable_name)
            raise ConfigError(f"unknown variable {variable}{hint}")


def variable_name(path: str) -> str:
    """The variable of an option: `lora.rank` → `CODERLLM_LORA__RANK`."""
    return PREFIX + path.upper().replace(".", "__")


def every_path(config_class: type[Config]) -> list[str]:
    """The options of this command, then those that other commands have besides."""
    paths = dict.fromkeys(options_by_path(config_class))
    for config in CONFIGS:
        module, _, name = config.partition(":")
        paths |= dict.fromkeys(options_by_path(getattr(importlib.import_module(module), name)))
    return list(paths)


def parse_text(text: str, info: OptionInfo, *, name: str) -> Any:
    """A variable's or a flag's text as the option's type; lists are written a,b,c.

    Its range is not looked at. Raises ConfigError that calls the option `name`.
    """
    try:
        text.encode()
        if typing.get_origin(info.type) is not tuple:
            return _parse_scalar(text, info.type)
        if text.strip()[:1] in ("(", "["):
            return _as_tuple(ast.literal_eval(text.strip()))
        (element, _) = typing.get_args(info.type)
        items = (item.strip() for item in text.split(","))
        return tuple(_parse_scalar(item, element) for item in items if item)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} is not UTF-8; expected {type_name(info)}") from error
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{name} is {text!r}; expected {type_name(info)}") from error


def type_name(info: OptionInfo) -> str:
    """An option's type as an error says it to somebody who wrote text."""
    if typing.get_origin(info.type) is tuple:
        return f"a list of {typing.get_args(info.type)[0].__name__}, written a,b,c"
    return "True or False" if info.type is bool else info.type.__name__


def shown(path: Path, roots: Iterable[Path] = ()) -> str:
    """A path as people write it: from the working directory or a root, or else as it was given."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    tops = [root.absolute() for root in (Path(), *roots)]
    inside = [str(absolute.relative_to(top)) for top in tops if absolute.is_relative_to(top)]
    return min(inside, key=len, default=str(path))


def _parse_scalar(text: str, kind: type) -> Any:
    return _PARSERS[kind].parse(text.strip()) if kind in _PARSERS else text


def _as_tuple(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):  # ('a') is a word in parentheses
        raise TypeError
    return tuple(value)


def _document_settings(
    entries: Sequence[Entry], config_class: type[Config], *, origin: str, is_shared: bool
) -> Iterator[Setting]:
    options = options_by_path(config_class)
    known = every_path(config_class) if is_shared else list(options)
    for path, value, place in entries:
        if path in options:
            yield Setting(path, value, origin, f"{place}: {path}")
        elif path not in known:
            is_section = any(other.startswith(f"{path}.") for other in known)
            if is_section and value in (None, {}):
                continue  # all of its lines are commented out
            found = "" if is_section else "unknown configuration key "
            hint = did_you_mean(path, known)
            if path in every_path(config_class):
                hint = ", which is an option of another command"
            raise ConfigError(f"{place}: {found}'{path}'{hint}")


def _say_where_from(message: str, origins: Mapping[str, str]) -> str:
    """Adds the origins of the options that a cross-field error speaks of, where they tell more."""
    words = (word.rstrip(".") for word in re.findall(r"[a-z_][\w.]*", message))
    spoken_of = {word: origins[word] for word in words if word in origins}
    places = set(spoken_of.values())
    if places <= {"default", COMMAND_LINE}:
        return message
    if len(places) == 1:
        return f"{places.pop()}: {message}"
    return f"{message} ({'; '.join(f'{path}: {place}' for path, place in spoken_of.items())})"
