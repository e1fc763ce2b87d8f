"""An export's last words: each artifact under its folder."""

from __future__ import annotations

from pathlib import Path

from coderllm_jax.export.drift import Drift
from coderllm_jax.export.exporting import ExportResult
from coderllm_jax.export.summary import describe_export
from coderllm_jax.export.verification import Verification

PROGRAM = Drift(0.00123, 4.5e-6, 1e-6, 1, 0.1, 36)
ROUNDING = Drift(0.25, 0.002, 1e-4, 3, 0.1, 36)


def test_each_artifact_stands_under_its_folder_with_what_was_found():
    exact = Verification("transformers", {}, PROGRAM, None, 5, 3)
    rounded = Verification("llama.cpp", {}, PROGRAM, ROUNDING, 5, 3)
    result = ExportResult(
        {"huggingface": Path("out/huggingface"), "gguf": Path("out/gguf"), "keras": Path("k")},
        {"huggingface": exact, "m-f32.gguf": exact, "m-q8_0.gguf": rounded, "keras": None},
    )
    figures = "logits 0.0012 (KL 5e-06 nats, the same likeliest token at 35 of 36)"
    assert describe_export(result).splitlines() == [
        "out/huggingface",
        f"  huggingface: by transformers, {figures} from ours",
        "out/gguf",
        f"  m-f32.gguf: by transformers, {figures} from ours",
        f"  m-q8_0.gguf: by llama.cpp, {figures} from ours; rounding cost logits 0.25 "
        "(KL 0.002 nats, the same likeliest token at 33 of 36)",
        "k",
        "  keras: UNVERIFIED; every tensor reads back, and no library that loads it was asked",
    ]
