"""How every command starts and ends: flags in, one validated configuration out, one exit code.

    python -m coderllm_jax.train --config=configs/lora.py --config.lora.rank=16
      └─ run(main, TrainingConfig, "configs/lora.py")
           ├─ --help            prints every option, exit 0; nothing heavy was imported
           ├─ resolve_config    defaults, card, environment, overlays, variables, command line
           │                    → frozen TrainingConfig
           └─ main(config)      returns None or an exit code
                UserError          → "error: ..." on stderr, exit 1, no traceback
                OSError of a path  → the same: "error: PATH: Permission denied"
                ResumableError     → "interrupted: ..." on stderr, exit 42: run it again
                KeyboardInterrupt  → exit 130

The code stands where nobody reads stderr any more, as after a lost connection: see `may_be_unread`.

A card is a Python file with `get_config()` that returns an edited `create_default()`. Cards are
programs: running one is running its author's code. Sources of values lie one over the other in
`resolve_config` and nowhere else; what each source may say is in `config.layers`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import os
import re
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import ml_collections
from absl import flags, logging

from coderllm_jax.config.command_line import Shorthand, parse_command_line
from coderllm_jax.config.layers import (
    ENVIRONMENT_VARIABLE,
    ENVIRONMENTS,
    Setting,
    card_settings,
    environment_settings,
    find_environments,
    join,
    options_by_path,
    overlay_settings,
    shown,
    variable_name,
    variable_settings,
)
from coderllm_jax.config.schema import Config, describe
from coderllm_jax.errors import ConfigError, ResumableError, UnknownKeyError, UserError
from coderllm_jax.redaction import redact

C = TypeVar("C", bound=Config)

_CHECKOUT = Path(__file__).resolve().parents[1]
# What schedulers take for "start it again".
RESUMABLE = 42
_HELP = frozenset({"-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull"})


def run(
    main: Callable[[C], int | None],
    config_class: type[C],
    default_card: str,
    *,
    argv: Sequence[str] | None = None,
    computes: bool = False,
    shorthand: Shorthand = Shorthand(),  # noqa: B008 - immutable
) -> NoReturn:
    """Runs a command from `argv` (default: the process's) and exits with its code.

    computes: whether the command holds a model; it then gets huge pages where Linux has them.
    shorthand: what may be written without `--config.`.
    """
    if computes and argv is None and not _HELP.intersection(_before_double_dash(sys.argv)):
        _restart_with_huge_pages()
    argv = list(sys.argv if argv is None else argv)
    logging.use_absl_handler()
    sys.excepthook = _show_bug
    line = ""
    try:
        if _HELP.intersection(_before_double_dash(argv)):
            print(help_text(config_class, default_card, shorthand))
            code = 0
        else:
            config = resolve_config(argv, config_class, default_card, shorthand=shorthand)
            code = main(config) or 0
    except UserError as error:
        line, code = f"error: {error}", 1
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        reason = _machine_reason(error)
        if not reason:
            raise
        line, code = f"error: {reason}", 1
    except ResumableError as error:
        line, code = f"interrupted: {error}", RESUMABLE
    except KeyboardInterrupt:
        line, code = "interrupted", 130
    with may_be_unread(sys.stderr):
        if line:
            print(redact(_one_line(line)), file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def may_be_unread(stream: TextIO) -> Iterator[None]:
    """What the block prints to `stream` may get lost: its reader, a connection, may be gone.

    Python keeps what it could not write, tries again as it ends, and then exits with 120 whatever
    the code was; so a stream that fails leads nowhere from then on.
    """
    try:
        yield
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Notes:
    """Lines about what goes on, on stderr, with the seconds since the start."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def __call__(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"{time.monotonic() - self._started_s:6.1f} s  {text} …", file=sys.stderr)


@contextlib.contextmanager
def ends_on_signals() -> Iterator[None]:
    """SIGTERM ends the block as an error that says that the same command goes on."""

    def end(number: int, _: types.FrameType | None) -> None:
        raise ResumableError(
            f"{signal.Signals(number).name}; what was answered is kept: the same command goes on"
        )

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread: whoever runs it there has its own ideas
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_bug(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Our own mistakes keep their traceback, which may quote what was configured."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


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


def help_text(
    config_class: type[Config],
    default_card: str,
    shorthand: Shorthand = Shorthand(),  # noqa: B008 - immutable
) -> str:
    """What --help prints: purpose, usage, layers, then every option with its default and range."""
    entry = _entry_name()
    paths = [info.path for info in config_class.options()]
    nested = next((path for path in paths if "." in path), paths[0])
    environments = ", ".join(sorted(find_environments(_roots()))) or "none found"
    return (
        f"{config_class.title}\n\n"
        f"usage: python -m {entry} [--config=CARD.py] [--environment=NAME] [--overlay=FILE ...]\n"
        f"           [--config.KEY=VALUE ...]{_shorter(shorthand)}\n\n"
        "Later ones win: defaults, card, environment, overlays, variables, command line.\n\n"
        f"  --config={default_card}\n"
        "      A Python file whose get_config() returns the options below, edited.\n"
        "  --environment=NAME\n"
        f"      {ENVIRONMENTS}/NAME.yaml: {environments}. Also chosen by {ENVIRONMENT_VARIABLE}.\n"
        "  --overlay=FILE\n"
        "      Options in JSON or YAML, or a run's config.json. May be repeated; later ones win.\n"
        f"  {variable_name(paths[0])}=VALUE, {variable_name(nested)}=VALUE\n"
        "      A variable for every option below; two underscores where its name has a dot.\n"
        f"{describe(config_class)}\n\n"
        "Lists are written a,b,c. Switches are also written --config.KEY and --noconfig.KEY."
    )


def _shorter(shorthand: Shorthand) -> str:
    words = f" [{shorthand.words.upper()} ...]" if shorthand.words else ""
    options = "".join(f" [--{name}=VALUE]" for name in shorthand.options)
    return "".join(f" [--{name}]" for name in shorthand.switches) + options + words


def resolve_config(
    argv: Sequence[str],
    config_class: type[C],
    default_card: str,
    *,
    environ: Mapping[str, str] | None = None,
    shorthand: Shorthand = Shorthand(),  # noqa: B008 - immutable
) -> C:
    """The frozen, validated configuration, which says where each of its values came from.

    `argv[0]` is the program; `environ` is the process's unless given. Raises ConfigError for a
    name that is unknown, a value of the wrong type or out of range, options that contradict each
    other, and a card, environment or overlay that is missing or broken.
    """
    environ = os.environ if environ is None else environ
    asked = parse_command_line(argv[1:], options_by_path(config_class), shorthand)
    config = join(
        config_class,
        itertools.chain(
            _from_card(asked.card or str(find_card(default_card) or ""), config_class),
            _from_environment(asked.environment, environ, config_class),
            *(overlay_settings(file, config_class, roots=_roots()) for file in asked.overlays),
            variable_settings(environ, config_class),
            asked.settings,
        ),
    )
    _set_absl_flags(asked.others)
    return config


def _from_card(card: str, config_class: type[Config]) -> Iterator[Setting]:
    if not card:
        return iter(())
    name, _, argument = card.partition(":")
    place = shown(Path(name), _roots())
    origin = f"{place}:{argument}" if argument else place
    return card_settings(load_card(card), config_class, origin=origin, place=place)


def _from_environment(
    name: str, environ: Mapping[str, str], config_class: type[Config]
) -> Iterator[Setting]:
    named_by = "--environment" if name else ENVIRONMENT_VARIABLE
    name = name or environ.get(ENVIRONMENT_VARIABLE, "")
    if not name:
        return iter(())
    return environment_settings(name, config_class, roots=_roots(), named_by=named_by)


def _roots() -> tuple[Path, ...]:
    """Where cards and environments lie: the working directory, then beside the package."""
    return Path(), _CHECKOUT


def _set_absl_flags(words: Sequence[str]) -> None:
    try:
        flags.FLAGS(["", *words])  # absl's own, such as --verbosity
    except flags.Error as error:
        raise ConfigError(_one_line(error)) from error


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
    place = shown(path, _roots())
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
        values = module.get_config(*([argument] if argument else []))
    except UnknownKeyError as error:
        raise ConfigError(f"{place}{_line_in(path, error)}: {error}") from error
    except UserError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{place}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # a card is the user's program: whatever it raises is theirs to mend
        raise ConfigError(f"{place}{_line_in(path, error)}: {_card_message(error)}") from error
    finally:
        del sys.modules[spec.name]
    if not isinstance(values, ml_collections.ConfigDict):
        raise ConfigError(
            f"{place}: get_config() returned {type(values).__name__}; "
            "expected the ConfigDict that create_default() gives"
        )
    return values


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
    return spec.name.removesuffix(".__main__") if spec is not None else "coderllm_jax"


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())
