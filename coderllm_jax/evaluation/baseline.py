"""The result that later ones are compared with: where it lies, how it is stored and read.

    results.json  ──► baseline.json             with "samples_sha256" of the file beside it
    samples.jsonl ──► baseline_samples.jsonl

Both are replaced whole or not at all. A process that is killed between the two leaves samples that
baseline.json does not know, which is noticed when they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.data.files import SourceFile, iterate_records
from coderllm_jax.errors import DataError

RESULTS, SAMPLES = "results.json", "samples.jsonl"
BASELINE, BASELINE_SAMPLES = "baseline.json", "baseline_samples.jsonl"

# What may differ without a word: which model it is, where, when, and the options of the gate.
_EXPECTED = (
    *("answerer.model", "answerer.name", "created", "commit"),
    *("config.model_path", "config.workdir", "config.regression", "config.reuse"),
)
_MOST_NAMED, _LETTERS_SHOWN = 6, 24


class Baseline(NamedTuple):
    """An earlier result: what results.json and samples.jsonl held, and where they were found."""

    path: Path
    results: Mapping[str, Any]
    samples: list[dict[str, Any]]


def find_baseline(option: str, folder: Path) -> Path | None:
    """The file that `regression.baseline` means; None where it is empty and nothing is stored.

    A folder stands for its results.json, its baseline.json, or those of the evaluation in it.
    Raises DataError where what was named is not there.
    """
    if not option:
        stored = folder / BASELINE
        return stored if stored.is_file() else None
    named = Path(option).expanduser()
    if named.is_file():
        return named
    places = (named, named / "evaluation")
    for path in (place / name for place in places for name in (RESULTS, BASELINE)):
        if path.is_file():
            return path
    raise DataError(
        f"regression.baseline: {option} is no file and no folder with {RESULTS}; name an earlier "
        f"{RESULTS}, or leave it empty and store one with --update-baseline"
    )


def load_baseline(path: Path) -> Baseline:
    """Reads a result and the samples beside it. Raises DataError, naming the file."""
    samples_path = path.with_name(BASELINE_SAMPLES if path.name == BASELINE else SAMPLES)
    results = _read_results(path)
    if not samples_path.is_file():
        raise DataError(
            f"{samples_path}: no such file; expected the samples that {path.name} is about: items "
            "are compared one by one"
        )
    expected = results.get("samples_sha256")
    if expected and expected != _sha256(samples_path):
        raise DataError(
            f"{samples_path} is not what {path.name} was stored with; store both again with "
            "--update-baseline"
        )
    samples = []
    if samples_path.stat().st_size:
        for record in iterate_records(SourceFile(str(samples_path), "lines")):
            try:
                samples.append(record.fields())
            except DataError as error:
                raise DataError(f"{record.location}: {error}") from None
    return Baseline(path, results, samples)


def store_baseline(folder: Path) -> Path:
    """Makes the finished result in `folder` its baseline. Raises DataError where there is none."""
    results = _read_results(folder / RESULTS)
    if results.get("status") != "finished":
        raise DataError(
            f"{folder / RESULTS} has the status {results.get('status')!r}; only a finished "
            "evaluation becomes the baseline; run it to its end"
        )
    samples = folder / SAMPLES
    if not samples.is_file():
        raise DataError(f"{samples}: no such file; run the evaluation again")
    content = {**results, "samples_sha256": _sha256(samples)}
    # Samples first: baseline.json is what says that there is a baseline.
    _replace(folder / BASELINE_SAMPLES, samples.read_bytes())
    _replace(folder / BASELINE, (json.dumps(content, indent=1) + "\n").encode())
    return folder / BASELINE


def describe_conditions(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """What of two manifests differs besides the model that is judged, as a sentence; else empty."""
    known = now.keys() & then.keys()
    differing = [
        f"{name} {old} → {new}"
        for name, old, new in _differences(
            {key: then[key] for key in known}, {key: now[key] for key in known}
        )
        if not name.startswith(_EXPECTED)
    ]
    if not differing:
        return ""
    more = len(differing) - _MOST_NAMED
    named = "; ".join(differing[:_MOST_NAMED]) + (f"; {more} more" if more > 0 else "")
    return f"besides the model, this is not as it was for the baseline: {named}"


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(name, old, new) of every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key), new.get(key), inner)
    elif _as_json(old) != _as_json(new):
        yield path, _brief(old), _brief(new)


def _as_json(value: Any) -> Any:
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LETTERS_SHOWN else f"{text[:_LETTERS_SHOWN]}…"


def _read_results(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a result ({error})") from None
    if not isinstance(values, dict) or not isinstance(values.get("suites"), dict):
        raise DataError(
            f"{path}: holds no 'suites'; expected a {RESULTS} that evaluate has written"
        )
    return values


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, and on the disk when this returns."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
