"""Tunix's Gemma 3 with this project's weights, for both of Tunix's arms.

    huggingface/  config.json, model.safetensors ──► tunix.models.gemma3, in the wanted format

Runs in an interpreter of its own (`--tunix_python`), because Tunix (`google-tunix`) has other pins
than this project. There it needs what `benchmarks.measure` imports: ml-collections and psutil.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load_gemma3(folder: Path, *, dtype: str) -> Any:
    """An nnx module from a folder that transformers loads too; `dtype` is jax.numpy's name."""
    import jax.numpy as jnp
    from tunix.models.gemma3 import model as gemma3
    from tunix.models.gemma3.params_safetensors import create_model_from_safe_tensors

    fields = json.loads((folder / "config.json").read_text())
    rope = fields["rope_parameters"]
    config = gemma3.ModelConfig(
        num_layers=fields["num_hidden_layers"],
        num_embed=fields["vocab_size"],
        embed_dim=fields["hidden_size"],
        hidden_dim=fields["intermediate_size"],
        num_heads=fields["num_attention_heads"],
        head_dim=fields["head_dim"],
        num_kv_heads=fields["num_key_value_heads"],
        sliding_window_size=fields["sliding_window"],
        local_base_frequency=round(rope["sliding_attention"]["rope_theta"]),
        global_base_frequency=round(rope["full_attention"]["rope_theta"]),
        param_dtype=jnp.dtype(dtype),
    )
    # Its faster loader takes all of a file for one format; our norms are float32 beside bfloat16.
    return create_model_from_safe_tensors(
        str(folder), config, dtype=jnp.dtype(dtype), mode="original"
    )
