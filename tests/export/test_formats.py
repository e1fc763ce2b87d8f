"""Each format is read back before it is believed, and said to weigh what it weighs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import safetensors.numpy

from coderllm_jax.config.export import ExportConfig
from coderllm_jax.errors import ModelError
from coderllm_jax.export import formats
from coderllm_jax.export.formats import Artifact, bytes_needed, write_format
from tests.export.small_model import SMALL, small_model

pytest.importorskip("gguf")
GGUF_TYPES = ("f32", "q8_0")


def config(**changes):
    return dataclasses.replace(ExportConfig(), gguf_types=GGUF_TYPES, **changes)


def write(folder, vocabulary, wanted, *, base_is_multimodal=False):
    return write_format(
        wanted,
        folder,
        small_model(vocabulary),
        config(),
        name="m",
        base="org/base",
        base_is_multimodal=base_is_multimodal,
    )


def test_what_is_written_are_folders_and_a_gguf_for_each_type(tmp_path, small_vocabulary):
    for wanted in ("huggingface", "keras", "peft"):
        folder = tmp_path / wanted
        folder.mkdir()
        assert write(folder, small_vocabulary, wanted) == [Artifact(wanted, folder, "float32")]
    found = write(tmp_path, small_vocabulary, "gguf")
    names = ["m-f32.gguf", "m-q8_0.gguf"]
    assert [(each.name, each.path) for each in found] == [(name, tmp_path / name) for name in names]
    assert [each.is_rounded for each in found] == [False, True]
    assert all(each.path.is_file() for each in found)


def test_an_adapter_is_for_the_base_that_it_names(tmp_path, small_vocabulary):
    write(tmp_path, small_vocabulary, "peft", base_is_multimodal=True)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "org/base"
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert all(".language_model.layers." in name for name in tensors)


@pytest.mark.parametrize("wanted", ["huggingface", "keras", "peft", "gguf"])
def test_every_format_is_read_back(tmp_path, small_vocabulary, monkeypatch, wanted):
    """What lies there is another model than was given out, as if the disk had changed it."""
    writer = getattr(formats, f"write_{wanted}")

    def write_another(place, model, **more):
        writer(place, dataclasses.replace(model, scale=1.01 * model.scale), **more)

    monkeypatch.setattr(formats, f"write_{wanted}", write_another)
    with pytest.raises(ModelError, match="does not read back"):
        write(tmp_path, small_vocabulary, wanted)


def test_what_an_export_weighs_is_known_before():
    a_layer = 4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64 + 4 * 32 + 2 * 8
    weights = 7 * a_layer + 352 * 32 + 32
    for changes, per_weight in (
        ({"formats": ("huggingface",)}, 4),
        ({"formats": ("huggingface", "keras"), "dtype": "bfloat16"}, 2 + 2),
        ({"formats": ("gguf",)}, 4 + 34 / 32),
        ({"formats": ("peft",)}, 4),  # its base, to prove it on
        ({"formats": ("peft",), "verify": False}, 0),
    ):
        assert bytes_needed(SMALL, config(**changes)) == round(weights * per_weight), changes
