"""Small random models of every Gemma family, made by KerasHub and by transformers themselves.

    case        KerasHub's constructor, as its presets call it ── random values in every variable
                  └─ save_to_preset ─> folder ─> our reader ─> architecture, tree
    reference   the same object's own forward pass, and its tied embedding with its soft cap

Nothing of KerasHub's is changed, but for one thing: of the two 27B models its blocks forget
`query_head_dim_normalize=False`, which the reference then sets on every attention layer. Sizes are
such that heads do not multiply to the width, windows are shorter than the rows, and soft caps bite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.model import huggingface, keras_bridge, keras_folder
from coderllm_jax.model.architecture import FAMILIES, Architecture, base_name
from coderllm_jax.model.weights import place

VOCABULARY = 320
_SIZES = {
    "vocabulary_size": VOCABULARY,
    "num_query_heads": 4,
    "hidden_dim": 48,
    "head_dim": 16,
    "layer_norm_epsilon": 1e-6,
}
_GEMMA2 = {
    "num_layers": 4,
    "num_key_value_heads": 2,
    "intermediate_dim": 160,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 5.0,
    "final_logit_soft_cap": 3.0,
    "use_sliding_window_attention": True,
    "sliding_window_size": 12,
}
_GEMMA3 = {
    "num_layers": 7,
    "num_key_value_heads": 1,
    "intermediate_dim": 80,
    "image_size": None,
    "use_query_key_norm": True,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "sliding_window_size": 12,
}
_GEMMA4 = {
    "num_layers": 6,
    "num_key_value_heads": 2,
    "intermediate_dim": 80,
    "image_size": None,
    "sliding_window_pattern": 3,
    "sliding_window_size": 12,
    "global_head_dim": 32,
    "global_rope_partial_rotary_factor": 0.25,
    "final_logit_soft_cap": 3.0,
}


class Case(NamedTuple):
    """One model: KerasHub's class and what its constructor is given."""

    name: str
    keras_class: str
    arguments: dict[str, Any]

    @property
    def scales_by_width(self) -> bool:
        """Whether queries are scaled by width over heads, as in the two 27B models."""
        return not self.arguments.get("query_head_dim_normalize", True)


CASES = (
    Case(
        "Gemma 1",
        "GemmaBackbone",
        {"num_layers": 3, "num_key_value_heads": 1, "intermediate_dim": 160},
    ),
    Case("Gemma 2", "GemmaBackbone", _GEMMA2),
    Case("Gemma 2 27B", "GemmaBackbone", _GEMMA2 | {"query_head_dim_normalize": False}),
    Case("Gemma 3", "Gemma3Backbone", _GEMMA3 | {"global_rope_scaling_factor": 8.0}),
    Case("Gemma 3 27B", "Gemma3Backbone", _GEMMA3 | {"query_head_dim_normalize": False}),
    Case("Gemma 4", "Gemma4Backbone", _GEMMA4 | {"num_global_key_value_heads": 1}),
    Case("Gemma 4 (K≠V)", "Gemma4Backbone", _GEMMA4),
)


class Read(NamedTuple):
    """A model as our readers gave it: numbers, and float32 weights on the device."""

    architecture: Architecture
    weights: dict[str, Any]


def make_keras(case: Case, *, seed: int = 0) -> Any:
    """KerasHub's model with noise in every variable: its own start has norms of nothing."""
    keras_hub = keras_bridge.import_keras_hub()
    model = getattr(keras_hub.models, case.keras_class)(**_SIZES | case.arguments)
    chance = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if len(shape) < 2:
            values = np.asarray(variable.value) + 0.1 * chance.standard_normal(shape)
        else:
            fan_in = shape[-1] if "embedding" in variable.path else int(np.prod(shape[:-1]))
            if len(shape) == 3 and "attention_output" not in variable.path:
                fan_in = shape[1]
            values = chance.standard_normal(shape) / np.sqrt(fan_in)
        variable.assign(values.astype(np.float32))
    return model


def mend_query_scale(model: Any) -> None:
    """Sets what KerasHub's blocks were told and forgot; see the module's first lines."""
    for block in model.transformer_layers:
        block.attention.query_head_dim_normalize = False


def read_keras(model: Any) -> Read:
    """The model saved by KerasHub and read back by us."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "preset"
        model.save_to_preset(str(folder))
        config = huggingface.read_config(folder)
        architecture = keras_folder.architecture_of(config, folder=folder)
        leaves = keras_folder.read_weights(keras_folder.weight_files(folder), architecture)
        return Read(architecture, place(leaves, architecture, dtype="float32"))


def keras_logits(model: Any, tokens_BL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """[B, L, V] from KerasHub's own forward pass and tied embedding."""
    inputs = {"token_ids": tokens_BL, "padding_mask": np.ones_like(tokens_BL)}
    if "position_ids" in {each.name for each in model.inputs}:
        inputs["position_ids"] = np.broadcast_to(np.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden_BLD = model(inputs)
    return np.asarray(model.token_embedding(hidden_BLD, reverse=True))


def transformers_logits(
    read: Read, tokens_BL: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], Read]:
    """[B, L, V] from transformers' model with the same values, and that model read back by us.

    The way back goes over transformers' own `save_pretrained`.
    """
    import torch
    import transformers

    config = getattr(transformers, _TRANSFORMERS[read.architecture.family][0])(
        **_transformers_config(read.architecture), attn_implementation="eager"
    )
    model = getattr(transformers, _TRANSFORMERS[read.architecture.family][1])(config).eval()
    state = {name: torch.from_numpy(np.array(x)) for name, x in _torch_tensors(read)}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens_BL).long()).logits.numpy()
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        folder = Path(name)
        tensors = huggingface.SafetensorsFolder(folder)
        architecture = huggingface.architecture_of(
            huggingface.read_config(folder),
            vocabulary=tensors.find("embed_tokens.weight").shape[0],
            folder=folder,
        )
        leaves = huggingface.read_weights(tensors, architecture)
        return logits, Read(architecture, place(leaves, architecture, dtype="float32"))


_TRANSFORMERS = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "gemma4": ("Gemma4TextConfig", "Gemma4ForCausalLM"),
}


def _transformers_config(architecture: Architecture) -> dict[str, Any]:
    """The keys that transformers' three classes know of; each takes those that it has."""
    kinds = {False: "sliding_attention", True: "full_attention"}
    shared: dict[str, Any] = {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.feed_forward,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_size,
        "rms_norm_eps": architecture.norm_epsilon,
    }
    if architecture.family == "gemma":
        return shared
    shared |= {
        "query_pre_attn_scalar": round(architecture.query_scale**-2),
        "sliding_window": architecture.window,
        "layer_types": [kinds[architecture.is_global(i)] for i in range(architecture.num_layers)],
        "attn_logit_softcapping": architecture.attention_soft_cap or None,
        "final_logit_softcapping": architecture.final_soft_cap or None,
    }
    if architecture.family == "gemma4":
        shared |= {
            "global_head_dim": architecture.global_head_size,
            "num_global_key_value_heads": architecture.global_kv_heads,
            "attention_k_eq_v": architecture.keys_are_values,
            "hidden_size_per_layer_input": 0,
        }
        wide = {
            "rope_type": "proportional",
            "partial_rotary_factor": architecture.rope_global_fraction,
        }
    else:
        wide = {"rope_type": "linear", "factor": architecture.rope_global_scaling}
    if architecture.family != "gemma2":
        shared["rope_parameters"] = {
            kinds[False]: {"rope_type": "default", "rope_theta": architecture.rope_local},
            kinds[True]: wide | {"rope_theta": architecture.rope_global},
        }
    return shared


def _torch_tensors(read: Read) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """The tree under transformers' names: matrices are [out, in], heads side by side."""
    more = 1.0 if FAMILIES[read.architecture.family].whole_norms else 0.0
    yield "model.embed_tokens.weight", np.asarray(read.weights["embedding"])
    yield "model.norm.weight", np.asarray(read.weights["final_norm"]) + more
    for leaf, stored in huggingface.tensor_names(read.architecture).items():
        name = base_name(leaf)
        layers = read.architecture.layers_of(leaf)
        for i, values in zip(layers, np.asarray(read.weights["blocks"][leaf]), strict=True):
            if name == "layer_scale":
                yield f"model.layers.{i}.{stored}", values.reshape(1)
                continue
            matrix = values + more if name.endswith("norm") else values
            if name in ("query", "key", "value"):
                matrix = values.transpose(0, 2, 1).reshape(-1, values.shape[1])
            elif name == "attention_output":
                matrix = values.reshape(-1, values.shape[-1]).T
            elif values.ndim == 2:
                matrix = values.T
            yield f"model.layers.{i}.{stored}.weight", np.ascontiguousarray(matrix)
