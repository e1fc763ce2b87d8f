"""Files from anywhere are numbers and arrays, or they are refused: nothing in them ever runs.

Every case plants something that would create a file called `pwned` if it were unpickled, imported,
rebuilt or followed, loads the model by its public name, and looks for that file. What is refused
ends in one line; what is harmless in itself (remote code beside good weights) is passed over.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import jax
import kagglehub
import keras_hub
import numpy as np
import pytest
import safetensors.numpy

from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.errors import ModelError, UserError
from coderllm_jax.model import keras_bridge, keras_folder
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.model.tiny import random_leaves
from coderllm_jax.model.weights import place
from tests.model.test_gguf import write_gguf
from tests.model.test_huggingface import CONFIG, huggingface_tensors
from tests.model.test_presets import SAVED

# Keras 3.15 saves a variable through an __array__ that numpy 2 finds old-fashioned, and KerasHub
# 0.32 leaves a tokenizer's file to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Payload:
    """Unpickled, it creates the file."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


@pytest.fixture
def pwned(tmp_path) -> Path:
    return tmp_path / "pwned"


def load(name: object, tmp_path: Path):
    return load_model(str(name), dtype="float32", cache_dir=str(tmp_path / "cache"))


def refused(name: object, tmp_path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_the_payload_is_one(pwned):
    """Or every other test here would pass for nothing."""
    pickle.loads(pickle.dumps(Payload(pwned)))
    assert pwned.exists()


# ------------------------------------------------------------------------------------ single files


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.pt", "m.bin", "m.npy", "m.zip", "m.tar"])
def test_a_file_for_a_model_is_not_opened(tmp_path, pwned, name):
    path = tmp_path / name
    if name.endswith((".keras", ".zip")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../pwned", "out")
            archive.writestr("config.json", json.dumps({"class_name": "Lambda"}))
    elif name.endswith(".tar"):
        with tarfile.open(path, "w") as archive:
            archive.add(__file__, arcname="../pwned")
    elif name.endswith(".npy"):
        np.save(path, np.array([Payload(pwned)], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Payload(pwned)))
    refused(path, tmp_path, "is a file, which is not opened")


# ----------------------------------------------------------------------------- Hugging Face folders


@pytest.fixture
def folder(tmp_path, small_vocabulary) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    tensors = huggingface_tensors(dict(random_leaves(TINY, seed=0)))
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.model").write_bytes(build_sentencepiece(*small_vocabulary))
    return path


def test_remote_code_and_pickles_beside_good_weights_are_passed_over(folder, tmp_path, pwned):
    code = f"import pathlib\npathlib.Path({str(pwned)!r}).touch()\n"
    for name in ("modeling_gemma.py", "configuration_gemma.py", "tokenization_gemma.py"):
        (folder / name).write_text(code)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(pwned)))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Payload(pwned)))
    remote = {
        "auto_map": {"AutoConfig": "configuration_gemma.C", "AutoModel": "modeling_gemma.M"},
        "custom_pipelines": {"x": {"impl": "modeling_gemma.M"}},
        "trust_remote_code": True,
    }
    (folder / "config.json").write_text(json.dumps(CONFIG | remote))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_gemma.T", None]}})
    )
    assert load(folder, tmp_path).weights["embedding"].shape == (512, 32)
    assert not pwned.exists()


def test_a_pickle_named_safetensors_is_refused(folder, tmp_path, pwned):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(pwned)))
    refused(folder, tmp_path, "not a safetensors file")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [16], "data_offsets": [0, 2**63]},
        {"dtype": "F32", "shape": [16], "data_offsets": [-64, 0]},
        {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]},
        {"dtype": "O", "shape": [16], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": "16", "data_offsets": [0, 64]},
        {"dtype": "F32"},
        "F32",
        None,
    ],
)
def test_a_wild_safetensors_header_is_refused(folder, tmp_path, entry):
    header = json.dumps({"model.norm.weight": entry}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(64)
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, tmp_path, "not a safetensors file")


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1])
def test_a_wild_safetensors_header_length_is_refused(folder, tmp_path, length):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    refused(folder, tmp_path, "not a safetensors file")


# --------------------------------------------------------------------------------- Keras' folders


@pytest.fixture(scope="module")
def keras_preset(tmp_path_factory, small_vocabulary) -> Path:
    """Written by KerasHub itself, in shards as large presets are."""
    path = tmp_path_factory.mktemp("keras") / "preset"
    weights = place(random_leaves(SAVED, seed=0), SAVED, dtype="float32")
    backbone = keras_bridge.to_keras_hub(SAVED, weights)
    backbone.save_to_preset(str(path), max_shard_size=0.0002)
    assert len(list(path.glob("*.h5"))) > 1
    tokenizer = keras_hub.models.Gemma3Tokenizer(proto=build_sentencepiece(*small_vocabulary))
    tokenizer.save_to_preset(str(path))
    return path


@pytest.fixture
def preset(keras_preset, tmp_path) -> Path:
    return Path(shutil.copytree(keras_preset, tmp_path / "preset"))


def assert_is_saved(model) -> None:
    expected = place(random_leaves(SAVED, seed=0), SAVED, dtype="float32")
    assert model.architecture == SAVED
    jax.tree.map(np.testing.assert_array_equal, model.weights, expected)


def edit(preset: Path, change) -> None:
    config = json.loads((preset / "config.json").read_text())
    change(config)
    (preset / "config.json").write_text(json.dumps(config))


def test_a_preset_in_shards_comes_back(preset, tmp_path):
    assert_is_saved(load(preset, tmp_path))


def test_what_a_config_names_is_never_imported(preset, tmp_path, pwned, monkeypatch):
    """Module, registered name and nested objects are only words; the numbers are what counts."""
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(pwned)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    touch = {
        "module": "evil",
        "class_name": "Lambda",
        "registered_name": "evil>Lambda",
        "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}},
    }

    def change(config):
        config |= {"module": "evil", "registered_name": "evil>Gemma3Backbone"}
        config["config"] |= {"dtype": touch, "vision_encoder": touch, "custom_objects": touch}

    edit(preset, change)
    assert_is_saved(load(preset, tmp_path))
    assert "evil" not in sys.modules
    assert not pwned.exists()


@pytest.mark.parametrize("name", ["Lambda", "Functional", "Sequential", "system", None, ["x"]])
def test_another_class_is_refused(preset, tmp_path, name):
    edit(preset, lambda config: config.update(class_name=name))
    refused(preset, tmp_path, "neither model_type nor class_name")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", 2**40),
        ("num_layers", -1),
        ("num_layers", True),
        ("hidden_dim", "32"),
        ("hidden_dim", {"class_name": "Lambda"}),
        ("head_dim", 1e9),
        ("vocabulary_size", None),
        ("layer_norm_epsilon", float("nan")),
        ("sliding_window_size", []),
    ],
)
def test_wild_numbers_are_refused(preset, tmp_path, key, value):
    edit(preset, lambda config: config["config"].update({key: value}))
    refused(preset, tmp_path, "config.json: .*(expected|missing)")


QUERY = "layers/gemma3_decoder_block/attention/query_dense/vars"


@pytest.fixture
def whole_preset(preset, tmp_path) -> Path:
    """The same in one file."""
    weights = place(random_leaves(SAVED, seed=0), SAVED, dtype="float32")
    keras_bridge.to_keras_hub(SAVED, weights).save_weights(str(preset / "model.weights.h5"))
    assert_is_saved(load(preset, tmp_path))
    return preset


def replace_query(preset: Path, make) -> None:
    with h5py.File(preset / "model.weights.h5", "r+") as file:
        values = file[QUERY]["0"][()]
        del file[QUERY]["0"]
        make(file[QUERY], values)


def external_link(group, values) -> None:
    with h5py.File(Path(group.file.filename).with_name("other.h5"), "w") as other:
        other["x"] = values
    group["0"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(group, values) -> None:
    group.file["elsewhere"] = values
    group["0"] = h5py.SoftLink("/elsewhere")


def external_storage(group, values) -> None:
    path = Path(group.file.filename).with_name("raw")
    path.write_bytes(values.tobytes())
    group.create_dataset("0", values.shape, values.dtype, external=[(str(path), 0, values.nbytes)])


def virtual(group, values) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", values.shape)
    group.create_virtual_dataset("0", layout)


def filtered(group, values) -> None:
    group.create_dataset("0", data=values, compression="gzip")


def objects(group, values) -> None:
    group.create_dataset(
        "0", data=np.array([b"x" * 8] * 4, dtype=object), dtype=h5py.string_dtype()
    )


def never_written(group, values) -> None:
    group.create_dataset("0", (4, 32, 8), np.float32)


def another_shape(group, values) -> None:
    group.create_dataset("0", data=values[:, :16])


def a_group(group, values) -> None:
    group.create_group("0")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_link, "a link to elsewhere"),
        (soft_link, "a link to elsewhere"),
        (external_storage, "not stored whole"),
        (virtual, "not stored whole"),
        (filtered, "not stored whole"),
        (objects, "expected floats"),
        (never_written, "not stored whole"),
        (another_shape, "has shape"),
        (a_group, "missing"),
    ],
)
def test_arrays_are_taken_from_the_file_itself_alone(whole_preset, tmp_path, make, message):
    replace_query(whole_preset, make)
    refused(whole_preset, tmp_path, message)


def test_a_linked_folder_on_the_way_is_not_followed(whole_preset, tmp_path):
    with h5py.File(whole_preset / "model.weights.h5", "r+") as file:
        file.move("layers", "moved")
        file["layers"] = h5py.SoftLink("/moved")
    refused(whole_preset, tmp_path, "a link to elsewhere")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "x.pkl", 5, {"a": 1}])
def test_an_index_names_files_beside_it_alone(preset, tmp_path, name):
    (preset / "model.weights.json").write_text(json.dumps({"weight_map": {"a": [name]}}))
    refused(preset, tmp_path, "names .*expected files beside it")


def test_a_preset_comes_from_kaggle_file_by_file(keras_preset, tmp_path, monkeypatch):
    """Its client is asked for named files; no archive is unpacked, nothing is rebuilt by Keras."""
    asked = []

    def download(handle, path):
        asked.append((handle, path))
        if not (keras_preset / path).exists():
            raise ValueError(f"{path} is not present in the model files")
        return str(keras_preset / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    monkeypatch.setattr(keras_hub.models.Gemma3Backbone, "from_preset", None)
    model = load("gemma3_1b", tmp_path)
    assert_is_saved(model)
    assert model.source == "KerasHub preset gemma3_1b"
    assert {handle.split("/")[0] for handle, _ in asked} == {"keras"}
    shards = [path.name for path in sorted(keras_preset.glob("*.h5"))]
    assert [path for _, path in asked] == [
        keras_folder.CONFIG,
        keras_folder.TOKENIZER,
        keras_folder.WEIGHTS,
        keras_folder.INDEX,
        *shards,
    ]


def test_keras_is_not_even_imported_for_a_folder(preset, tmp_path):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'torch', 'keras', 'keras_hub', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "from coderllm_jax.model.load import load_model\n"
        f"load_model({str(preset)!r}, dtype='float32', cache_dir={str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# ---------------------------------------------------------------------------------- random damage


def damaged(content: bytes, generator: random.Random, limit: int) -> bytes:
    """A few bytes of the first `limit` changed, or a piece cut out."""
    spoiled = bytearray(content)
    for _ in range(generator.choice((1, 2, 8))):
        spoiled[generator.randrange(min(limit, len(spoiled)))] = generator.choice(
            (0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256))
        )
    if generator.random() < 0.2:
        start = generator.randrange(limit)
        del spoiled[start : start + generator.randrange(1, 64)]
    return bytes(spoiled)


def survives(path: Path, name: object, tmp_path: Path, *, rounds: int, limit: int) -> int:
    """Loads a file damaged in many ways: each ends well or with a UserError; counts the latter."""
    content, refusals = path.read_bytes(), []
    for seed in range(rounds):
        path.write_bytes(damaged(content, random.Random(seed), limit))
        try:
            load(name, tmp_path)
        except UserError as error:
            refusals.append(str(error))
    assert not [line for line in refusals if "\n" in line]
    return len(refusals)


def test_random_damage_to_a_gguf_header(tmp_path, small_vocabulary):
    path = write_gguf(tmp_path / "m.gguf", small_vocabulary)
    assert survives(path, f"gguf:{path}", tmp_path, rounds=150, limit=9000) > 75


def test_random_damage_to_a_safetensors_header(folder, tmp_path):
    assert survives(folder / "model.safetensors", folder, tmp_path, rounds=150, limit=3000) > 75


def test_random_damage_to_an_hdf5_file(whole_preset, tmp_path):
    path = whole_preset / "model.weights.h5"
    survives(path, whole_preset, tmp_path, rounds=100, limit=6000)


def test_random_damage_to_a_tokenizer(folder, tmp_path):
    survives(folder / "tokenizer.model", folder, tmp_path, rounds=100, limit=3000)
