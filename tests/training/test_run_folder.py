"""A run's folder: whose it is, and that what is written in it is whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from coderllm_jax.errors import RunError
from coderllm_jax.training.run_folder import RunFolder, read_json, write_json

IDENTITY = {"lora": {"rank": 8, "targets": ("query", "value")}, "seed": 0}


def a_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    write_json(folder.config, {})
    write_json(folder.manifest, {"identity": IDENTITY})
    return folder


def test_nothing_and_an_empty_folder_can_be_used(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path / "new").check_usable()
    assert not RunFolder(tmp_path).check_usable()
    assert a_run(tmp_path / "run").check_usable()


def test_a_foreign_folder_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds thesis.tex but no run of ours"):
        RunFolder(tmp_path).check_usable()
    with pytest.raises(RunError, match="is a file; name a folder"):
        RunFolder(tmp_path / "thesis.tex").check_usable()
    with pytest.raises(RunError, match=r"cannot be made in .*thesis\.tex; name another one"):
        RunFolder(tmp_path / "thesis.tex" / "run").check_usable()


def test_a_run_stopped_before_its_manifest_begins_again(tmp_path: Path) -> None:
    write_json(RunFolder(tmp_path).config, {})
    assert not RunFolder(tmp_path).check_usable()


def test_a_run_stopped_between_its_checkpoints_folder_and_its_manifest_begins_again(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    folder.metrics.mkdir()
    folder.metrics_log.touch()
    (tmp_path / ".manifest.json.unfinished").write_text("{")
    assert not folder.check_usable()
    (folder.checkpoints / "20").mkdir()
    (folder.checkpoints / "20" / "state").write_text("somebody's weights")
    with pytest.raises(RunError, match="holds checkpoints but no run of ours"):
        folder.check_usable()


def test_the_same_identity_passes_and_tuples_are_lists(tmp_path: Path) -> None:
    a_run(tmp_path).check_identity(IDENTITY)


def test_every_difference_is_named(tmp_path: Path) -> None:
    other = {"lora": {"rank": 16, "targets": ("query",)}, "seed": 0}
    with pytest.raises(RunError) as raised:
        a_run(tmp_path).check_identity(other)
    assert "lora.rank was 8, is 16" in str(raised.value)
    assert "lora.targets was ['query', 'value'], is ['query']" in str(raised.value)
    assert "seed" not in str(raised.value)


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": math.nan, "b": [math.inf, 1.5], "c": ("x", {"d": -math.inf})})
    assert read_json(path) == {"a": None, "b": [None, 1.5], "c": ["x", {"d": None}]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json: "):
        read_json(path)


def test_files_are_what_every_json_reader_takes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"π": "ü", "n": 1})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"π": "ü", "n": 1}


def test_one_process_at_a_time_has_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(RunError, match="is in use by another run"):
        folder.locked().__enter__()
    with folder.locked():
        pass
