"""The words of a command line, told apart; every name is checked here.

--config=card.py --environment=dev --overlay=a.yaml --config.lora.rank 16 --verbosity=1
  → CommandLine(card="card.py", environment="dev", overlays=("a.yaml",),
                settings=(Setting("lora.rank", 16, ...),), others=("--verbosity=1",))
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.config.layers import COMMAND_LINE, Setting, parse_text
from coderllm_jax.config.schema import OptionInfo
from coderllm_jax.errors import ConfigError

# What each takes, for the error of one that has no value.
_OWN = {
    "config": "a card, as in --config=card.py",
    "environment": "one, as in --environment=production",
    "overlay": "a file, as in --overlay=changes.yaml",
}
_WORD = re.compile(r"--?(?P<name>[^=]*)(?P<value>=.*)?", re.DOTALL)


class Shorthand(NamedTuple):
    """What a command lets its users write shorter.

    switches: flags that stand for a switch, such as {"update-baseline": "regression.update_..."}.
    words: the option that words without dashes are joined into; empty where there are none.
    options: those that need no `--config.`, such as {"topology"}: --topology=v5e:2x4.
    """

    switches: Mapping[str, str] = {}
    words: str = ""
    options: Collection[str] = ()


class CommandLine(NamedTuple):
    """What a command line asks for; empty where it does not say. `others` are for absl."""

    card: str
    environment: str
    overlays: tuple[str, ...]
    settings: tuple[Setting, ...]
    others: tuple[str, ...]


def parse_command_line(
    arguments: Sequence[str],
    options: Mapping[str, OptionInfo],
    shorthand: Shorthand = Shorthand(),  # noqa: B008 - immutable
) -> CommandLine:
    """Tells the words apart; raises ConfigError for a name that is none, and a missing value."""
    own: dict[str, list[str]] = {name: [] for name in _OWN}
    settings: list[Setting] = []
    lists: dict[str, tuple[Any, ...]] = {}
    others: list[str] = []
    said: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            continue
        match = _WORD.fullmatch(word)
        if match is None or word == "-":
            if not shorthand.words:
                raise ConfigError(
                    f"unexpected argument {word!r}; options are written --config.key=value"
                )
            said.append(word)
            continue
        name, value = match["name"], match["value"] and match["value"][1:]
        if name in shorthand.switches and value is None:
            settings.append(Setting(shorthand.switches[name], True, COMMAND_LINE, f"--{name}"))
        elif name in _OWN:
            own[name].append(_own_value(name, value, words))
        elif name.startswith(("config.", "noconfig.")) or name in shorthand.options:
            whole = f"config.{name}" if name in shorthand.options else name
            setting = _setting(whole, value, words, options)
            if isinstance(setting.value, tuple):  # a list may be given item by item
                setting = setting._replace(value=lists.get(setting.path, ()) + setting.value)
                lists[setting.path] = setting.value
            settings.append(setting)
        elif name in flags.FLAGS or name.removeprefix("no") in flags.FLAGS:
            others.append(word)
            if value is None and name in flags.FLAGS and not flags.FLAGS[name].boolean:
                others.extend(_next(words))
        else:
            raise ConfigError(f"unknown option '--{name}'{_hint(name, options)}")
    if said:
        settings.append(Setting(shorthand.words, " ".join(said), COMMAND_LINE, shorthand.words))
    return CommandLine(
        card=own["config"][-1] if own["config"] else "",
        environment=own["environment"][-1] if own["environment"] else "",
        overlays=tuple(own["overlay"]),
        settings=tuple(settings),
        others=tuple(others),
    )


def _own_value(name: str, value: str | None, words: Iterator[str]) -> str:
    if value is None:
        value = next(words, None)
        if value is None:
            raise ConfigError(f"--{name} has no value; name {_OWN[name]}")
    if not value:
        raise ConfigError(f"--{name} is empty; name {_OWN[name]}, or leave it out")
    return value


def _setting(
    name: str, value: str | None, words: Iterator[str], options: Mapping[str, OptionInfo]
) -> Setting:
    section, _, path = name.partition(".")
    if path not in options:
        raise ConfigError(f"unknown option '--config.{path}'{_hint(path, options)}")
    info, flag = options[path], f"--config.{path}"
    if section == "noconfig" and (info.type is not bool or value is not None):
        raise ConfigError(f"--{name}: only a switch is turned off so; write {flag}=VALUE")
    if info.type is bool and value is None:
        return Setting(path, section == "config", COMMAND_LINE, flag)
    if value is None:
        value = next(words, None)
        if value is None:
            raise ConfigError(f"{flag} has no value; write {flag}=VALUE")
    return Setting(path, parse_text(value, info, name=flag), COMMAND_LINE, flag)


def _next(words: Iterator[str]) -> list[str]:
    following = next(words, None)
    return [] if following is None else [following]


def _hint(name: str, options: Mapping[str, OptionInfo]) -> str:
    def spell(known: str) -> str:
        return f"--{known}" if known in _OWN and known not in options else f"--config.{known}"

    return did_you_mean(name, [*options, *(own for own in _OWN if own not in options)], spell=spell)
