"""A run on kernels that were rounded on its own rows: made once, kept, and found again."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from coderllm_jax.config import TrainingConfig
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import ConfigError, ModelError, ResumableError, RunError
from coderllm_jax.generation.trained import load_trained
from coderllm_jax.model.load import load_model, open_model
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32, PRECISIONS
from coderllm_jax.model.quantization import BaseFormat, dequantize_weights
from coderllm_jax.model.rounded_file import open_kernels
from coderllm_jax.train import train_model
from coderllm_jax.training import calibrated
from coderllm_jax.training.calibrated import calibrated_kernels, first_rows
from coderllm_jax.training.inputs import read_inputs
from coderllm_jax.training.run_folder import RunFolder


def card(folder, **lora):
    rows = folder / "rows.jsonl"
    texts = [
        {"question": f"What is {n}?", "answer": f"{n} is {n + 1} less one."} for n in range(60)
    ]
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in texts))
    config = TrainingConfig.create_default()
    config.update(model_name="tiny", steps=2, workdir=str(folder / "run"))
    config.data.update(path=str(rows), sequence_length=64)
    config.evaluation.update(samples=0, max_items=4)
    config.lora.update(base="nf4", base_rounding="calibrated", base_tokens=6 * 64, **lora)
    config.step.precision = "float32"
    config.logging.update(clu=False, progress=False)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train_model(card(folder))
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def again(folder, **changes):
    config = card(folder)
    config.update_from_flattened_dict({"steps": 3, **changes})
    train_model(config)


def load(path):
    return load_trained(str(path), precision=FLOAT32, cache_dir="unused")


def test_what_was_trained_on_is_what_answers(folder):
    """The file's kernels, whether run, adapter or checkpoint is named; not the nearest levels."""
    run = RunFolder(folder / "run")
    base = BaseFormat("nf4")
    kernels = open_kernels(run.kernels)
    exact = load_model("tiny", dtype="float32", cache_dir="unused", base=base, kernels=kernels)
    expected = dequantize_weights(exact.weights, FLOAT32.weights)["blocks"]
    nearest = load_model("tiny", dtype="float32", cache_dir="unused", base=base)
    for place in (run.path, run.adapter, run.checkpoints):
        found = load(place)
        for name in PRODUCTS:
            np.testing.assert_array_equal(found.weights["blocks"][name], expected[name])
            assert np.any(
                exact.weights["blocks"][name].codes != nearest.weights["blocks"][name].codes
            )
    adapter = json.loads((run.adapter / "adapter_config.json").read_text())
    assert found.identity["trained"]["kernels_sha256"] == adapter["kernels_sha256"]


def test_a_run_goes_on_with_the_kernels_it_has(folder):
    run = RunFolder(folder / "run")
    before = run.kernels.read_bytes(), run.kernels.stat().st_mtime_ns
    again(folder)
    assert (run.kernels.read_bytes(), run.kernels.stat().st_mtime_ns) == before


def test_a_run_goes_on_with_them_where_numbers_have_another_format(folder):
    """`step.precision=auto` is another format on another kind of device."""
    config = TrainingConfig.from_config_dict(card(folder))
    opened = open_model("tiny", dtype="float32", cache_dir="unused")
    _, sha256 = calibrated_kernels(
        config,
        RunFolder(folder / "run"),
        opened,
        read_inputs(config, opened.tokenizer, None),
        base=BaseFormat("nf4"),
        precision=PRECISIONS["bfloat16"],
        note=pytest.fail,
    )
    adapter = json.loads((folder / "run" / "adapter" / "adapter_config.json").read_text())
    assert sha256 == adapter["kernels_sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora.base_tokens": 400}, "base_tokens was 384, is 400"),
        ({"lora.base": "int4"}, "base was 'nf4', is 'int4'"),
        ({"lora.base_int8": ("key",)}, r"base_int8 was \[\], is \['key'\]"),
        ({"lora.base_rounding": "nearest"}, "lora.base_rounding was 'calibrated', is None"),
    ],
)
def test_another_rounding_is_another_run_and_takes_nothing_from_it(folder, changes, said):
    before = (folder / "run" / "kernels.safetensors").read_bytes()
    with pytest.raises(RunError, match=f"holds another run and cannot be continued: .*{said}"):
        again(folder, **changes)
    assert (folder / "run" / "kernels.safetensors").read_bytes() == before


def test_a_run_that_has_lost_them_says_so(folder):
    (folder / "run" / "kernels.safetensors").unlink()
    with pytest.raises(RunError, match=r"kernels\.safetensors is missing, on which"):
        again(folder)
    with pytest.raises(RunError, match=r"kernels that its run rounded, .*copy the file"):
        load(folder / "run")


def test_without_a_run_other_kernels_are_replaced(folder):
    """A first start that was stopped before its manifest, and another one with other rows."""
    run = RunFolder(folder / "run")
    before = run.kernels.read_bytes()
    for path in run.path.iterdir():
        if path != run.kernels:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again(folder, **{"steps": 1, "lora.base_tokens": 100})
    assert run.kernels.read_bytes() != before
    assert open_kernels(run.kernels).origin["base_tokens"] == 100


def test_another_start_waits_for_nobody_and_touches_nothing(folder):
    """The folder is this run's while it rounds; a second one would write into the same file."""
    run = RunFolder(folder / "run")
    run.kernels.unlink()
    with run.locked(), pytest.raises(RunError, match="in use by another run"):
        again(folder)
    assert not list(run.path.glob("*kernels*"))


def test_a_run_on_nearest_levels_goes_on_as_that_alone(tmp_path):
    config = card(tmp_path)
    config.update_from_flattened_dict({"steps": 1, "lora.base_rounding": "nearest"})
    train_model(config)
    with pytest.raises(RunError, match="base_rounding was 'nearest', is 'calibrated'"):
        again(tmp_path)


def test_floats_are_not_rounded(tmp_path):
    with pytest.raises(ConfigError, match=r"base_rounding is calibrated and lora\.base is float"):
        again(tmp_path, **{"lora.base": "float"})


def test_a_signal_is_obeyed_between_layers(tmp_path):
    """What says how far it is may end it, and leaves no half of a file."""
    folder = RunFolder(tmp_path)
    config = TrainingConfig.from_config_dict(card(tmp_path))
    opened = open_model("tiny", dtype="float32", cache_dir="unused")
    inputs = read_inputs(config, opened.tokenizer, None)

    def note(text):
        if "layer 2" in text:
            raise ResumableError(text)

    base = BaseFormat("nf4")
    with pytest.raises(ResumableError, match=r"rounding layer 2 of \d+ to nf4"):
        calibrated_kernels(config, folder, opened, inputs, base=base, precision=FLOAT32, note=note)
    assert not list(tmp_path.glob("*kernels*"))


def test_long_rows_are_cut_to_their_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrated, "_LONGEST_ROW", 16)
    monkeypatch.setattr(calibrated, "_BATCH_TOKENS", 40)
    config = TrainingConfig.from_config_dict(card(tmp_path))
    rows = read_inputs(config, ByteTokenizer(), None).rows
    batches = first_rows(rows, 47)
    assert [batch.inputs.shape for batch in batches] == [(2, 16), (1, 16)]
    np.testing.assert_array_equal(batches[1].segments[0], rows[2].segments[:16])
    assert len(np.concatenate([batch.inputs for batch in first_rows(rows, 10**9)])) == len(
        rows.plan(0)
    )


def test_a_copied_adapter_takes_the_file_along(folder, tmp_path):
    copy = shutil.copytree(folder / "run" / "adapter", tmp_path / "adapter")
    with pytest.raises(RunError, match=f"there is no {copy}/kernels.safetensors; copy the file"):
        load(copy)
    shutil.copy(folder / "run" / "kernels.safetensors", copy)
    found = load(copy)
    jax.tree.map(np.testing.assert_array_equal, found.weights, load(folder / "run").weights)


def test_damaged_kernels_are_not_taken(folder):
    file = folder / "run" / "kernels.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RunError, match="damaged or another run's"):
        load(folder / "run")
    with pytest.raises(RunError, match=r"lora\.kernels_sha256 was"):
        again(folder)
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a file of rounded kernels"):
        again(folder)


def test_kernels_of_8_bits_have_nothing_to_gain(tmp_path):
    config = card(tmp_path)
    config.lora.base = "int8"
    config.steps = 1
    train_model(config)
    assert not (tmp_path / "run" / "kernels.safetensors").exists()
