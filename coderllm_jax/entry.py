"""How every command starts and ends: flags in, one validated configuration out, one exit code.

    python -m coderllm_jax.train --config=configs/lora.py --config.lora.rank=16
      └─ run(main, TrainingConfig, "configs/lora.py")
           ├─ --help            prints every option, exit 0; nothing heavy was imported
           ├─ resolve_config    card, then command line → frozen TrainingConfig
           └─ main(config)      returns None or an exit code
                UserError          → "error: ..." on stderr, exit 1, no traceback
                OSError of a path  → the same: "error: PATH: Permission denied"
                KeyboardInterrupt  → exit 130

A card is a Python file with `get_config()` that returns an edited `create_default()`. Cards are
programs: running one is running its author's code. Sources of values lie one over the other in
`resolve_config` and nowhere else. Values are parsed by ml_collections' config_flags; which names
exist is decided here first, from the declared options, so that a slip ends in one line that
names its remedy.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from coderllm_jax.config.schema import Config, OptionInfo, describe
from coderllm_jax.errors import ConfigError, UserError

C = TypeVar("C", bound=Config)

_CHECKOUT = Path(__file__).resolve().parents[1]
_HELP = frozenset({"-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull"})
_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<path>[^=]*)(?P<value>=.*)?", re.DOTALL)


def run(
    main: Callable[[C], int | None],
    config_class: type[C],
    default_card: str,
    *,
    argv: Sequence[str] | None = None,
    computes: bool = False,
) -> NoReturn:
    """Runs a command from `argv` (default: the process's) and exits with its code.

    computes: whether the command holds a model; it then gets huge pages where Linux has them.
    """
    if computes and argv is None and not _HELP.intersection(_before_double_dash(sys.argv)):
        _restart_with_huge_pages()
    argv = list(sys.argv if argv is None else argv)
    logging.use_absl_handler()
    try:
        if _HELP.intersection(_before_double_dash(argv)):
            print(help_text(config_class, default_card))
            code = 0
        else:
            code = main(resolve_config(argv, config_class, default_card)) or 0
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        code = 1
    except OSError as error:
        reason = _machine_reason(error)
        if not reason:
            raise
        print(f"error: {_one_line(reason)}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _machine_reason(error: OSError) -> str:
    """What the machine refused, and where; empty where the error may be a bug of ours."""
    reason = error.strerror or type(error).__name__
    if isinstance(error.filename, str | bytes | os.PathLike):
        return f"{os.fsdecode(error.filename)}: {reason}"
    return reason if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else ""


def _restart_with_huge_pages() -> None:
    """Starts the process anew with malloc backed by huge pages; the process id stays.

    XLA's CPU backend takes a step's buffers from malloc and gives them back, so every step pays
    for its pages anew: 750,000 faults and a sixth of the processor time, against 2,000 faults.
    glibc reads this setting once, before any Python runs. Elsewhere it means nothing.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, environment)  # noqa: S606 - our own command again


def help_text(config_class: type[Config], default_card: str) -> str:
    """What --help prints: purpose, usage, then every option with its default and range."""
    entry = _entry_name()
    return (
        f"{config_class.title}\n\n"
        f"usage: python -m {entry} [--config=CARD.py] [--config.KEY=VALUE ...]\n\n"
        f"  --config={default_card}\n"
        "      A Python file whose get_config() returns the options below, edited.\n"
        f"{describe(config_class)}\n\n"
        "Lists are written a,b,c. Switches are also written --config.KEY and --noconfig.KEY."
    )


def resolve_config(argv: Sequence[str], config_class: type[C], default_card: str) -> C:
    """The frozen, validated configuration: the card's values, then the command line's over them.

    `argv[0]` is the program. Raises ConfigError for an unknown option, a value of the wrong type
    or out of range, and a card that is missing or broken.
    """
    card, overrides = _split_card(argv[1:])
    card = card or str(find_card(default_card) or "")
    values = load_card(card) if card else config_class.create_default()
    try:
        config_class.from_config_dict(values)  # a foreign or stale card is told apart from a flag
    except ConfigError as error:
        raise ConfigError(f"{card}: {error}") from error
    options = {info.path: info for info in config_class.options()}
    _override(values, _canonical_arguments(overrides, options), options)
    return config_class.from_config_dict(values)


def find_card(name: str) -> Path | None:
    """The card of that name that ships beside the package; None where there is no checkout."""
    path = _CHECKOUT / name
    return path if path.is_file() else None


def load_card(card: str, *, option: str = "--config") -> ml_collections.ConfigDict:
    """Runs a card's `get_config()`; in `card.py:argument`, the argument is handed to it.

    A card is looked for from the working directory, then beside the package. `option` is what
    named it, for the error.
    """
    name, _, argument = card.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        path = find_card(name) or path
    if not path.is_file():
        raise ConfigError(
            f"{option} is {name!r}, which is not a file; "
            f"name a card such as configs/data.py, or leave {option} out"
        )
    spec = importlib.util.spec_from_file_location(f"card_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{option} is {name!r}; expected a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
        values = module.get_config(*([argument] if argument else []))
    except UserError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # a card is the user's program: whatever it raises is theirs to mend
        raise ConfigError(f"{path}{_line_in(path, error)}: {_card_message(error)}") from error
    finally:
        del sys.modules[spec.name]
    if not isinstance(values, ml_collections.ConfigDict):
        raise ConfigError(
            f"{path}: get_config() returned {type(values).__name__}; "
            "expected the ConfigDict that create_default() gives"
        )
    return values


def _split_card(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --config, which must be known before any override is, and all other words."""
    card, others = "", []
    words = iter(arguments)
    for word in words:
        if re.fullmatch(r"--?config", word):
            card = next(words, "")
            if not card:
                raise ConfigError("--config has no value; name a card, as in --config=card.py")
        elif match := re.fullmatch(r"--?config=(.*)", word):
            card = match[1]
            if not card:
                raise ConfigError("--config is empty; name a card or leave it out")
        else:
            others.append(word)
    return card, others


def _canonical_arguments(arguments: Sequence[str], options: Mapping[str, OptionInfo]) -> list[str]:
    """Arguments that absl understands, every name checked; `a,b` becomes a tuple literal."""
    canonical: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            raise ConfigError(
                f"unexpected argument {word!r}; options are written --config.key=value"
            )
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            name = word.lstrip("-").partition("=")[0]
            if name in flags.FLAGS or name.removeprefix("no") in flags.FLAGS:
                canonical.append(word)
                continue
            raise ConfigError(f"unknown option '--{name}'{_hint(name, options)}")
        path, value = match["path"], match["value"]
        if path not in options:
            raise ConfigError(f"unknown option '--config.{path}'{_hint(path, options)}")
        if value is None and options[path].type is not bool:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"--config.{path} has no value; write --config.{path}=VALUE")
            value = f"={following}"
        canonical.append(_canonical_override(match["no"] or "", options[path], value))
    return canonical


def _canonical_override(negation: str, option: OptionInfo, value: str | None) -> str:
    name = f"--{negation}config.{option.path}"
    if value is None or typing.get_origin(option.type) is not tuple:
        return name + (value or "")
    text = value[1:].strip()
    (element, _) = typing.get_args(option.type)
    if text[:1] not in ("(", "[") and element is str:
        text = repr(tuple(item.strip() for item in text.split(",") if item.strip()))
    return f"{name}={text or '()'}"


def _hint(name: str, options: Mapping[str, OptionInfo]) -> str:
    """The remedy for a name that does not exist."""
    inside = [path for path in options if path.startswith(f"{name}.")]
    if inside:
        return f", which is a section; set one of its keys, such as '--config.{inside[0]}'"
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    # A key named without its section, or with the wrong one, is nearer than any other spelling.
    leaf = name.rpartition(".")[2]
    leaves = {path.rpartition(".")[2]: path for path in options}
    near = near or [leaves[key] for key in difflib.get_close_matches(leaf, leaves, n=1)]
    return f"; did you mean '--config.{near[0]}'?" if near else "; --help lists every option"


def _override(
    values: ml_collections.ConfigDict, arguments: list[str], options: Mapping[str, OptionInfo]
) -> None:
    """Lays checked command-line arguments over the card's values, in place."""
    flag_values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", values, flag_values=flag_values, sys_argv=["", *arguments]
        )
        rest = flag_values(["", *arguments], known_only=True)
        flags.FLAGS(rest)  # absl's own, such as --verbosity
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(_flag_message(error, options)) from error


def _flag_message(error: Exception, options: Mapping[str, OptionInfo]) -> str:
    match = re.match(r"flag --([\w.]+)=(.*?): (.*)", _one_line(error))
    if match is None:
        return _one_line(error)
    option = options.get(match[1].removeprefix("config."))
    remedy = f"; expected {_type_name(option)}" if option else f": {match[3]}"
    return f"--{match[1]} is {match[2]!r}{remedy}"


def _type_name(option: OptionInfo) -> str:
    if typing.get_origin(option.type) is tuple:
        return f"a list of {typing.get_args(option.type)[0].__name__}, written a,b,c"
    return "True or False" if option.type is bool else option.type.__name__


def _card_message(error: Exception) -> str:
    """A locked ConfigDict's complaint without its dump of every other key."""
    text = _one_line(
        str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    )
    text = re.sub(r'\s*Other fields present: ".*?"(?=$|\s*Did you)', "", text)
    return text or type(error).__name__


def _line_in(path: Path, error: Exception) -> str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f":{lines[-1]}" if lines else ""


def _before_double_dash(argv: Sequence[str]) -> list[str]:
    words = list(argv[1:])
    return words[: words.index("--")] if "--" in words else words


def _entry_name() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else "coderllm_jax"


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())
