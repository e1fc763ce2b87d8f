"""Reads a Keras preset's folder of a Gemma as data: numbers from config.json, arrays from HDF5.

    config.json                   class_name, and a dozen plain numbers
    model.weights.h5              layers/gemma3_decoder_block_7/attention/query_dense/vars/0  …
      or model.weights.json       which of model_00000.weights.h5, model_00001.weights.h5, … has it
    assets/tokenizer/vocabulary.spm

Keras itself is never asked: what its config names it would import and call. Nothing in these files
chooses code here; class names are compared with those that are understood. Arrays are taken only
from the file itself, stored whole and plain, so that no link, filter or foreign file is followed;
HDF5 is closed again before the first of them is mapped.

Covers: other classes, modules, registered names and Lambdas, links and virtual or external data.
Does not cover: faults of the HDF5 library itself in parsing a hostile file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from coderllm_jax.data.tokenizer import SentencePieceTokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import FAMILIES, Architecture, Family, base_name
from coderllm_jax.model.keras_bridge import BACKBONES
from coderllm_jax.model.mapped import MappedTensor
from coderllm_jax.model.plausible import (
    check_architecture,
    check_dense,
    real_number,
    shown,
    whole_number,
)
from coderllm_jax.model.stored_layout import scale_alone
from coderllm_jax.model.weights import LazyLeaf

CONFIG, TOKENIZER = "config.json", "assets/tokenizer/vocabulary.spm"
WEIGHTS, INDEX = "model.weights.h5", "model.weights.json"


class _Class(NamedTuple):
    """What a KerasHub class builds in, beside what all models of a family share.

    windowed, window: the defaults of `use_sliding_window_attention` and `sliding_window_size`.
    global_every: which layers are global where there are windows.
    halves: how many matrices `intermediate_dim` counts. block: what its blocks are called in HDF5.
    """

    windowed: bool
    global_every: int
    window: int
    halves: int
    block: str


_CLASSES = {
    "GemmaBackbone": _Class(False, 2, 4096, 2, "gemma_decoder_block"),
    "Gemma3Backbone": _Class(True, 6, 1024, 1, "gemma3_decoder_block"),
    "Gemma4Backbone": _Class(True, 6, 512, 1, "gemma4_text_decoder_block"),
}

# Our name of a block weight → its group below the block's.
_GROUPS = {
    "pre_attention_norm": "pre_attention_norm",
    "query": "attention/query_dense",
    "key": "attention/key_dense",
    "value": "attention/value_dense",
    "query_norm": "attention/query_norm",
    "key_norm": "attention/key_norm",
    "attention_output": "attention/output_dense",
    "post_attention_norm": "post_attention_norm",
    "pre_ffw_norm": "pre_ffw_norm",
    "ffw_gating": "gating_ffw",
    "ffw_gating_2": "gating_ffw_2",
    "ffw_linear": "ffw_linear",
    "post_ffw_norm": "post_ffw_norm",
}


def is_keras(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a class that is understood."""
    name = config.get("class_name")
    return isinstance(name, str) and name in _CLASSES


def architecture_of(config: Mapping[str, Any], *, folder: Path) -> Architecture:
    """The model's numbers from config.json; everything else in it is passed over."""
    where = str(folder / CONFIG)
    name = config["class_name"]
    kind, is_fourth = _CLASSES[name], name == "Gemma4Backbone"
    values = config.get("config")
    if not isinstance(values, dict):
        raise ModelError(f"{where}: its 'config' is {shown(values)}; expected the model's settings")
    if values.get("is_embedding_model") or values.get("use_bidirectional_attention"):
        raise ModelError(f"{folder}: holds an embedding model, which cannot generate")

    def whole(key: str) -> int:
        return whole_number(values, key, where=where)

    def real(key: str, default: float) -> float:
        return real_number(values, key, where=where, default=default)

    def cap(key: str) -> float:
        return real_number(values, key, where=where) if values.get(key) else 0.0

    width, heads, head_size = whole("hidden_dim"), whole("num_query_heads"), whole("head_dim")
    by_head = values.get("query_head_dim_normalize", True)
    # Gemma 4 leaves its queries, which are normed, as they are.
    query_size = 1 if is_fourth else head_size if by_head else max(width // heads, 1)
    windowed = values.get("use_sliding_window_attention", kind.windowed)
    post_norms = is_fourth or _both(
        values, "use_post_attention_norm", "use_post_ffw_norm", where=where
    )
    feed_forward, odd = divmod(whole("intermediate_dim"), kind.halves)
    if odd:
        raise ModelError(f"{where}: intermediate_dim is odd; expected twice the feed-forward width")
    older: Family = "gemma2" if post_norms else "gemma"
    newer: dict[str, Family] = {"Gemma3Backbone": "gemma3", "Gemma4Backbone": "gemma4"}
    family = newer.get(name, older)
    traits = FAMILIES[family]
    architecture = Architecture(
        family=family,
        num_layers=whole("num_layers"),
        vocabulary=whole("vocabulary_size"),
        width=width,
        feed_forward=feed_forward,
        num_heads=heads,
        num_kv_heads=whole("num_key_value_heads"),
        head_size=head_size,
        window=whole_number(values, "sliding_window_size", where=where, default=kind.window),
        global_every=_global_every(values, kind.global_every, where=where) if windowed else 1,
        query_scale=query_size**-0.5,
        rope_local=real("local_rope_wavelength", traits.rope_local),
        rope_global=real("global_rope_wavelength", traits.rope_global),
        rope_local_scaling=real("local_rope_scaling_factor", 1.0),
        rope_global_scaling=real("global_rope_scaling_factor", 1.0),
        norm_epsilon=real("layer_norm_epsilon", 1e-6),
        query_key_norm=traits.query_key_norm and bool(values.get("use_query_key_norm", True)),
        post_norms=post_norms,
        attention_soft_cap=cap("attention_logit_soft_cap"),
        final_soft_cap=cap("final_logit_soft_cap"),
        **(_fourth(values, where=where) if is_fourth else {}),
    )
    return check_architecture(architecture, where=where)


def _fourth(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The numbers that only Gemma 4 has."""
    check_dense(values, where=where)
    if not values.get("use_sliding_window_attention", True):
        raise ModelError(f"{where}: this Gemma 4 has no windows; expected local layers to have one")

    def whole(key: str) -> int | None:
        return whole_number(values, key, where=where) if values.get(key) is not None else None

    kv_heads, head_size = whole("num_global_key_value_heads"), whole("global_head_dim")
    return {
        "global_head_size": None if head_size == values["head_dim"] else head_size,
        "global_kv_heads": kv_heads,
        "keys_are_values": kv_heads is not None,
        "value_norm": True,
        "layer_scale": True,
        "rope_global_fraction": real_number(
            values, "global_rope_partial_rotary_factor", where=where, default=1.0
        ),
    }


def _global_every(values: Mapping[str, Any], usual: int, *, where: str) -> int:
    """Which layers are global; Gemma 4 says so, in one of two ways."""
    every = whole_number(values, "sliding_window_pattern", where=where, default=usual)
    kinds = values.get("layer_types")
    if not isinstance(kinds, list):
        return every
    is_global = [kind == "full_attention" for kind in kinds]
    every = is_global.index(True) + 1 if any(is_global) else every
    if is_global != [(i + 1) % every == 0 for i in range(len(kinds))]:
        raise ModelError(f"{where}: global layers are not evenly spaced; not a Gemma")
    return every


def _both(values: Mapping[str, Any], one: str, other: str, *, where: str) -> bool:
    """Two switches that our forward pass has as one."""
    first, second = bool(values.get(one)), bool(values.get(other))
    if first != second:
        raise ModelError(f"{where}: {one} is {first} and {other} {second}; expected both or none")
    return first


def weight_files(folder: Path) -> list[Path]:
    """The HDF5 files of the folder, one or as many as its index names; names only, no paths."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        with (folder / INDEX).open("rb") as file:
            listed = json.loads(file.read(1 << 24).decode())["weight_map"].values()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}: holds no {WEIGHTS} and no readable {INDEX} ({error}); expected one of "
            "them; fetch the folder again"
        ) from None
    names = [name for entry in listed for name in (entry if isinstance(entry, list) else [entry])]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".h5"):
            raise ModelError(
                f"{folder / INDEX}: names {shown(name)}; expected files beside it; fetch it again"
            )
    return [folder / name for name in sorted(set(names))]


def group_of(path: str, layer: int | None, *, family: Family = "gemma3") -> str:
    """The group that holds a tensor of the tree: its path, and its layer where it has one."""
    if layer is None:
        kinds = {"embedding": "reversible_embedding", "final_norm": "rms_normalization"}
        return f"layers/{kinds[path]}"
    kind = _CLASSES[BACKBONES[family]].block
    block = f"{kind}_{layer}" if layer else kind
    name = base_name(path.removeprefix("blocks/"))
    # A number of the block itself, not of a layer in it.
    return f"layers/{block}" if name == "layer_scale" else f"layers/{block}/{_GROUPS[name]}"


def read_weights(files: list[Path], architecture: Architecture) -> Iterator[tuple[str, LazyLeaf]]:
    """Yields (path, leaf in the file's dtype) for every leaf; tensors are mapped when asked for."""
    family = architecture.family
    groups = {path: [group_of(path, None)] for path in ("embedding", "final_norm")}
    for name in architecture.block_shapes():
        layers = architecture.layers_of(name)
        groups[f"blocks/{name}"] = [group_of(f"blocks/{name}", i, family=family) for i in layers]
    found = _locate(files, {f"{group}/vars/0" for paths in groups.values() for group in paths})
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (architecture.vocabulary, architecture.width),
        "final_norm": (architecture.width,),
    }
    for name, shape in architecture.block_shapes().items():
        shapes[f"blocks/{name}"] = shape
    for path, paths in groups.items():
        tensors = [found[f"{group}/vars/0"] for group in paths]
        for tensor, group in zip(tensors, paths, strict=True):
            if tensor.shape != shapes[path]:
                raise ModelError(
                    f"{tensor.file}: '{group}' has shape {tensor.shape}; config.json makes it "
                    f"{shapes[path]}; fetch the folder again"
                )
        is_whole_norm = path.endswith("norm") and FAMILIES[family].whole_norms
        yield path, _leaf(tensors, path.startswith("blocks/"), is_whole_norm)


def read_tokenizer(folder: Path) -> SentencePieceTokenizer:
    """The preset's SentencePiece model."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(f"{folder}: holds no {TOKENIZER}; save its tokenizer there as well")
    return SentencePieceTokenizer.from_file(path)


def _leaf(tensors: list[MappedTensor], is_stacked: bool, is_whole_norm: bool) -> LazyLeaf:
    layers = (len(tensors),) if is_stacked else ()

    def read(i: int) -> np.ndarray:
        values = tensors[i].view()
        return scale_alone(values) if is_whole_norm else values

    return LazyLeaf((*layers, *tensors[0].shape), read, is_stacked=is_stacked)


def _locate(files: list[Path], wanted: set[str]) -> dict[str, MappedTensor]:
    """Where each wanted array lies, over all files."""
    try:
        import h5py
    except ImportError:
        raise ModelError(
            f"{files[0]}: needs the package h5py, which Keras brings; install it with pip"
        ) from None
    found: dict[str, MappedTensor] = {}
    for path in files:
        try:
            with h5py.File(path, "r") as file:
                for name in sorted(wanted - found.keys()):
                    dataset = _follow(h5py, file, name)
                    if dataset is not None:
                        found[name] = _tensor(path, name, dataset)
        except ModelError:
            raise
        # h5py turns what HDF5 finds wrong into whichever of these it likes.
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}: not a readable HDF5 file ({error}); fetch the file again"
            ) from None
    if missing := sorted(wanted - found.keys()):
        raise ModelError(
            f"{files[0].parent}: {len(missing)} arrays are missing from {files[0].name}, the first "
            f"'{missing[0]}'; fetch the folder again"
        )
    return found


def _follow(h5py: Any, file: Any, name: str) -> Any:
    """The dataset of that name by hard links alone; None where there is none."""
    node = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group):
            return None
        link = node.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ModelError(
                f"{file.filename}: '{name}' is a link to elsewhere, which is not followed; "
                "save the model again"
            )
        node = node[part]
    return node if isinstance(node, h5py.Dataset) else None


def _tensor(path: Path, name: str, dataset: Any) -> MappedTensor:
    """Where a dataset lies that is stored in one plain piece of this file.

    HDF5 gives no offset for one that is in chunks (which filters may have changed), in another
    file, put together from others, or was never written.
    """
    dtype = dataset.dtype
    if dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16":
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind != "f":
        raise ModelError(
            f"{path}: '{name}' is stored as {dtype}; expected floats; quantized presets are not "
            "read"
        )
    offset = dataset.id.get_offset()
    tensor = MappedTensor(path, tuple(dataset.shape), dtype, offset or 0)
    if offset is None or offset + tensor.num_bytes > path.stat().st_size:
        raise ModelError(
            f"{path}: '{name}' is not stored whole in this file; expected what Keras saves; "
            "save the model again"
        )
    return tensor
