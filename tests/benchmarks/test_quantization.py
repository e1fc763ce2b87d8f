"""What `benchmarks.quantization` makes of its figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quantization import (
    activation_table,
    base_table,
    compare,
    cosine,
    first_overflow,
    float16_lines,
    lever_table,
    loading_share,
)

PLAIN = {
    "weights_bytes": 500e6,
    "kernels_bytes": 200e6,
    "kernels_bits": 16.0,
    "tensor_bytes": 300e6,
    "load_peak_bytes": 600e6,
    "step_peak_bytes": 900e6,
    "step_processor_s": 4.0,
    "start_loss": 5.0,
    "later_loss": 5.5,
}
NF4 = PLAIN | {
    "weights_bytes": 350e6,
    "kernels_bytes": 50e6,
    "kernels_bits": 4.25,
    "load_peak_bytes": 975e6,
    "step_processor_s": 5.0,
    "cosine_start": 0.98,
    "cosine_later": 0.96,
}


def test_a_cosine_is_of_all_leaves_together():
    one = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    other = {"b": np.array([[1.0]]), "a": np.array([0.0, 1.0])}
    assert cosine(one, other) == pytest.approx(4 / 5 / 2**0.5)
    assert cosine(one, one) == pytest.approx(1)


def test_ratios_and_their_goals():
    found = {ratio.name: ratio for ratio in compare({"float": PLAIN, "nf4": NF4})}
    assert found["nf4, cosine with float, start"].verdict == "met"
    assert found["nf4, cosine with float, later"].verdict == "missed"
    assert found["nf4, kernels / float"].value == pytest.approx(0.25)
    assert found["nf4, processor time of a step / float"].value == pytest.approx(1.25)
    loading = found["nf4, loading / (weights + a tensor)"]
    assert loading.value == pytest.approx(loading_share(NF4)) == pytest.approx(975 / 650)
    assert loading.verdict == "missed"
    assert compare({"float": PLAIN}) == []


def test_a_base_without_a_cosine_is_shown():
    text = base_table({"float": PLAIN, "nf4": NF4})
    assert "nan" in text.splitlines()[2]
    assert "0.9600" in text.splitlines()[3]


def test_a_lever_is_a_line_and_floats_have_a_loss_only():
    text = lever_table(
        {
            "float": {"start_loss": 4.5, "later_loss": 3.5},
            "nf4": {
                "bits": 4.25,
                "error": 0.094,
                "start_loss": 5.0,
                "later_loss": 4.0,
                "cosine_start": 0.87,
                "cosine_later": 0.85,
            },
        }
    )
    title, _, plain, nf4 = text.splitlines()
    assert plain.split() == ["float", "4.5000", "3.5000"]
    assert nf4.split() == ["nf4", "4.25", "0.0940", "0.8700", "0.8500", "5.0000", "4.0000"]
    assert len(title) == len(plain) == len(nf4)


LAYERS = [
    {"query in": 12.0, "ffw_linear in": 65_504.0, "stream": 900.0},
    {"query in": 20.0, "ffw_linear in": 70_000.0, "stream": 800.0},
]


def test_the_first_place_past_float16_is_named():
    assert first_overflow(LAYERS[:1]) == "nowhere"
    assert first_overflow(LAYERS) == "layer 1, ffw_linear in: 70,000"
    assert first_overflow([{"stream": float("nan")}]).startswith("layer 0, stream")
    assert "70,000.0   layer  1    1.0686" in activation_table(LAYERS)


def test_a_float16_run_is_told_step_by_step():
    row = {"loss": 5.0, "grad_norm": float("inf"), "loss_scale": 4096.0, "verdict": "not_finite"}
    assert "step 1: loss 5.0000, gradient norm inf, loss scale 4096, not finite" in float16_lines(
        {"float32 sums": [row]}
    )
