"""The import contracts of pyproject.toml hold, and would notice if they did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def check_contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "coderllm_jax", tmp_path / "coderllm_jax", ignore=ignored)
    return tmp_path


def test_contracts_hold():
    done = check_contracts(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("data/packing.py", "import coderllm_jax.model.forward", "Data flows down"),
        ("records.py", "import coderllm_jax.data.packing", "Data flows down"),
        ("model/forward.py", "import coderllm_jax.training.step", "Data flows down"),
        ("training/step.py", "import coderllm_jax.monitoring.writers", "Data flows down"),
        ("monitoring/writers.py", "import coderllm_jax.train", "Data flows down"),
        ("model/forward.py", "def late():\n    import tensorflow", "works without TensorFlow"),
        ("training/loop.py", "def late():\n    import clu.metrics", "works without TensorFlow"),
        ("generation/engine.py", "import torch", "works without TensorFlow"),
    ],
)
def test_a_violation_is_found(copy, module, line, broken):
    path = copy / "coderllm_jax" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = check_contracts(copy)
    assert done.returncode != 0
    assert any(broken in row and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_module_without_a_layer_is_found(copy):
    (copy / "coderllm_jax" / "helpers.py").write_text("")
    assert check_contracts(copy).returncode != 0
