"""Where Python source lies: an installed distribution, the standard library, or a folder.

    SourceTree("optax", "0.2.8", "Apache-2.0", modules={"optax._src.alias": <path>, ...})

Files are listed, never imported: no code of theirs runs, and a package that does not import here
(no accelerator, no TensorFlow) is read all the same. Tests and private build files are left out.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from coderllm_jax.errors import DataError

STANDARD_LIBRARY = "python"

_TESTS = re.compile(
    r"(^|/)(tests?|testing|test_utils|testdata|benchmarks)(/|\.py$)|(_test|_tests)\.py$|(^|/)(test_[^/]*|conftest|setup)\.py$"
)
_NOT_LIBRARY = re.compile(
    r"^(site-packages|dist-packages|idlelib|lib2to3|turtledemo|ensurepip|pydoc_data|distutils"
    r"|config-[^/]*|__phello__|lib-dynload|tkinter|msilib)/|(^|/)(antigravity|this|__main__)\.py$"
)
_SPDX = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_LICENSE_TEXTS = (
    ("Apache License", "Apache-2.0"),
    ("MIT License", "MIT"),
    ("Permission is hereby granted, free of charge", "MIT"),
    ("Redistribution and use in source and binary forms", "BSD-3-Clause"),
    ("GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL-3.0"),
    ("GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"),
    ("GNU GENERAL PUBLIC LICENSE", "GPL"),
    ("Mozilla Public License", "MPL-2.0"),
)


@dataclasses.dataclass(frozen=True)
class SourceTree:
    """The Python files of one origin. `modules` maps dotted names to files, sorted by name."""

    name: str
    version: str
    license: str
    modules: dict[str, Path]

    @property
    def source(self) -> str:
        """How rows name where they come from: `optax 0.2.8`."""
        return f"{self.name} {self.version}".strip()


def installed_tree(distribution: str) -> SourceTree:
    """The files of an installed distribution; raises DataError where it is not installed."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"package {distribution!r} is not installed; "
            f"install it (pip install {distribution}) or take it out of `packages`"
        ) from error
    relative = [PurePosixPath(file) for file in found.files or () if file.suffix == ".py"]
    modules = {
        _module_name(path): Path(str(found.locate_file(path)))
        for path in relative
        if path.parts[0] != ".." and not _TESTS.search(str(path))
    }
    if not modules:
        raise DataError(
            f"package {distribution!r} lists no Python files (an editable install?); "
            "name its folder in `source_trees` instead"
        )
    metadata = found.metadata
    licence = license_identifier(
        "".join(metadata.get_all("License-Expression") or ()),
        "".join(metadata.get_all("License") or ()),
        [
            line.rpartition("::")[2].strip()
            for line in metadata.get_all("Classifier") or ()
            if line.startswith("License")
        ],
    )
    return SourceTree(distribution, found.version, licence, dict(sorted(modules.items())))


def standard_library_tree() -> SourceTree:
    """The running interpreter's own library, without tests, IDLE and the like."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(root) for path in _python_files(root)]
    modules = {
        _module_name(PurePosixPath(path)): root / path
        for path in paths
        if not _NOT_LIBRARY.search(path.as_posix()) and not _TESTS.search(path.as_posix())
    }
    version = platform.python_version()
    return SourceTree(STANDARD_LIBRARY, version, "PSF-2.0", dict(sorted(modules.items())))


def folder_tree(folder: Path) -> SourceTree:
    """A source tree: a package, a folder of packages, or a project with `src/`."""
    if not folder.is_dir():
        raise DataError(f"source tree {str(folder)!r} is not a folder; name one in `source_trees`")
    root = folder.resolve()
    base = root / "src" if (root / "src").is_dir() else root
    # A package's own folder is named, rather than the folder that holds it.
    base = base.parent if (base / "__init__.py").is_file() else base
    start = root if base == root.parent else base
    modules = {}
    for path in _python_files(start):
        relative = PurePosixPath(path.relative_to(base).as_posix())
        hidden = any(part.startswith(".") for part in path.relative_to(start).parts)
        if not hidden and not _TESTS.search(str(relative)):
            modules[_module_name(relative)] = path
    if not modules:
        raise DataError(f"source tree {str(folder)!r} has no Python files; name another folder")
    return SourceTree(root.name, "", folder_license(root), dict(sorted(modules.items())))


def license_identifier(expression: str, text: str, classifiers: list[str]) -> str:
    """The SPDX identifier that a distribution declares, or `unknown`."""
    if expression:
        return expression
    for declared in [*classifiers, text.strip().partition("\n")[0].strip()]:
        if declared in _SPDX:
            return _SPDX[declared]
        if re.fullmatch(r"[\w.+-]{2,24}", declared):
            return declared
    return "unknown"


def folder_license(folder: Path) -> str:
    """What a folder's LICENSE file reads like, or `unknown`."""
    for pattern in ("LICENSE*", "LICENCE*", "COPYING*"):
        for path in sorted(folder.glob(pattern)):
            text = (
                path.read_text(encoding="utf-8", errors="replace")[:4000] if path.is_file() else ""
            )
            for phrase, identifier in _LICENSE_TEXTS:
                if phrase in text:
                    return identifier
    return "unknown"


def _python_files(root: Path) -> Iterable[Path]:
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def _module_name(path: PurePosixPath) -> str:
    parts = list(path.with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)
