"""Between our tree and KerasHub's Gemma backbones: the same values, the same names, both ways.

    tree (stacked over N)                         KerasHub, layer i
    embedding                                     token_embedding/embeddings
    blocks/query [N, H, D, K]   [i] ───────────>  decoder_block_i/attention/query/kernel
    query/a [N, H, D, R], b [N, R, K]  [i] ────>  …/query/lora_kernel_a, lora_kernel_b

GemmaBackbone is Gemma 1 and 2, Gemma3Backbone Gemma 3. Three of KerasHub 0.32's constants are set
right after a model is built, because neither constructor has an argument for them: which layers
are global and their wavelengths (Gemma 3: every sixth; 10k and 1M; Gemma 2: every second; 10k),
the epsilon of the blocks' norms, and `query_head_dim_normalize`, which both take and then ignore
(the 27B of Gemma 2 and of Gemma 3 need False).

Importing this module costs nothing; calling it imports KerasHub, which takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family
from coderllm_jax.model.weights import Dtype, to_tree

# Our name of a block weight → KerasHub's layer, as attributes from the block on.
_BLOCK_LAYERS = {
    "pre_attention_norm": "pre_attention_norm",
    "query": "attention.query_dense",
    "key": "attention.key_dense",
    "value": "attention.value_dense",
    "query_norm": "attention.query_norm",
    "key_norm": "attention.key_norm",
    "attention_output": "attention.output_dense",
    "post_attention_norm": "post_attention_norm",
    "pre_ffw_norm": "pre_ffw_norm",
    "ffw_gating": "gating_ffw",
    "ffw_gating_2": "gating_ffw_2",
    "ffw_linear": "ffw_linear",
    "post_ffw_norm": "post_ffw_norm",
}
# KerasHub's class of each family. Gemma 2 is a GemmaBackbone with everything switched on.
BACKBONES: dict[Family, str] = {
    "gemma": "GemmaBackbone",
    "gemma2": "GemmaBackbone",
    "gemma3": "Gemma3Backbone",
    "gemma4": "Gemma4Backbone",
}
# Read as a preset (`keras_folder`); these two are not built or read as objects.
_UNBRIDGED = ("Gemma4Backbone",)


def import_keras_hub() -> Any:
    """The keras_hub module on the jax backend; raises ModelError where another one was chosen."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
        import keras_hub
    except ImportError as error:
        raise ModelError(f"this needs keras-hub, which cannot be imported ({error})") from None
    if (backend := keras.backend.backend()) != "jax":
        raise ModelError(f"Keras runs on '{backend}' here; set KERAS_BACKEND=jax")
    return keras_hub


def to_keras_hub(
    architecture: Architecture,
    weights: dict[str, Any],
    adapters: dict[str, dict[str, Any]] | None = None,
    *,
    alpha: float | None = None,
    dtype: Dtype = "float32",
) -> Any:
    """A KerasHub backbone of the architecture's family that holds copies of these values.

    With `adapters` ({"query": {"a": [N, H, D, R], "b": [N, R, K]}, …}) the named layers have LoRA
    enabled with KerasHub's own variables; `alpha` defaults to the rank, so that the scale is 1.
    """
    backbone = _build(architecture, dtype=dtype)
    _assign(backbone.token_embedding.embeddings, weights["embedding"])
    _assign(backbone.layer_norm.scale, weights["final_norm"])
    for i, layers in enumerate(_blocks(backbone, architecture)):
        for name, layer in layers.items():
            _assign(_variable(layer, name), weights["blocks"][name][i])
    if adapters:
        ranks = {adapter["a"].shape[-1] for adapter in adapters.values()}
        if len(ranks) != 1:
            raise ModelError(f"adapters have the ranks {sorted(ranks)}; expected one rank")
        enable_lora(backbone, targets=tuple(adapters), rank=ranks.pop(), alpha=alpha)
        for i, layers in enumerate(_blocks(backbone, architecture)):
            for name, adapter in adapters.items():
                _assign(layers[name].lora_kernel_a, adapter["a"][i])
                _assign(layers[name].lora_kernel_b, adapter["b"][i])
    return backbone


def enable_lora(
    backbone: Any, *, targets: tuple[str, ...], rank: int, alpha: float | None = None
) -> None:
    """KerasHub's `enable_lora` on the named layers, and the alpha that it has no argument for."""
    backbone.enable_lora(rank, target_layer_names=list(targets))
    for layers in _blocks(backbone, architecture_of(backbone)):
        for name in targets:
            if not layers[name].lora_enabled:
                raise ModelError(f"KerasHub did not enable LoRA on '{name}'")
            layers[name].lora_alpha = rank if alpha is None else alpha


def from_keras_hub(backbone: Any) -> tuple[Architecture, dict[str, Any]]:
    """The architecture and the tree (numpy, the model's dtype) of a KerasHub Gemma.

    Of a model with LoRA these are the base weights; `read_adapters` gives the rest.
    """
    architecture = architecture_of(backbone)
    return architecture, to_tree(dict(read_weights(backbone, architecture)))


def architecture_of(backbone: Any) -> Architecture:
    """The numbers of a KerasHub model, as its layers hold them."""
    kind = type(backbone).__name__
    understood = sorted(set(BACKBONES.values()) - set(_UNBRIDGED))
    if kind not in understood:
        known = " or ".join(understood)
        raise ModelError(f"{kind} is not understood; expected {known}")
    is_third = kind == "Gemma3Backbone"
    if is_third and (backbone.is_embedding_model or backbone.use_bidirectional_attention):
        raise ModelError("this preset is an embedding model, which cannot generate")
    post_norms = backbone.use_post_attention_norm and backbone.use_post_ffw_norm
    family: Family = "gemma3" if is_third else "gemma2" if post_norms else "gemma"
    attentions = [block.attention for block in backbone.transformer_layers]
    local = next((a for a in attentions if a.use_sliding_window_attention), None)
    wide = next((a for a in attentions if not a.use_sliding_window_attention), None)
    # A model too short for one global layer still has its family's numbers.
    every = attentions.index(wide) + 1 if wide else max(FAMILIES[family].global_every, 2)
    width, heads, head_size = backbone.hidden_dim, backbone.num_query_heads, backbone.head_dim
    scaled_by_head = attentions[0].query_head_dim_normalize and backbone.query_head_dim_normalize
    return Architecture(
        family=family,
        num_layers=backbone.num_layers,
        vocabulary=backbone.vocabulary_size,
        width=width,
        # GemmaBackbone counts both halves of the gated layer.
        feed_forward=backbone.intermediate_dim if is_third else backbone.intermediate_dim // 2,
        num_heads=heads,
        num_kv_heads=backbone.num_key_value_heads,
        head_size=head_size,
        window=backbone.sliding_window_size,
        global_every=every,
        query_scale=(head_size if scaled_by_head else width // heads) ** -0.5,
        rope_local=local.rope_layer.max_wavelength if local else FAMILIES[family].rope_local,
        rope_global=wide.rope_layer.max_wavelength if wide else FAMILIES[family].rope_global,
        rope_local_scaling=local.rope_layer.scaling_factor if local else 1.0,
        rope_global_scaling=wide.rope_layer.scaling_factor if wide else 1.0,
        norm_epsilon=backbone.layer_norm_epsilon,
        query_key_norm=is_third and backbone.use_query_key_norm,
        post_norms=post_norms,
        attention_soft_cap=backbone.attention_logit_soft_cap or 0.0,
        final_soft_cap=backbone.final_logit_soft_cap or 0.0,
    )


def read_weights(backbone: Any, architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, array) for every leaf of the tree, one in memory at a time."""
    yield "embedding", np.asarray(backbone.token_embedding.embeddings.value)
    yield "final_norm", np.asarray(backbone.layer_norm.scale.value)
    blocks = list(_blocks(backbone, architecture))
    for name in architecture.block_shapes():
        stacked = np.stack([_variable(layers[name], name).value for layers in blocks])
        yield f"blocks/{name}", stacked


def read_adapters(backbone: Any) -> dict[str, dict[str, np.ndarray]]:
    """The adapters of a model with LoRA: {"query": {"a": [N, …, R], "b": [N, R, …]}, …}."""
    blocks = list(_blocks(backbone, architecture_of(backbone)))
    adapted = [n for n, layer in blocks[0].items() if getattr(layer, "lora_enabled", False)]
    return {
        name: {
            "a": np.stack([layers[name].lora_kernel_a.value for layers in blocks]),
            "b": np.stack([layers[name].lora_kernel_b.value for layers in blocks]),
        }
        for name in adapted
    }


def abstract_shapes(
    architecture: Architecture, *, targets: tuple[str, ...] = (), rank: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shape of every variable KerasHub makes for this architecture, stacked, by our paths.

    Built under `jax.eval_shape`, so that 27B costs a second and no memory. A variable that is
    not in the result's tree is listed under KerasHub's own path.
    """
    import jax

    shapes: dict[str, tuple[int, ...]] = {}

    def build() -> dict[str, Any]:
        backbone = _build(architecture, dtype="float32")
        if targets:
            enable_lora(backbone, targets=targets, rank=rank)
        named = {
            id(backbone.token_embedding.embeddings): "embedding",
            id(backbone.layer_norm.scale): "final_norm",
        }
        for layers in _blocks(backbone, architecture):
            for name, layer in layers.items():
                named[id(_variable(layer, name))] = f"blocks/{name}"
                if name in targets:
                    named[id(layer.lora_kernel_a)] = f"{name}/a"
                    named[id(layer.lora_kernel_b)] = f"{name}/b"
        counts: dict[str, int] = {}
        for variable in backbone.variables:
            path = named.get(id(variable), variable.path)
            counts[path] = counts.get(path, 0) + 1
            stacked = path not in ("embedding", "final_norm")
            shapes[path] = (counts[path], *variable.shape) if stacked else tuple(variable.shape)
        return {}

    jax.eval_shape(build)
    return shapes


def _build(architecture: Architecture, *, dtype: Dtype) -> Any:
    """A freshly initialized backbone whose layers compute what the architecture says."""
    kind = BACKBONES[architecture.family]
    if kind in _UNBRIDGED:
        raise ModelError(f"family '{architecture.family}' has no bridge to KerasHub yet")
    by_head = _scales_by_head_size(architecture)
    keras_hub = import_keras_hub()
    backbone = getattr(keras_hub.models, kind)(
        vocabulary_size=architecture.vocabulary,
        num_layers=architecture.num_layers,
        num_query_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        hidden_dim=architecture.width,
        head_dim=architecture.head_size,
        query_head_dim_normalize=by_head,
        use_post_ffw_norm=architecture.post_norms,
        use_post_attention_norm=architecture.post_norms,
        attention_logit_soft_cap=architecture.attention_soft_cap or None,
        final_logit_soft_cap=architecture.final_soft_cap or None,
        use_sliding_window_attention=architecture.global_every > 1,
        sliding_window_size=architecture.window,
        layer_norm_epsilon=architecture.norm_epsilon,
        dtype=dtype,
        **_own_arguments(architecture),
    )
    for i, layers in enumerate(_blocks(backbone, architecture)):
        attention = backbone.transformer_layers[i].attention
        wide = architecture.is_global(i)
        attention.query_head_dim_normalize = by_head
        attention.use_sliding_window_attention = not wide
        rope = attention.rope_layer
        rope.max_wavelength = architecture.rope_global if wide else architecture.rope_local
        rope.scaling_factor = (
            architecture.rope_global_scaling if wide else architecture.rope_local_scaling
        )
        for name, layer in layers.items():
            if name.endswith("norm"):
                layer.epsilon = architecture.norm_epsilon
    return backbone


def _own_arguments(architecture: Architecture) -> dict[str, Any]:
    """What the two constructors spell differently, or have no word for."""
    if BACKBONES[architecture.family] == "GemmaBackbone":
        if architecture.query_key_norm:
            raise ModelError("query_key_norm is True; KerasHub's GemmaBackbone has no such norms")
        return {"intermediate_dim": 2 * architecture.feed_forward}
    return {
        "image_size": None,
        "intermediate_dim": architecture.feed_forward,
        "use_query_key_norm": architecture.query_key_norm,
        "local_rope_scaling_factor": architecture.rope_local_scaling,
        "global_rope_scaling_factor": architecture.rope_global_scaling,
    }


def _assign(variable: Any, values: Any) -> None:
    """Copies: Keras keeps the array it is given, and donates it to its own compiled steps."""
    import jax.numpy as jnp

    variable.assign(jnp.array(values, copy=True))


def _scales_by_head_size(architecture: Architecture) -> bool:
    """Which of the two query scales KerasHub knows is meant."""
    by_head = architecture.head_size**-0.5
    by_width = (architecture.width // architecture.num_heads) ** -0.5
    if np.isclose(architecture.query_scale, by_head):
        return True
    if np.isclose(architecture.query_scale, by_width):
        return False
    raise ModelError(
        f"query_scale is {architecture.query_scale}; KerasHub can only express {by_head} and "
        f"{by_width}"
    )


def _blocks(backbone: Any, architecture: Architecture) -> Iterator[dict[str, Any]]:
    """Every block's layers, by our names for their weights."""
    for block in backbone.transformer_layers:
        layers = {}
        for name in architecture.block_shapes():
            layer = block
            for attribute in _BLOCK_LAYERS[name].split("."):
                layer = getattr(layer, attribute)
            layers[name] = layer
        yield layers


def _variable(layer: Any, name: str) -> Any:
    """The base variable of a layer: with LoRA on, `layer.kernel` is a sum and not a variable."""
    wanted = "scale" if name.endswith("norm") else "kernel"
    (variable,) = (v for v in layer.weights if v.name == wanted)
    return variable
