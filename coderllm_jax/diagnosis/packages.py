"""Python, and the installed packages beside what our own metadata asks for."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coderllm_jax.diagnosis.check import TRAINING, Check

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "Python and packages"
DISTRIBUTION = "coderllm-jax"

_CHECKOUT = Path(__file__).resolve().parents[2]
_NAMED = ("jax", "keras", "keras-hub", "grain", "orbax-checkpoint", "clu", "tensorflow")
# What an extra is for; those of other machines and of benchmarks keep nobody from anything.
_PURPOSES = {"retrieval": "retrieval", "evaluation": "evaluation"}
_EXTRAS = ("retrieval", "evaluation", "cuda", "tpu", "wandb", "peers")
# Looked at whole, down to its bytes, by `assets`.
_MODEL_PREFIX = "gemma3-270m"


class _Declared(NamedTuple):
    python: str
    base: list[Requirement]
    extras: dict[str, list[Requirement]]


class _Gap(NamedTuple):
    requirement: Requirement
    installed: str | None  # None: not at all


def check_packages() -> Iterator[Check]:
    """Python's version, the packages of a training run, and what each extra lacks."""
    try:
        declared = _read_declared()
    except ImportError:
        yield Check(
            GROUP,
            "packages",
            "missing",
            "the package packaging is not installed, so nothing can be compared",
            "run `make train`, or pip install packaging",
            TRAINING,
        )
        return
    yield _check_python(declared.python)
    yield from _check_base(declared.base)
    for extra in _EXTRAS:
        if extra in declared.extras:
            yield _check_extra(extra, declared.extras[extra])


def _read_declared() -> _Declared:
    """From the checkout this code runs from, else from the installed distribution."""
    from packaging.requirements import Requirement

    pyproject = _CHECKOUT / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        extras = {
            name: [Requirement(line) for line in lines]
            for name, lines in project["optional-dependencies"].items()
        }
        base = [Requirement(line) for line in project["dependencies"]]
        return _Declared(project["requires-python"], base, extras)
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    base, extras = [], {name: [] for name in metadata.get_all("Provides-Extra", [])}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        named = [name for name in extras if f'extra == "{name}"' in marker]
        for home in [extras[name] for name in named] or [base]:
            home.append(requirement)
    return _Declared(metadata["Requires-Python"], base, extras)


def _check_python(wanted: str) -> Check:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check(GROUP, "Python", "ok", f"{version} at {sys.prefix}")
    return Check(
        GROUP,
        "Python",
        "missing",
        f"{version} at {sys.prefix}; expected {wanted}",
        "install one, then `make train PYTHON=/path/to/python3.11`",
        TRAINING,
    )


def _check_base(requirements: Sequence[Requirement]) -> Iterator[Check]:
    mine = [each for each in requirements if not each.name.startswith(_MODEL_PREFIX)]
    gaps = list(_gaps(mine))
    for gap in gaps:
        yield Check(
            GROUP,
            gap.requirement.name,
            "missing" if gap.installed is None else "warning",
            f"{gap.installed or 'not installed'}; expected {gap.requirement.specifier or 'any'}",
            f"run `make train`, or {_install([gap.requirement])}",
            TRAINING,
        )
    versions = [f"{name} {version}" for name in _NAMED if (version := _installed(name))]
    yield Check(
        GROUP,
        "packages",
        "ok" if not gaps else "warning",
        f"{len(mine) - len(gaps)} of {len(mine)} as expected: {', '.join(versions)}",
    )


def _check_extra(extra: str, requirements: Sequence[Requirement]) -> Check:
    name = f"extra [{extra}]"
    gaps = list(_gaps(requirements, extra=extra))
    if not gaps:
        return Check(GROUP, name, "ok", "complete")
    lacking = ", ".join(
        f"{gap.requirement.name} {gap.installed}" if gap.installed else gap.requirement.name
        for gap in gaps
    )
    remedy = _install([gap.requirement for gap in gaps])
    if extra in ("cuda", "tpu"):  # `hardware` says whether this machine has such a device
        return Check(GROUP, name, "ok", f"not installed ({lacking})")
    purpose = _PURPOSES.get(extra, "")
    if purpose:
        return Check(GROUP, name, "missing", f"lacks {lacking}", remedy, purpose)
    return Check(GROUP, name, "ok", f"not installed, optional ({lacking})")


def _gaps(requirements: Sequence[Requirement], *, extra: str = "") -> Iterator[_Gap]:
    """What is not installed, or in a version that was not asked for."""
    from packaging.requirements import Requirement

    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        version = _installed(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield _Gap(requirement, version)
            continue
        # `jax[cuda12]`: jax alone is not it.
        for inner in requirement.extras:
            wanted = [Requirement(line) for line in _requires(requirement.name)]
            theirs = [each for each in wanted if _belongs_to(each, inner)]
            if any(_installed(each.name) is None for each in theirs):
                yield _Gap(requirement, None)


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return bool(marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}))


def _requires(name: str) -> list[str]:
    return importlib.metadata.requires(name) or []


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(requirements: Sequence[Requirement]) -> str:
    def without_marker(requirement: Requirement) -> str:
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        return f"{requirement.name}{extras}{requirement.specifier}"

    return f"pip install {shlex.join(map(without_marker, requirements))}"
