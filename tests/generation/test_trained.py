"""One path, one model: runs, checkpoints, adapters and folders, and what is wrong with others."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.errors import ModelError, RunError
from coderllm_jax.generation.trained import find_place, load_trained
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32
from coderllm_jax.model.quantization import dequantize, quantize_kernel
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.train import train_model
from coderllm_jax.training.checkpoint import read_trainable
from tests.model.test_huggingface import CONFIG, huggingface_tensors

ROWS = [{"question": f"What is {n}?", "answer": f"{n} is {n + 1} minus one."} for n in range(12)]


def make_run(folder, **changes):
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = TrainingConfig.create_default()
    config.update(
        model_name="tiny", steps=4, workdir=str(folder / "run"), learning_rate=0.05, batch_size=2
    )
    config.data.path = str(rows)
    config.checkpoint.every_steps = 2
    config.checkpoint.keep_latest = 3
    config.evaluation.every_steps = 2
    config.logging.clu = config.logging.progress = False
    config.lora.update(changes)
    train_model(config)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("lora"))


def load(path, cache="/nonexistent"):
    return load_trained(str(path), precision=FLOAT32, cache_dir=str(cache))


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def test_a_run_its_adapter_and_the_checkpoint_it_is_from_are_one_model(run):
    by_run, by_adapter = load(run), load(run / "adapter")
    step = json.loads((run / "adapter" / "adapter_config.json").read_text())["step"]
    by_step = load(run / "checkpoints" / str(step))
    by_steps = load(run / "checkpoints")
    for other in (by_adapter, by_step, by_steps):
        assert same(other.adapters, by_run.adapters)
        assert other.options == by_run.options
        assert (other.name, other.run) == ("run", run)
    assert by_run.knows_turns
    assert by_run.options.lora_scale == 1.0
    assert np.abs(by_run.adapters["query"]["b"]).max() > 0


def test_another_step_is_another_model(run):
    first, last = (load(run / "checkpoints" / step) for step in ("2", "4"))
    assert not same(first.adapters, last.adapters)
    assert first.identity != last.identity


def test_an_adapter_may_lie_anywhere(run, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "mine")
    found = load(tmp_path / "mine")
    assert same(found.adapters, load(run).adapters)
    assert (found.name, found.run) == ("mine", None)


def test_a_run_without_an_adapter_is_its_best_checkpoint(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "adapter")
    assert same(load(copy).adapters, load(run).adapters)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="neither an adapter nor a checkpoint yet"):
        load(copy)


@pytest.mark.long
def test_a_run_on_rounded_kernels_answers_with_them(tmp_path):
    """Kernels are those that the run's codes stand for; nothing else differs from the model."""
    run = make_run(tmp_path, base="nf4", base_int8=("value",))
    plain = load_model("tiny", dtype="float32", cache_dir="unused").weights
    for place in (run, run / "adapter", run / "checkpoints"):
        found = load(place)
        for name, kernel in found.weights["blocks"].items():
            expected = plain["blocks"][name]
            if name in PRODUCTS:
                base = "int8" if name == "value" else "nf4"
                expected = dequantize(quantize_kernel(expected, base=base), FLOAT32.weights)
            np.testing.assert_array_equal(kernel, expected)
        np.testing.assert_array_equal(found.weights["embedding"], plain["embedding"])
        assert found.identity["trained"]["base"] == "nf4"
        assert found.identity["trained"]["base_int8"] == ["value"]
    assert "base" not in load("tiny").identity


def test_a_run_from_before_there_was_another_base_has_floats(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for file in (copy / "adapter" / "adapter_config.json", copy / "config.json"):
        content = json.loads(file.read_text())
        for section in (content, content.get("lora", {})):
            section.pop("base", None)
            section.pop("base_int8", None)
        file.write_text(json.dumps(content))
    for place in (copy, copy / "checkpoints"):
        assert same(load(place).weights, load("tiny").weights)


def test_full_fine_tuning_replaces_the_weights(tmp_path):
    run = make_run(tmp_path, enabled=False)
    found, base = load(run), load("tiny")
    assert found.adapters == {}
    assert not same(found.weights, base.weights)
    assert same(found.weights, read_trainable(run / "checkpoints" / "4")) or same(
        found.weights, read_trainable(run / "checkpoints" / "2")
    )


def test_a_model_by_name_is_itself():
    found = load("tiny")
    assert (found.name, found.adapters, found.knows_turns, found.run) == ("tiny", {}, False, None)


@pytest.mark.parametrize("knows_turns", [False, True])
def test_an_exported_folder_is_a_model_and_its_template_says_what_it_knows(
    tmp_path, small_vocabulary, knows_turns
):
    folder = tmp_path / "exported"
    folder.mkdir()
    tensors = huggingface_tensors(dict(random_leaves(TINY, seed=0)))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.model").write_bytes(build_sentencepiece(*small_vocabulary))
    template = {"chat_template": "{{ bos_token }}"} if knows_turns else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(template))
    found = load(folder)
    assert same(found.weights["blocks"], load("tiny").weights["blocks"])
    assert (found.adapters, found.run, found.knows_turns) == ({}, None, knows_turns)


def test_an_adapter_of_other_weights_is_refused(run, tmp_path):
    copy = shutil.copytree(run / "adapter", tmp_path / "adapter")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, "model_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="trained on other weights than tiny"):
        load(copy)


def test_damage_is_refused_and_nothing_is_moved(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    file = next(
        path
        for path in (copy / "checkpoints" / "4").rglob("*")
        if path.is_file() and path.name != "integrity.json" and path.stat().st_size > 50
    )
    data = bytearray(file.read_bytes())
    data[25] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RunError, match="cannot be used"):
        load(copy / "checkpoints" / "4")
    assert (copy / "checkpoints" / "4").is_dir()


def test_a_checkpoint_away_from_its_run_is_refused(run, tmp_path):
    copy = shutil.copytree(run / "checkpoints" / "4", tmp_path / "somewhere" / "4")
    with pytest.raises(RunError, match="without its run"):
        load(copy)


@pytest.mark.parametrize("path", ["runs/none", "no/adapter", "no/such/"])
def test_a_run_that_is_not_there_is_said_to_be_missing(path):
    with pytest.raises(RunError, match="train first"):
        find_place(path)


@pytest.mark.parametrize(
    ("name", "is_instructed"),
    [("hf://google/gemma-3-1b-it", True), ("gemma3_instruct_1b", True), ("gemma3_1b", False)],
)
def test_makers_say_by_the_name_whether_a_model_knows_turns(name, is_instructed):
    from coderllm_jax.generation.trained import _is_instructed

    assert _is_instructed(name) is is_instructed
