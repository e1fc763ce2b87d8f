"""How a configuration is declared, edited and validated. Owns no field of its own.

A configuration is a tree of frozen dataclasses whose leaves are declared with `option`:

    @dataclasses.dataclass(frozen=True)
    class LoraSection(Section):
        rank: int = option(8, "Width of the adapter's bottleneck.", low=1, high=1024)

`Config.create_default()` gives the mutable, key-locked ConfigDict that cards and users edit;
`Config.from_config_dict()` gives back the frozen, validated dataclass that code reads. An option
is named by its path, and a configuration knows where each of its values came from:

    config.origins    {"seed": "default", "lora.rank": "CODERLLM_LORA__RANK", ...}
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import ml_collections

from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.errors import ConfigError, UnknownKeyError

Scalar = bool | int | float | str


class OptionInfo(typing.NamedTuple):
    """What is known about one leaf: shown by --help, enforced by validation."""

    path: str
    type: type
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[Scalar, ...] | None


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Scalar, ...] | None = None,
) -> Any:
    """Declares one field: its default, a sentence, and the values it accepts (bounds inclusive)."""
    return dataclasses.field(
        default=default, metadata={"help": help, "low": low, "high": high, "choices": choices}
    )


def section(cls: type[Section]) -> Any:
    """Declares a nested section with its own defaults."""
    return dataclasses.field(default_factory=cls)


@dataclasses.dataclass(frozen=True)
class Section:
    """A node of the tree. Subclasses add fields and, where fields depend on each other, `check`."""

    def check(self) -> None:
        """Raises ConfigError where fields of this section contradict each other."""


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """The root of a configuration."""

    title: ClassVar[str] = ""

    @classmethod
    def create_default(cls) -> ml_collections.ConfigDict:
        """The defaults as a mutable ConfigDict: values may change, keys and types may not."""
        return _to_config_dict(cls())

    @classmethod
    def from_config_dict(cls, values: Mapping[str, Any]) -> Self:
        """Freezes and validates; raises ConfigError naming the field, its value and the remedy."""
        if isinstance(values, cls):
            return values
        return cls.from_flat(cls.flatten(values))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """The same from checked values by option path; what is left out has its default.

        Raises ConfigError where options contradict each other.
        """
        config = _assemble(cls, values, prefix="")
        _check_tree(config)
        return config

    @classmethod
    def flatten(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Nested values by option path, each checked by itself: its name, type and range."""
        return dict(_flatten(cls, values, prefix=""))

    @functools.cached_property
    def origins(self) -> Mapping[str, str]:
        """Option path → where its value came from; never part of what is compared or written.

        Without `with_origins`, whatever differs from the default was set by a program.
        """
        return {
            info.path: "default" if self.get(info.path) == info.default else "program"
            for info in self.options()
        }

    def with_origins(self, origins: Mapping[str, str]) -> Self:
        """The same configuration, which says of its values that they came from there."""
        copy = dataclasses.replace(self)
        copy.__dict__["origins"] = dict(origins)  # where cached_property keeps what it computed
        return copy

    def get(self, path: str) -> Any:
        """The value of the option at `path`, such as "lora.rank"."""
        return functools.reduce(getattr, path.split("."), self)

    @classmethod
    def options(cls) -> Iterator[OptionInfo]:
        """Every leaf in declaration order, for --help and for the documentation test."""
        yield from _options(cls, prefix="")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, lists and scalars: what `config.json` holds."""
        return _plain(self)


def describe(cls: type[Config]) -> str:
    """The configuration as text, a line an option: `--config.lora.rank=8  Width of ...`."""
    lines = []
    for info in cls.options():
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        limits = ""
        if info.choices:
            limits = f" One of: {', '.join(map(str, info.choices))}."
        elif info.low is not None or info.high is not None:
            low = "-inf" if info.low is None else f"{info.low:g}"
            high = "inf" if info.high is None else f"{info.high:g}"
            limits = f" In [{low}, {high}]."
        lines.append(f"  --config.{info.path}={default!r}\n      {info.help}{limits}")
    return "\n".join(lines)


def _options(cls: type, prefix: str) -> Iterator[OptionInfo]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _options(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            yield OptionInfo(f"{prefix}{field.name}", kind, field.default, **field.metadata)


class EditableConfig(ml_collections.ConfigDict):
    """A ConfigDict that says in one line what is wrong: its own lists every other key."""

    def __setitem__(self, key: str, value: Any) -> None:
        if self.is_locked and key not in self:
            known = did_you_mean(str(key), self.keys(), default=f"; known: {', '.join(self)}")
            raise UnknownKeyError(f"unknown configuration key '{key}'{known}")
        super().__setitem__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except AttributeError as error:
            if isinstance(error.__context__, UnknownKeyError):
                raise error.__context__ from None
            raise


def _to_config_dict(node: Section) -> ml_collections.ConfigDict:
    values = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        values[field.name] = _to_config_dict(value) if isinstance(value, Section) else value
    # convert_dict off: a plain mapping stays what its field declares it to be.
    return EditableConfig(values, convert_dict=False).lock()


def _plain(node: Section) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Section):
            plain[field.name] = _plain(value)
        else:
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _flatten(cls: type, values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            hint = did_you_mean(str(key), fields, spell=lambda name: f"{prefix}{name}", default="")
            raise ConfigError(f"unknown configuration key '{prefix}{key}'{hint}")
    for name, field in fields.items():
        if name not in values:
            continue
        value, kind, path = values[name], hints[name], f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping | ml_collections.ConfigDict):
                raise ConfigError(f"{path} is {value!r}; expected a section with its own keys")
            yield from _flatten(typing.cast(type, kind), value, f"{path}.")
        else:
            info = OptionInfo(path, kind, field.default, **field.metadata)
            yield path, check_value(info, value)


def _assemble(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    built = {}
    for field in dataclasses.fields(cls):
        path, kind = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(kind):
            built[field.name] = _assemble(typing.cast(type, kind), values, f"{path}.")
        elif path in values:
            built[field.name] = values[path]
    return cls(**built)


def check_value(info: OptionInfo, value: Any, *, name: str = "") -> Any:
    """The value as the option's declared type, in its range; raises ConfigError where it is not.

    `name` is what the error calls the option: its path, or whatever the user wrote.
    """
    checked = _coerce(value, info.type, name or info.path)
    _check_range(checked, info, name or info.path)
    return checked


def _coerce(value: Any, kind: Any, name: str) -> Any:
    """The value as its declared type; widens int to float and list to tuple, and nothing else."""
    if typing.get_origin(kind) is tuple:
        (element, _) = typing.get_args(kind)
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{name} is {value!r}; expected a list of {element.__name__}")
        return tuple(_coerce(item, element, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is float and type(value) in (int, float):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise ConfigError(f"{name} is {value!r}; expected a finite number")
    if type(value) is not kind:
        raise ConfigError(f"{name} is {value!r} ({type(value).__name__}); expected {kind.__name__}")
    return value


def _check_range(value: Any, info: OptionInfo, name: str) -> None:
    if info.choices is not None:
        for item in value if isinstance(value, tuple) else (value,):
            if item not in info.choices:
                choices = list(map(str, info.choices))
                hint = did_you_mean(str(item), choices, default="")
                raise ConfigError(f"{name} is {item!r}; expected one of {', '.join(choices)}{hint}")
    if info.low is not None and not value >= info.low:
        raise ConfigError(f"{name} is {value!r}; expected at least {info.low}")
    if info.high is not None and not value <= info.high:
        raise ConfigError(f"{name} is {value!r}; expected at most {info.high}")


def _check_tree(node: Section) -> None:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Section):
            _check_tree(value)
    node.check()
