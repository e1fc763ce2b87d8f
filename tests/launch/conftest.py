"""A world of recorders, settings for each way, and no waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launch import checkout, commands, gke, supervision, tpu_vm
from launch.__main__ import main
from tests.launch.fakes import World

SETTINGS = """
name = "trial"
arguments = ["--config=configs/tiny.py", "--config.steps=3"]
{top}
[cloud]
project = "my-project"
zone = "us-west4-a"
bucket = "gs://my-bucket/coderllm"
accelerator = "{accelerator}"
{cloud}
[gke]
cluster = "tpus"
service_account = "trainer"
[ssh]
hosts = ["me@a", "b"]
{ssh}
[slurm]
{slurm}
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "world")
    world.enter(monkeypatch)
    # Packing the whole checkout takes longer than all else.
    files = ["Makefile", "configs/data.py", "configs/tiny.py", "data/questions.jsonl"]
    monkeypatch.setattr(checkout, "list_files", lambda root: files)
    monkeypatch.setattr(commands, "_TICK_S", 0.02)
    monkeypatch.setattr(tpu_vm, "_POLL_S", 0.01)
    monkeypatch.setattr(gke, "_POLL_S", 0.01)
    monkeypatch.setattr(supervision, "_PAUSE_S", 0.01)
    return world


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., int]:
    """launch("tpu-vm", "--dry-run", top="keep = true") in this process; returns the exit code.

    The slice has two hosts unless another is named.
    """

    def launch(
        *words: str,
        top: str = "",
        accelerator: str = "v5p-16",
        cloud: str = "",
        ssh: str = "",
        slurm: str = "",
    ) -> int:
        path = tmp_path / "settings.toml"
        parts = {"top": top, "cloud": cloud, "ssh": ssh, "slurm": slurm}
        path.write_text(SETTINGS.format(accelerator=accelerator, **parts))
        way, *rest = words
        return main([way, f"--settings={path}", *rest])

    return launch
