"""Every format of every family, in fact loaded by the library that people will load it with.

A library is imported once for all cases: it answers one job after another in a process that stays.
The first two cases take the way that a user's export takes, a process for each artifact.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderllm_jax.config.export import ExportConfig
from coderllm_jax.errors import ModelError
from coderllm_jax.export import verification
from coderllm_jax.export.exporting import export_model
from coderllm_jax.export.reload_protocol import read_reply, write_job
from coderllm_jax.export.verification import LOADERS
from tests.export.small_model import KINDS, write_trained
from tests.export.test_families import BY_WIDTH

ROOT = Path(__file__).resolve().parents[2]
FORMATS = {
    "huggingface": {},
    "peft": {},
    "gguf": {"gguf_types": ("f32", "f16", "bf16", "q8_0")},
    "keras": {},
}
CASES = [
    (kind, wanted)
    for wanted in FORMATS
    for kind in KINDS
    if not (wanted == "keras" and kind in BY_WIDTH)
]
SERVE = """
import importlib, sys
from coderllm_jax.export import reload_protocol
module = importlib.import_module(f"coderllm_jax.export.{sys.argv[1]}")
answers = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    sys.argv[1] = line.strip()
    reload_protocol.answer(module.reload)
    print("answered", file=answers, flush=True)
"""


def installed(wanted):
    return all(importlib.util.find_spec(name) for name in LOADERS[wanted].imports)


def export(tmp_path, vocabulary, wanted, changes, *, kind="gemma3"):
    if not installed(wanted):
        pytest.skip(f"needs {LOADERS[wanted].distributions}")
    adapter = write_trained(tmp_path, vocabulary, architecture=KINDS[kind])
    config = ExportConfig.create_default()
    config.update(
        {"model_path": str(adapter), "out": str(tmp_path / "out"), "formats": (wanted,), **changes}
    )
    result = export_model(config)
    assert result.folders[wanted].is_dir()
    for name, found in result.verifications.items():
        assert found is not None
        assert (found.num_texts, found.num_chats) == (5, 3)
        # Random models have ties; llama.cpp rounds activations where weights are rounded to 8
        # bits, or to bfloat16.
        assert found.program.flip_gap < 1e-3 or name.endswith(("bf16.gguf", "q8_0.gguf"))


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """`verification._ask` of processes that stay."""
    running = {}

    def answered(loader, job):
        folder = tmp_path_factory.mktemp("job")
        write_job(folder, job)
        if loader.module not in running:
            running[loader.module] = subprocess.Popen(
                [sys.executable, "-c", SERVE, loader.module],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = running[loader.module]
        print(folder, file=process.stdin, flush=True)
        if process.stdout.readline() != "answered\n":
            del running[loader.module]  # it ended: the next case starts another
            pytest.fail(f"{loader.title} does not load it")
        return read_reply(folder)

    yield answered
    for process in running.values():
        with process:
            process.stdin.close()


@pytest.mark.peers
@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        ("huggingface", {"dtype": "bfloat16", "max_shard_bytes": 40_000}),
        ("gguf", {"gguf_types": ("f16",)}),
    ],
)
def test_it_is_loaded_as_a_user_s_export_is(tmp_path, small_vocabulary, wanted, changes):
    export(tmp_path, small_vocabulary, wanted, changes)


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "wanted"), CASES)
def test_it_is_loaded_and_is_the_model(tmp_path, small_vocabulary, ask, monkeypatch, kind, wanted):
    monkeypatch.setattr(verification, "_ask", ask)
    changes = dict(FORMATS[wanted])
    if (kind, wanted) == ("gemma2_27b", "gguf"):
        # 46 layers of random weights: rounding to 8 bits costs 0.038 nats, of which 0.03 may be.
        changes["gguf_types"] = ("f32", "f16", "bf16")
    export(tmp_path, small_vocabulary, wanted, changes, kind=kind)


MULTIMODAL = [("gemma3", "google/gemma-3-4b-it"), ("gemma4", "google/gemma-4-31B")]


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "repository"), MULTIMODAL)
def test_an_adapter_finds_its_modules_in_a_multimodal_base(
    tmp_path, small_vocabulary, ask, monkeypatch, kind, repository
):
    monkeypatch.setattr(verification, "_ask", ask)
    export(tmp_path, small_vocabulary, "peft", {"base_model": repository}, kind=kind)


@pytest.mark.peers
def test_an_adapter_that_finds_no_place_is_not_proven(tmp_path, small_vocabulary, monkeypatch):
    """PEFT only warns of it, and what answers is the base."""

    def ask_of_another(loader, job):
        return _ask(loader, dataclasses.replace(job, base_is_multimodal=True))

    _ask = verification._ask
    monkeypatch.setattr(verification, "_ask", ask_of_another)
    with pytest.raises(ModelError, match=r"peft does not load it"):
        export(tmp_path, small_vocabulary, "peft", {})
