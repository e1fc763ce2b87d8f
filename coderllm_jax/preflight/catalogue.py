"""The numbers of models by name, so that nobody has to download one to plan for it.

    gemma3_4b, gemma3_instruct_4b_text, …  ──> GEMMA3_4B          tiny, gemma3_270m ──> as they are
    FOLDER with a config.json              ──> what it says        gguf:FILE, hf://…  ──> refused

Names are KerasHub's. Presets with images have the same text model: that is what is trained. Source:
the presets' published settings; a test holds each sum of weights to what KerasHub says of it.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import FAMILIES, GEMMA3_270M, TINY, Architecture
from coderllm_jax.model.presets import ALIASES

_GEMMA_2B = Architecture(
    family="gemma",
    num_layers=18,
    vocabulary=256_000,
    width=2048,
    feed_forward=16_384,
    num_heads=8,
    num_kv_heads=1,
    head_size=256,
    window=4096,
    global_every=1,
    query_scale=256**-0.5,
    rope_global=FAMILIES["gemma"].rope_global,
    query_key_norm=False,
    post_norms=False,
)
_GEMMA_7B = dataclasses.replace(
    _GEMMA_2B, num_layers=28, width=3072, feed_forward=24_576, num_heads=16, num_kv_heads=16
)
_GEMMA2_2B = dataclasses.replace(
    _GEMMA_2B,
    family="gemma2",
    num_layers=26,
    width=2304,
    feed_forward=9216,
    num_kv_heads=4,
    global_every=2,
    rope_global=FAMILIES["gemma2"].rope_global,
    post_norms=True,
    attention_soft_cap=50.0,
    final_soft_cap=30.0,
)
_GEMMA2_9B = dataclasses.replace(
    _GEMMA2_2B, num_layers=42, width=3584, feed_forward=14_336, num_heads=16, num_kv_heads=8
)
_GEMMA2_27B = dataclasses.replace(
    _GEMMA2_2B,
    num_layers=46,
    width=4608,
    feed_forward=36_864,
    num_heads=32,
    num_kv_heads=16,
    head_size=128,
    query_scale=(4608 // 32) ** -0.5,
)
_GEMMA3_1B = dataclasses.replace(GEMMA3_270M, num_layers=26, width=1152, feed_forward=6912)
_GEMMA3_4B = dataclasses.replace(
    GEMMA3_270M,
    num_layers=34,
    width=2560,
    feed_forward=10_240,
    num_heads=8,
    num_kv_heads=4,
    window=1024,
    rope_global_scaling=8.0,
)
_GEMMA3_12B = dataclasses.replace(
    _GEMMA3_4B, num_layers=48, width=3840, feed_forward=15_360, num_heads=16, num_kv_heads=8
)
_GEMMA3_27B = dataclasses.replace(
    _GEMMA3_4B,
    num_layers=62,
    width=5376,
    feed_forward=21_504,
    num_heads=32,
    num_kv_heads=16,
    head_size=128,
    query_scale=(5376 // 32) ** -0.5,
)


def _names(size: str, architecture: Architecture) -> dict[str, Architecture]:
    """Gemma 3's presets of a size: pretrained and instructed, with images and without."""
    return {
        f"gemma3_{kind}{size}{text}": architecture
        for kind in ("", "instruct_")
        for text in ("", "_text")
    }


PRESETS: dict[str, Architecture] = {
    "gemma_2b_en": _GEMMA_2B,
    "gemma_instruct_2b_en": _GEMMA_2B,
    "gemma_1.1_instruct_2b_en": _GEMMA_2B,
    "code_gemma_2b_en": _GEMMA_2B,
    "code_gemma_1.1_2b_en": _GEMMA_2B,
    "gemma_7b_en": _GEMMA_7B,
    "gemma_instruct_7b_en": _GEMMA_7B,
    "gemma_1.1_instruct_7b_en": _GEMMA_7B,
    "code_gemma_7b_en": _GEMMA_7B,
    "code_gemma_instruct_7b_en": _GEMMA_7B,
    "code_gemma_1.1_instruct_7b_en": _GEMMA_7B,
    "gemma2_2b_en": _GEMMA2_2B,
    "gemma2_instruct_2b_en": _GEMMA2_2B,
    "gemma2_9b_en": _GEMMA2_9B,
    "gemma2_instruct_9b_en": _GEMMA2_9B,
    "gemma2_27b_en": _GEMMA2_27B,
    "gemma2_instruct_27b_en": _GEMMA2_27B,
    "gemma3_270m": GEMMA3_270M,
    "gemma3_instruct_270m": GEMMA3_270M,
    "gemma3_1b": _GEMMA3_1B,
    "gemma3_instruct_1b": _GEMMA3_1B,
    **_names("4b", _GEMMA3_4B),
    **_names("12b", _GEMMA3_12B),
    **_names("27b", _GEMMA3_27B),
    "tiny": TINY,
}


def find_architecture(name: str) -> Architecture:
    """The numbers of the model called `name`; ModelError where they are not known here."""
    preset = ALIASES.get(name, name)
    if preset in PRESETS:
        return PRESETS[preset]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(folder)
    near = difflib.get_close_matches(name, [*PRESETS, *ALIASES], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "for instance gemma3_4b"
    raise ModelError(
        f"the numbers of model {name!r} are not known here; expected a preset of Gemma 1 to 3, "
        f"tiny, or a folder with the model's config.json: {hint}"
    )


def _of_folder(folder: Path) -> Architecture:
    """What config.json says; weights need not be there."""
    from coderllm_jax.model import huggingface, keras_folder, presets

    config = presets.read_folder_config(folder)
    if keras_folder.is_keras(config):
        return keras_folder.architecture_of(config, folder=folder)
    huggingface.check_model_type(config, folder=folder)
    vocabulary = config.get("text_config", config).get("vocab_size", 0)
    return huggingface.architecture_of(config, vocabulary=int(vocabulary), folder=folder)
