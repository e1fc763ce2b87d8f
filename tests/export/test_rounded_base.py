"""What is exported of an adapter that was trained on rounded kernels (`lora.base`)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coderllm_jax.config.export import ExportConfig
from coderllm_jax.errors import ModelError
from coderllm_jax.export import exporting, verification
from coderllm_jax.export.exporting import export_model
from coderllm_jax.generation.trained import load_trained
from coderllm_jax.model.load import load_model
from coderllm_jax.model.lora import PRODUCTS
from coderllm_jax.model.precision import FLOAT32
from coderllm_jax.model.quantization import dequantize, quantize_kernel
from tests.export.small_model import ALPHA, RANK, honest_loader, small_adapters, write_trained

KEPT = ("key",)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, small_vocabulary):
    """An adapter whose config says what a run with lora.base=nf4 writes."""
    folder = write_trained(tmp_path_factory.mktemp("rounded"), small_vocabulary)
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text()) | {"base": "nf4", "base_int8": list(KEPT)}
    file.write_text(json.dumps(content))
    return folder


def config_for(adapter, out, **changes):
    config = ExportConfig.create_default()
    values = {"model_path": str(adapter), "out": str(out), "formats": ("huggingface",), **changes}
    config.update(values)
    return ExportConfig.from_config_dict(config)


def test_adapters_are_merged_into_the_kernels_they_were_trained_on(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "check_loaders", lambda formats: None)
    monkeypatch.setattr(verification, "_ask", honest_loader)
    export_model(config_for(adapter, tmp_path / "out"))
    exported = load_trained(
        str(tmp_path / "out" / "huggingface"), precision=FLOAT32, cache_dir="unused"
    )
    base = load_model(str(adapter.parent / "base"), dtype="float32", cache_dir="unused")
    for name, delta in small_adapters().items():
        code = quantize_kernel(base.weights["blocks"][name], base="int8" if name in KEPT else "nf4")
        product = np.einsum("n...r,nrk->n...k", delta["a"], delta["b"])
        expected = dequantize(code, FLOAT32.weights) + ALPHA / RANK * product
        np.testing.assert_allclose(exported.weights["blocks"][name], expected, atol=1e-5)
    assert set(small_adapters()) == set(PRODUCTS)
    card = (tmp_path / "out" / "huggingface" / "README.md").read_text()
    assert "rounded to nf4 (key: int8)" in card
    assert "merged into those rounded kernels" in card


def test_a_card_of_a_float_base_says_nothing_of_rounding(tmp_path, small_vocabulary, monkeypatch):
    monkeypatch.setattr(exporting, "check_loaders", lambda formats: None)
    monkeypatch.setattr(verification, "_ask", honest_loader)
    (tmp_path / "plain").mkdir()
    export_model(config_for(write_trained(tmp_path / "plain", small_vocabulary), tmp_path / "out"))
    assert "rounded kernels" not in (tmp_path / "out" / "huggingface" / "README.md").read_text()


def test_an_adapter_alone_is_refused(adapter, tmp_path):
    """No published base has these kernels: put onto one, it would answer otherwise."""
    with pytest.raises(ModelError, match=r"formats has peft, .* nf4 kernels, .* drop peft"):
        export_model(config_for(adapter, tmp_path / "out", formats=("peft",), verify=False))
