"""The command's order: nothing under its final name that is not whole and proven.

The libraries that artifacts are proven by are played by our own readers here; that they agree in
fact is tests/export/test_loaders.py (marked `peers`) and benchmarks/export.py.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax import entry
from coderllm_jax.config.export import ExportConfig
from coderllm_jax.errors import ConfigError, DeviceError, ModelError, ResumableError
from coderllm_jax.export import exporting, formats, placing, reading_back, verification
from coderllm_jax.export.__main__ import main
from coderllm_jax.export.exporting import export_model
from coderllm_jax.generation.trained import load_trained
from coderllm_jax.model.lora import merge_adapters
from coderllm_jax.model.precision import FLOAT32
from tests.export.small_model import ALPHA, KINDS, RANK, honest_loader, write_trained

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, small_vocabulary):
    """An adapter on a small model, as a path that may be exported."""
    return write_trained(tmp_path_factory.mktemp("trained"), small_vocabulary)


@pytest.fixture
def proven(monkeypatch):
    """Every library is installed, and answers as an honest one would."""
    monkeypatch.setattr(exporting, "check_loaders", lambda formats: None)
    monkeypatch.setattr(verification, "_ask", honest_loader)


def config_for(adapter, out, **changes):
    config = ExportConfig.create_default()
    values = {"model_path": str(adapter), "out": str(out), "formats": ("huggingface",), **changes}
    config.update(values)
    return ExportConfig.from_config_dict(config)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_export_is_the_merge_and_may_be_loaded_by_its_path(adapter, tmp_path, proven):
    result = export_model(config_for(adapter, tmp_path / "out", formats=("huggingface", "keras")))
    trained = load_trained(str(adapter), precision=FLOAT32, cache_dir="/nonexistent")
    merged = merge_adapters(trained.weights["blocks"], trained.adapters, scale=ALPHA / RANK)
    for wanted in ("huggingface", "keras"):
        folder = result.folders[wanted]
        assert folder == tmp_path / "out" / wanted
        found = load_trained(str(folder), precision=FLOAT32, cache_dir="/nonexistent")
        assert not found.adapters
        for name, values in merged.items():
            np.testing.assert_allclose(found.weights["blocks"][name], values, atol=1e-6)
        np.testing.assert_array_equal(found.weights["embedding"], trained.weights["embedding"])
    # A chat template says that it knows turns; a Keras folder has no place for one.
    assert load_trained(
        str(result.folders["huggingface"]), precision=FLOAT32, cache_dir="/nonexistent"
    ).knows_turns
    assert names(tmp_path / "out") == ["huggingface", "keras"]


def test_the_card_and_the_record_say_what_was_found(adapter, tmp_path, proven):
    result = export_model(config_for(adapter, tmp_path / "out", base_model="org/base"))
    record = json.loads((result.folders["huggingface"] / "export.json").read_text())
    found = record["verification"]["huggingface"]
    assert found["program"]["difference"] < 1e-3
    assert found["num_texts"] == 5
    assert record["identity"]["trained"]["step"] == 4
    card = (result.folders["huggingface"] / "README.md").read_text()
    assert "base_model: org/base" in card
    assert "license: gemma" in card
    assert "Gemma is provided under and subject to the Gemma Terms of Use" in card
    assert f"differ from coderllm_jax's by at most {found['program']['difference']:.2g}" in card
    assert "UNVERIFIED" not in card
    notice = (result.folders["huggingface"] / "NOTICE").read_text()
    assert "ai.google.dev/gemma/terms" in notice


# ------------------------------------------------------------------- what is not the model


def flip(folder: Path) -> None:
    """Changes the sign of one whole tensor of a Hugging Face folder."""
    (file,) = folder.glob("*.safetensors")
    tensors = safetensors.numpy.load_file(file)
    tensors["model.layers.2.self_attn.q_proj.weight"] *= -1
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


def after(function, change):
    """`function`, and then a change to the folder it wrote."""

    @functools.wraps(function)
    def wrapped(folder, *args, **kwargs):
        function(folder, *args, **kwargs)
        change(folder)

    return wrapped


def run_command(adapter, out, *words):
    """The command in this process: its exit code."""
    argv = ["export", f"--config.model_path={adapter}", f"--config.out={out}"]
    with pytest.raises(SystemExit) as ended:
        entry.run(main, ExportConfig, "", argv=[*argv, "--config.formats=huggingface", *words])
    return ended.value.code


def test_a_tensor_that_does_not_read_back_deletes_the_artifact(
    adapter, tmp_path, proven, monkeypatch, capsys
):
    monkeypatch.setattr(formats, "write_huggingface", after(formats.write_huggingface, flip))
    assert run_command(adapter, tmp_path / "out") == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "blocks/query of layer 2 does not read back" in line
    assert names(tmp_path / "out") == []


def test_a_tensor_that_only_the_library_reads_differently_deletes_it_too(
    adapter, tmp_path, proven, monkeypatch, capsys
):
    # Behind our reader's back, as a wrong layout or a wrong setting would be.
    monkeypatch.setattr(formats, "check_folder", lambda folder, *args, **kwargs: flip(folder))
    assert run_command(adapter, tmp_path / "out") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "by transformers, logits differ by" in line
    assert names(tmp_path / "out") == []


def test_ids_that_differ_delete_it(adapter, tmp_path, proven, monkeypatch):
    def two_bos(loader, job):
        reply = honest_loader(loader, job)
        reply.text_ids[2].insert(0, reply.text_ids[2][0])
        return reply

    monkeypatch.setattr(verification, "_ask", two_bos)
    with pytest.raises(ModelError, match=r"text 'naïve.*not \[2,"):
        export_model(config_for(adapter, tmp_path / "out"))
    assert names(tmp_path / "out") == []


def test_a_library_that_does_not_load_it_is_quoted_in_one_line(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "check_loaders", lambda formats: None)
    loader = verification.LOADERS["huggingface"]._replace(module="reload_nothing")
    monkeypatch.setitem(verification.LOADERS, "huggingface", loader)
    with pytest.raises(ModelError, match=r"does not load it.*No module named") as caught:
        export_model(config_for(adapter, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "out") == []


def test_rounding_is_measured_apart_from_the_program(adapter, tmp_path, proven):
    result = export_model(config_for(adapter, tmp_path / "out", dtype="bfloat16"))
    found = result.verifications["huggingface"]
    assert found.program.difference < 1e-3
    assert found.rounding.difference > 1e-3


def test_numbers_are_rounded_once_after_the_merge(adapter, tmp_path, proven):
    trained = load_trained(str(adapter), precision=FLOAT32, cache_dir="/nonexistent")
    scale = np.float32(ALPHA / RANK)
    result = export_model(config_for(adapter, tmp_path / "out", dtype="bfloat16"))
    found = load_trained(
        str(result.folders["huggingface"]), precision=FLOAT32, cache_dir="/nonexistent"
    )
    for name, adapted in trained.adapters.items():
        for layer, kernel in enumerate(np.asarray(trained.weights["blocks"][name])):
            a, b = (np.asarray(adapted[part])[layer] for part in ("a", "b"))
            merged = kernel + scale * np.tensordot(a, b, axes=1)
            stored = np.asarray(found.weights["blocks"][name])[layer]
            assert np.array_equal(stored, merged.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_rounding_beyond_its_limit_deletes_it(adapter, tmp_path, proven, monkeypatch):
    narrow = verification.Limits(verification.Limit(1e-6, 1e-12), verification.LIMITS["float32"][1])
    monkeypatch.setitem(verification.LIMITS, "bfloat16", narrow)
    with pytest.raises(ModelError, match="by bfloat16, logits differ by"):
        export_model(config_for(adapter, tmp_path / "out", dtype="bfloat16"))
    assert names(tmp_path / "out") == []


# ------------------------------------------------------------------------- what was there


def test_what_is_there_is_replaced_only_when_told_and_only_by_what_is_proven(
    adapter, tmp_path, proven, monkeypatch
):
    out = tmp_path / "out"
    export_model(config_for(adapter, out))
    (out / "huggingface" / "mark").write_text("the first")
    with pytest.raises(ConfigError, match="is there already; set overwrite=True"):
        export_model(config_for(adapter, out))
    monkeypatch.setattr(formats, "check_folder", lambda folder, *args, **kwargs: flip(folder))
    with pytest.raises(ModelError, match="logits differ"):
        export_model(config_for(adapter, out, overwrite=True))
    assert (out / "huggingface" / "mark").exists()
    monkeypatch.setattr(formats, "check_folder", reading_back.check_folder)
    export_model(config_for(adapter, out, overwrite=True))
    assert not (out / "huggingface" / "mark").exists()
    assert names(out) == ["huggingface"]


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    place = tmp_path / "keras"
    (tmp_path / ".keras.old").mkdir()
    (tmp_path / ".keras.old" / "mark").touch()
    with placing.held(tmp_path, ["keras"]):
        assert (place / "mark").exists()
    assert names(tmp_path) == ["keras"]


def test_two_exports_into_one_folder_are_refused(adapter, tmp_path, proven):
    out = tmp_path / "out"
    with placing.held(out, ["keras"]), placing.partial_folder(out / "huggingface") as folder:
        with pytest.raises(ConfigError, match="is being written by another export; wait for it"):
            export_model(config_for(adapter, out))
        assert folder.is_dir()
    export_model(config_for(adapter, out))
    assert names(out) == ["huggingface"]


def test_what_kills_left_goes_whatever_is_exported_next(adapter, tmp_path, proven):
    out = tmp_path / "out"
    for left in (".keras.partial", ".base.partial", ".mine.partial", ".gguf.old"):
        (out / left).mkdir(parents=True)
    export_model(config_for(adapter, out))
    # The earlier GGUF, caught between two renames, is back; what is not ours is not touched.
    assert names(out) == [".mine.partial", "gguf", "huggingface"]


def test_a_signal_leaves_nothing_and_may_be_repeated(adapter, tmp_path, proven, monkeypatch):
    def terminated(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not taken")

    monkeypatch.setattr(formats, "check_folder", terminated)
    with pytest.raises(ResumableError, match=r"SIGTERM; nothing half-written.*starts it again"):
        export_model(config_for(adapter, tmp_path / "out"))
    assert names(tmp_path / "out") == []


def test_a_signal_at_the_last_format_leaves_the_first_one_s_place_free(
    adapter, tmp_path, proven, monkeypatch
):
    config = config_for(adapter, tmp_path / "out", formats=("huggingface", "keras"))

    def terminated_at_keras(loader, job):
        if loader.title == "keras_hub":
            os.kill(os.getpid(), signal.SIGTERM)
        return honest_loader(loader, job)

    monkeypatch.setattr(verification, "_ask", terminated_at_keras)
    with pytest.raises(ResumableError, match="the same command starts it again"):
        export_model(config)
    assert names(tmp_path / "out") == []
    monkeypatch.setattr(verification, "_ask", honest_loader)
    export_model(config)
    assert names(tmp_path / "out") == ["huggingface", "keras"]


def test_what_was_proven_outlives_a_later_format_s_mistake(adapter, tmp_path, proven, monkeypatch):
    def refuses_keras(loader, job):
        if loader.title == "keras_hub":
            raise ModelError("keras_hub does not load it")
        return honest_loader(loader, job)

    monkeypatch.setattr(verification, "_ask", refuses_keras)
    with pytest.raises(ModelError, match="keras_hub does not load it"):
        export_model(config_for(adapter, tmp_path / "out", formats=("huggingface", "keras")))
    assert names(tmp_path / "out") == ["huggingface"]


def test_a_kill_in_the_middle_leaves_no_half_written_model(adapter, tmp_path, proven):
    out = tmp_path / "out"
    program = (
        "import os, sys\n"
        "from coderllm_jax.export import formats\n"
        "from coderllm_jax.export.exporting import export_model\n"
        "formats.check_folder = lambda *args, **kwargs: os.kill(os.getpid(), 9)\n"
        "export_model({'model_path': sys.argv[1], 'out': sys.argv[2],\n"
        "              'formats': ('huggingface',), 'verify': False})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(adapter), str(out)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert names(out) == [".huggingface.partial"]
    export_model(config_for(adapter, out))
    assert names(out) == ["huggingface"]


# ---------------------------------------------------------------- what cannot be written


def test_what_cannot_be_verified_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    found = verification.LOADERS["gguf"]._replace(imports=("no_such_library",))
    monkeypatch.setitem(verification.LOADERS, "gguf", found)
    with pytest.raises(ConfigError, match=r"gguf, which llama\.cpp must verify.*verify=False"):
        export_model(config_for(tmp_path / "nothing", tmp_path / "out", formats=("gguf",)))


def test_unverified_is_said_and_every_tensor_still_read_back(adapter, tmp_path, monkeypatch):
    result = export_model(config_for(adapter, tmp_path / "out", verify=False))
    assert result.verifications == {"huggingface": None}
    assert "UNVERIFIED" in (result.folders["huggingface"] / "README.md").read_text()
    monkeypatch.setattr(formats, "write_huggingface", after(formats.write_huggingface, flip))
    with pytest.raises(ModelError, match="does not read back"):
        export_model(config_for(adapter, tmp_path / "again", verify=False))


def test_an_adapter_s_format_needs_one(adapter, tmp_path):
    base = adapter.parent / "base"
    with pytest.raises(ModelError, match="has no adapter; drop peft"):
        export_model(config_for(base, tmp_path / "out", formats=("peft",), verify=False))


def test_bytes_for_a_tokenizer_are_not_exported(tmp_path):
    with pytest.raises(ModelError, match="tokenizer is bytes"):
        export_model(config_for("tiny", tmp_path / "out", verify=False))


def test_a_gemma_4_is_exported_under_its_own_names(tmp_path, small_vocabulary, proven):
    adapter = write_trained(tmp_path, small_vocabulary, architecture=KINDS["gemma4"])
    result = export_model(config_for(adapter, tmp_path / "out"))
    folder = result.folders["huggingface"]
    template = (folder / "chat_template.jinja").read_text()
    assert "<|turn>user" in template
    assert "start_of_turn" not in template
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "- gemma4" in card
    assert "`<turn|>`" in card
    assert "Terms of Use" not in card
    assert "Apache License, Version 2.0" in (folder / "NOTICE").read_text()


def test_a_full_disk_is_named_before_anything_is_written(adapter, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(placing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DeviceError, match=r"0\.0 GB are free"):
        export_model(config_for(adapter, tmp_path / "out", verify=False))


def test_a_disk_that_fills_up_in_the_middle_is_named_too(adapter, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(formats, "write_keras", full)
    wanted = ("huggingface", "keras")
    with pytest.raises(DeviceError, match=r"out: the disk is full.*nothing half-written is left"):
        export_model(config_for(adapter, tmp_path / "out", formats=wanted, verify=False))
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("formats", [(), ("keras", "keras")])
def test_lists_that_mean_nothing_are_refused(adapter, tmp_path, formats):
    with pytest.raises(ConfigError, match="expected one or more, each once"):
        config_for(adapter, tmp_path, formats=formats)


@pytest.mark.parametrize("name", ["org/model", "../../elsewhere", "two words", ".hidden"])
def test_a_name_that_no_file_can_have_is_refused(adapter, tmp_path, name):
    with pytest.raises(ConfigError, match=f"name is '{name}'.*such as '[a-z]+(-[a-z]+)?'"):
        config_for(adapter, tmp_path, formats=("gguf",), name=name)
    assert config_for(adapter, tmp_path, name="gemma3_270m-1.5").name == "gemma3_270m-1.5"


def test_the_card_loads():
    card = entry.load_card("configs/export.py")
    assert ExportConfig.from_config_dict(card) == ExportConfig()
