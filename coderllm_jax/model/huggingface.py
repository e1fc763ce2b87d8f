"""Reads a Hugging Face folder of a Gemma: config.json and safetensors, nothing else.

Neither transformers nor torch is needed, and no file is ever executed: weights in pickle form
(*.bin, *.pt) are refused by not being looked at, auto_map and *.py files say nothing to us. Each
tensor is mapped where it lies and turned into the tree's layout by views (`stored_layout`); norms
are kept as the scale alone on both sides.

The text half of a multimodal checkpoint is read and its vision half left alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from coderllm_jax.data.tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family, base_name
from coderllm_jax.model.mapped import MappedTensor
from coderllm_jax.model.plausible import check_architecture, check_dense, shown
from coderllm_jax.model.stored_layout import scale_alone, stored_shape, tree_view
from coderllm_jax.model.weights import LazyLeaf

BLOCK_NAMES = {
    "pre_attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "attention_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "ffw_gating": "mlp.gate_proj",
    "ffw_gating_2": "mlp.up_proj",
    "ffw_linear": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
    "layer_scale": "layer_scalar",
}
_BY_LAYER = {"head_dim", "num_key_value_heads"}
# Before a text tensor's name: multimodal checkpoints of two generations, and text-only ones.
_PREFIXES = ("language_model.model.", "model.language_model.", "model.")


class _Kind(NamedTuple):
    """A model_type: its family, and what its config.json may leave out.

    layered: rotary settings come apart for local and global layers. text: the key that holds the
    text model's settings, where they are not the whole. defaults: transformers' own.
    """

    family: Family
    layered: bool
    text: str | None
    defaults: dict[str, Any]


_GEMMA = {
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    # Gemma 1 has neither windows nor a scalar of its own: the head's size is one.
    "sliding_window": 4096,
}
_GEMMA2 = _GEMMA | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3 = _GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
_GEMMA4 = _GEMMA3 | {
    "query_pre_attn_scalar": 1,
    "sliding_window": 512,
    "global_head_dim": 512,
    "hidden_size_per_layer_input": 256,
}
_KINDS = {
    "gemma": _Kind("gemma", layered=False, text=None, defaults=_GEMMA),
    "gemma2": _Kind("gemma2", layered=False, text=None, defaults=_GEMMA2),
    "gemma3_text": _Kind("gemma3", layered=True, text=None, defaults=_GEMMA3),
    "gemma3": _Kind("gemma3", layered=True, text="text_config", defaults=_GEMMA3),
    "gemma4_text": _Kind("gemma4", layered=True, text=None, defaults=_GEMMA4),
    "gemma4": _Kind("gemma4", layered=True, text="text_config", defaults=_GEMMA4),
}
# Gated layers use gelu's approximation; Gemma 1's releases say "gelu" and mean it, too.
_ACTIVATIONS = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
}
_WHOLE = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "global_head_dim",
    "num_global_key_value_heads",
    "sliding_window",
    "sliding_window_pattern",
    "_sliding_window_pattern",
)
_REAL = (
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_CONFIG_BYTES = 1 << 24
# Formats whose loading can run code; named in an error, never opened.
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy", ".npz", ".h5", ".keras", ".msgpack")


class SafetensorsFolder:
    """Every tensor of a folder's safetensors files by name, without the prefix of its model.

    A file's header is checked by the safetensors package (sizes, offsets, overlaps) before where
    its tensors lie is believed; the tensors themselves are mapped when they are asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise ModelError(
                f"{folder}: holds no .safetensors{_other_formats(folder)}; other weight formats "
                "are never opened; save the model as safetensors"
            )
        self._folder = folder
        self._tensors: dict[str, MappedTensor] = {}
        for file in self.files:
            for name, tensor in _read_header(file).items():
                prefix = next((text for text in _PREFIXES if name.startswith(text)), "")
                self._tensors[name.removeprefix(prefix)] = tensor

    def find(self, name: str, shape: tuple[int, ...] | None = None) -> MappedTensor:
        """The tensor, unread; ModelError where it is missing, of another shape or no float."""
        if name not in self._tensors:
            raise ModelError(f"{self._folder}: tensor '{name}' is missing; fetch the folder again")
        tensor = self._tensors[name]
        if shape is not None and tensor.shape != shape:
            raise ModelError(
                f"{tensor.file}: tensor '{name}' has shape {tensor.shape}; config.json makes it "
                f"{shape}; fetch the folder again"
            )
        return tensor


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES).decode())
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: holds no config.json; expected a Hugging Face or Keras model folder"
        ) from None
    except OSError as error:
        raise ModelError(
            f"{folder / 'config.json'}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{folder / 'config.json'}: not readable JSON ({error}); fetch the file again"
        ) from None
    if not isinstance(config, dict):
        raise ModelError(
            f"{folder / 'config.json'}: holds a {type(config).__name__}; expected a JSON object; "
            "fetch the file again"
        )
    return config


def check_model_type(config: dict[str, Any], *, folder: Path) -> None:
    """ModelError for a folder of another family, before anything else of it is looked at."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelError(
            f"{folder}: holds a {shown(kind)} model; expected one of {', '.join(_KINDS)}: name "
            "gemma3_270m or another Gemma"
        )


def is_multimodal(config: dict[str, Any]) -> bool:
    """Whether the text model is one part of what config.json describes."""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind in _KINDS and _KINDS[kind].text is not None


def architecture_of(config: dict[str, Any], *, vocabulary: int, folder: Path) -> Architecture:
    """The model's numbers; `vocabulary` is its embedding's, which some configs misstate."""
    check_model_type(config, folder=folder)
    kind = _KINDS[config["model_type"]]
    traits = FAMILIES[kind.family]
    written = config.get(kind.text) if kind.text else config
    if not isinstance(written, dict):
        raise ModelError(
            f"{folder / 'config.json'}: text_config is {shown(written)}; expected the text model's "
            "settings; fetch the file again"
        )
    # null means: as the class has it; of a cap, that there is none.
    text: dict[str, Any] = kind.defaults | {
        key: value
        for key, value in written.items()
        if value is not None or key.endswith("softcapping")
    }
    # Images may look both ways; text does not.
    if text.get("use_bidirectional_attention") not in (None, False, "vision"):
        raise ModelError(f"{folder}: holds an embedding model, which cannot generate")
    if not text.get("tie_word_embeddings", True):
        raise ModelError(f"{folder}: its output head is not its embedding; such is not understood")
    if text.get("attention_bias"):
        raise ModelError(f"{folder}: its attention has biases; such is not understood")
    for key, understood in _ACTIVATIONS.items():
        if (found := text.get(key)) is not None and found not in understood:
            raise ModelError(f"{folder}: {key} is {shown(found)}; expected {understood[0]}")
    for key in (*_WHOLE, *_REAL):
        _check_number(key, text.get(key), folder=folder)
    try:
        local, wide = _rope(text, kind)
        local_key = "rope_local_base_freq" if kind.layered else "rope_theta"
        for key in ("rope_theta", "factor", "partial_rotary_factor"):
            _check_number(key, local.get(key), folder=folder)
            _check_number(key, wide.get(key), folder=folder)
        architecture = Architecture(
            family=kind.family,
            num_layers=text["num_hidden_layers"],
            vocabulary=vocabulary,
            width=text["hidden_size"],
            feed_forward=text["intermediate_size"],
            num_heads=text["num_attention_heads"],
            num_kv_heads=text["num_key_value_heads"],
            head_size=text["head_dim"],
            window=text["sliding_window"],
            global_every=_global_every(text, traits.global_every, folder=folder),
            query_scale=text.get("query_pre_attn_scalar", text["head_dim"]) ** -0.5,
            rope_local=local.get("rope_theta", text.get(local_key, traits.rope_local)),
            rope_global=wide.get("rope_theta", text.get("rope_theta", traits.rope_global)),
            rope_local_scaling=local.get("factor", 1.0),
            rope_global_scaling=wide.get("factor", 1.0),
            norm_epsilon=text["rms_norm_eps"],
            query_key_norm=traits.query_key_norm,
            post_norms=traits.post_norms,
            attention_soft_cap=text.get("attn_logit_softcapping") or 0.0,
            final_soft_cap=text.get("final_logit_softcapping") or 0.0,
            **(_fourth(text, wide, folder=folder) if kind.family == "gemma4" else {}),
        )
        return check_architecture(architecture, where=str(folder / "config.json"))
    except KeyError as error:
        raise ModelError(f"{folder / 'config.json'}: {error} is missing") from None
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"{folder / 'config.json'}: its rotation or layers are not spelt as a Gemma's "
            f"({error}); fetch the file again"
        ) from None


def _fourth(text: dict[str, Any], wide: dict[str, Any], *, folder: Path) -> dict[str, Any]:
    """The numbers that only Gemma 4 has."""
    check_dense(text, where=str(folder))
    shares = bool(text.get("attention_k_eq_v"))
    head_size = text["global_head_dim"]
    kv_heads = text.get("num_global_key_value_heads") if shares else None
    if by_layer := text.get("per_layer_config"):  # how transformers 5 writes the two down
        first = next(iter(by_layer.values()))
        layers = [i for i, kind in enumerate(text["layer_types"]) if kind == "full_attention"]
        if by_layer != {str(i): first for i in layers} or not first.keys() <= _BY_LAYER:
            raise ModelError(
                f"{folder}: its layers differ in other ways than local and global ones do; such "
                "is not understood"
            )
        head_size = first.get("head_dim", text["head_dim"])
        kv_heads = first.get("num_key_value_heads")
        _check_number("head_dim", head_size, folder=folder)
        _check_number("num_key_value_heads", kv_heads, folder=folder)
    return {
        "global_head_size": None if head_size == text["head_dim"] else head_size,
        "global_kv_heads": kv_heads,
        "keys_are_values": shares,
        "value_norm": True,
        "layer_scale": True,
        "rope_global_fraction": float(wide.get("partial_rotary_factor", 1.0)),
    }


def tensor_names(architecture: Architecture) -> dict[str, str]:
    """Our name of a block weight → transformers', below `layers.7.` and above `.weight`.

    In Gemma 1 `post_attention_layernorm` is the norm before the feed-forward layer: what stands
    after attention. Families with norms behind both call that one `pre_feedforward_layernorm`.
    """
    names = {name: BLOCK_NAMES[base_name(name)] for name in architecture.block_shapes()}
    if not architecture.post_norms:
        names["pre_ffw_norm"] = BLOCK_NAMES["post_attention_norm"]
    return names


def read_weights(
    tensors: SafetensorsFolder, architecture: Architecture
) -> Iterator[tuple[str, LazyLeaf]]:
    """Yields (path, leaf in the file's dtype) for every leaf; tensors are mapped when asked for.

    Every tensor's shape is checked before the first leaf is given.
    """
    table = (architecture.vocabulary, architecture.width)
    whole_norms = FAMILIES[architecture.family].whole_norms
    leaves = {
        "embedding": _whole(tensors.find("embed_tokens.weight", table)),
        "final_norm": _whole(tensors.find("norm.weight", (architecture.width,)), whole_norms),
    }
    for name in architecture.block_shapes():
        leaves[f"blocks/{name}"] = _stacked(tensors, name, architecture)
    yield from leaves.items()


def _whole(tensor: MappedTensor, is_whole_norm: bool = False) -> LazyLeaf:
    return LazyLeaf(
        tensor.shape,
        lambda _: scale_alone(tensor.view()) if is_whole_norm else tensor.view(),
        is_stacked=False,
    )


def _stacked(tensors: SafetensorsFolder, name: str, architecture: Architecture) -> LazyLeaf:
    stored = tensor_names(architecture)[name]
    end = "" if name == "layer_scale" else ".weight"
    layers = [
        tensors.find(f"layers.{i}.{stored}{end}", stored_shape(name, architecture))
        for i in architecture.layers_of(name)
    ]
    is_whole_norm = name.endswith("norm") and FAMILIES[architecture.family].whole_norms

    def read(i: int) -> np.ndarray:
        values = tree_view(name, layers[i].view(), architecture)
        return scale_alone(values) if is_whole_norm else values

    return LazyLeaf((len(layers), *architecture.block_shapes()[name]), read, is_stacked=True)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.model where there is one, else its tokenizer.json."""
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer.from_file(folder / "tokenizer.model")
    if (folder / "tokenizer.json").exists():
        return JsonTokenizer.from_file(folder / "tokenizer.json")
    raise ModelError(
        f"{folder}: holds neither tokenizer.model nor tokenizer.json; fetch the folder again"
    )


def _rope(text: dict[str, Any], kind: _Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary settings of local and global layers, from either of the two spellings in use."""
    named = text.get("rope_parameters") or {}
    if kind.layered:
        local, wide = named.get("sliding_attention") or {}, named.get("full_attention") or {}
    else:
        local = wide = named
    if not wide:
        wide = text.get("rope_scaling") or {}
        local = local if kind.layered else wide
    for settings in (local, wide):
        scaling = settings.get("rope_type", settings.get("type", "default"))
        is_fourths = scaling == "proportional" and kind.family == "gemma4" and settings is wide
        if scaling not in ("default", "linear") and not is_fourths:
            raise ModelError(f"rotary scaling '{scaling}' is not Gemma's; expected linear")
    return local, wide


def _check_number(key: str, value: Any, *, folder: Path) -> None:
    kinds = (int,) if key in _WHOLE else (int, float)
    is_off = key.endswith("softcapping") and not value
    if value is None or is_off or (type(value) in kinds and value > 0):
        return
    expected = "a whole number" if key in _WHOLE else "a number"
    raise ModelError(
        f"{folder / 'config.json'}: {key} is {shown(value)}; expected {expected} above 0; "
        "fetch the file again"
    )


def _global_every(text: dict[str, Any], usual: int, *, folder: Path) -> int:
    kinds = text.get("layer_types")
    pattern = text.get("_sliding_window_pattern") or text.get("sliding_window_pattern", usual)
    if not kinds:
        return pattern
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else pattern
    expected = [(i + 1) % every == 0 for i in range(len(kinds))]
    if [kind == "full_attention" for kind in kinds] != expected:
        raise ModelError(f"{folder}: global layers are not evenly spaced; not a Gemma")
    return every


def _read_header(file: Path) -> dict[str, MappedTensor]:
    """Where each tensor lies, from a header that the safetensors package has found sound."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            with safe_open(file, framework="numpy"):
                pass
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except PermissionError as error:
        raise ModelError(
            f"{file}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except (OSError, SafetensorError, ValueError, RecursionError, struct.error) as error:
        raise ModelError(f"{file}: not a safetensors file ({error}); fetch it again") from None
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{file}: tensor '{name}' is stored as {entry['dtype']}; expected "
                f"{', '.join(_DTYPES)}; quantized models are read as GGUF only"
            )
        start = 8 + length + entry["data_offsets"][0]
        tensors[name] = MappedTensor(file, tuple(entry["shape"]), _DTYPES[entry["dtype"]], start)
    return tensors


def _other_formats(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir() if path.suffix in _UNSAFE)
    return f" but {', '.join(found[:3])}" if found else ""
