"""The settings file: read, held against what there is, and frozen.

    settings.toml ──► load_settings(path) ──► Settings(name, arguments, ..., cloud, gke, ssh, slurm)

Every value is checked when the file is read: a key that does not exist, a wrong type, a number out
of range, a `~` that nothing expands. What only one way of launching needs (a project, hosts) is
asked for by `require` when that way is taken.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from launch.errors import LaunchError

_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Google's and Kubernetes' rule for names, with room for what we append.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[\w./ -]*)?")


@dataclasses.dataclass(frozen=True)
class Cloud:
    """What Cloud TPU and GKE have in common."""

    project: str = ""
    zone: str = ""
    accelerator: str = "v5litepod-16"
    spot: bool = True
    bucket: str = ""
    service_account: str = ""


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A queued resource."""

    runtime: str = ""
    wait_hours: float = 24.0


@dataclasses.dataclass(frozen=True)
class Gke:
    """A cluster that is there."""

    cluster: str = ""
    location: str = ""
    namespace: str = "default"
    service_account: str = ""
    image: str = "python:3.11"


@dataclasses.dataclass(frozen=True)
class Ssh:
    """Machines that let us in."""

    hosts: tuple[str, ...] = ()
    coordinator: str = ""
    port: int = 12355
    folder: str = "coderllm_jax"
    installed: bool = False
    platform: str = "auto"
    python: str = ".venv/bin/python"


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A job of Slurm."""

    nodes: int = 2
    tasks_per_node: int = 1
    options: tuple[str, ...] = ()
    python: str = ".venv/bin/python"


@dataclasses.dataclass(frozen=True)
class Settings:
    """All of the file."""

    name: str = "coderllm-lora"
    arguments: tuple[str, ...] = ()
    prepare: str = "configs/data.py"
    secrets_file: str = ""
    max_restarts: int = 20
    keep: bool = False
    cloud: Cloud = Cloud()
    tpu_vm: TpuVm = TpuVm()
    gke: Gke = Gke()
    ssh: Ssh = Ssh()
    slurm: Slurm = Slurm()

    def require(self, *paths: str) -> None:
        """LaunchError where one of these (`cloud.project`) is empty."""
        for path in paths:
            value: Any = self
            for word in path.split("."):
                value = getattr(value, word)
            if not value:
                raise LaunchError(f"{path} is empty; set it in the settings file")

    def has_argument(self, option: str) -> bool:
        """Whether the run's arguments set `--config.<option>`."""
        flag = f"--config.{option}"
        return any(word == flag or word.startswith(f"{flag}=") for word in self.arguments)

    @property
    def prepares(self) -> bool:
        """Whether hosts make the default rows: the run does not name its own."""
        return bool(self.prepare) and not self.has_argument("data.path")


def load_settings(path: Path) -> Settings:
    """The file's settings; LaunchError, in one line, for the first thing that is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}; name a file with --settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LaunchError(f"{path}: is no TOML ({error}); compare launch/settings.toml") from None
    try:
        settings = _read_table(Settings, values, "")
        if settings.secrets_file:  # no shell expands it, and the launch works in the checkout
            secrets = Path(settings.secrets_file).expanduser().absolute()
            settings = dataclasses.replace(settings, secrets_file=str(secrets))
        _check(settings)
    except LaunchError as error:
        raise LaunchError(f"{path}: {error}") from None
    return settings


def _read_table(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    fields = get_type_hints(kind)
    read = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in fields:
            raise LaunchError(f"there is no setting {path!r}{_did_you_mean(path)}")
        read[key] = _read_value(fields[key], value, path)
    return kind(**read)


def _read_value(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise LaunchError(f"{path} is {value!r}; expected a section: [{path}]")
        return _read_table(kind, value, f"{path}.")
    if kind == tuple[str, ...]:
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise LaunchError(f'{path} is {value!r}; expected a list of texts: ["a", "b"]')
        return tuple(_read_value(str, item, path) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        example = {str: '"text"', bool: "true or false", int: "a whole number", float: "a number"}
        raise LaunchError(f"{path} is {value!r}; expected {example[kind]}")
    if isinstance(value, str) and "\0" in value:
        raise LaunchError(f"{path} has {value!r}; no program can be given a NUL: leave it out")
    return value


def _did_you_mean(path: str) -> str:
    known = list(_list_keys(Settings))
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.7)
    leaf = path.rpartition(".")[2]
    near = near or [each for each in known if each.rpartition(".")[2] == leaf]
    return f"; did you mean '{near[0]}'?" if near else "; launch/settings.toml has them all"


def _list_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in get_type_hints(kind).items():
        if dataclasses.is_dataclass(inner):
            yield from _list_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _check(settings: Settings) -> None:
    if not _NAME.fullmatch(settings.name):
        raise LaunchError(
            f"name is {settings.name!r}; expected at most 40 lower-case letters, digits and "
            "hyphens, a letter first"
        )
    if settings.cloud.bucket and not _BUCKET.fullmatch(settings.cloud.bucket):
        raise LaunchError(
            f"cloud.bucket is {settings.cloud.bucket!r}; expected gs://BUCKET or gs://BUCKET/FOLDER"
        )
    if settings.ssh.platform not in ("auto", "cpu", "cuda", "tpu"):
        raise LaunchError(
            f"ssh.platform is {settings.ssh.platform!r}; expected auto, cpu, cuda or tpu"
        )
    ranges = {
        "max_restarts": (settings.max_restarts, 0, None),
        "slurm.nodes": (settings.slurm.nodes, 1, None),
        "slurm.tasks_per_node": (settings.slurm.tasks_per_node, 1, None),
        "ssh.port": (settings.ssh.port, 1, 65535),
        "tpu_vm.wait_hours": (settings.tpu_vm.wait_hours, 0, None),
    }
    for path, (value, low, high) in ranges.items():
        if not value >= low:  # nan is no number of hours either
            raise LaunchError(f"{path} is {value}; expected at least {low}")
        if high is not None and value > high:
            raise LaunchError(f"{path} is {value}; expected at most {high}")
    paths = {
        "ssh.folder": (settings.ssh.folder, "the home folder"),
        "ssh.python": (settings.ssh.python, "ssh.folder"),
        "slurm.python": (settings.slurm.python, "the checkout"),
    }
    for name, (path, base) in paths.items():
        if path.startswith("~"):
            raise LaunchError(
                f"{name} is {path!r}; no shell expands ~ there: write it whole, or seen from {base}"
            )
    if settings.secrets_file:
        check_secrets(Path(settings.secrets_file))


def check_secrets(path: Path) -> None:
    """LaunchError where others may read the file, or a line is no NAME=value; says no value."""
    try:
        status = path.stat()
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LaunchError(
            f'secrets_file {path}: {error.strerror}; make it, mode 600, or set it to ""'
        ) from None
    except UnicodeDecodeError:  # which would say what is in it
        raise LaunchError(f"secrets_file {path}: is no text in UTF-8; save it as such") from None
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.getuid():
        raise LaunchError(f"secrets_file {path} may be read by others; chmod 600 {path}")
    for number, line in enumerate(lines, 1):
        name, equals, _ = line.partition("=")
        if (
            line.strip()
            and not line.startswith("#")
            and not (equals and _SECRET_NAME.fullmatch(name))
        ):
            raise LaunchError(
                f"secrets_file {path}:{number}: expected NAME=value, without spaces or quotes "
                "around them"
            )
