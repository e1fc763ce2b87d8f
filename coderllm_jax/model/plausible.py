"""Whether numbers read from an untrusted file can be a Gemma's, before anything is sized by them.

A header is written by whoever made the file. A layer count of 2**40, a width of -1 or a list where
a number belongs must end in one line, not in a traceback or in an allocation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from coderllm_jax.errors import ModelError
from coderllm_jax.model.architecture import Architecture

# Several times the largest Gemma's: 62 layers, 21,504 wide feed-forward, 262,208 pieces.
_LARGEST = {"num_layers": 1 << 10, "vocabulary": 1 << 22, "window": 1 << 24}
_LARGEST_OTHER = 1 << 18
# Switches of Gemma 4 that make another kind of model, and what that is.
_NOT_DENSE = {
    "num_kv_shared_layers": "layers that share keys and values",
    "hidden_size_per_layer_input": "an embedding for each layer",
    "enable_moe_block": "a mixture of experts",
}


def whole_number(values: Mapping[str, Any], key: str, *, where: str, default: Any = None) -> int:
    """`values[key]`, a whole number above 0; ModelError names `where` it was read."""
    value = _found(values, key, default, where)
    if type(value) is not int or value <= 0:
        raise ModelError(
            f"{where}: {key} is {shown(value)}; expected a whole number above 0; "
            "fetch the file again"
        )
    return value


def real_number(values: Mapping[str, Any], key: str, *, where: str, default: Any = None) -> float:
    """`values[key]`, a finite number above 0; ModelError names `where` it was read."""
    value = _found(values, key, default, where)
    if type(value) not in (int, float) or not (0 < value < math.inf):
        raise ModelError(
            f"{where}: {key} is {shown(value)}; expected a number above 0; fetch the file again"
        )
    return float(value)


def check_architecture(architecture: Architecture, *, where: str) -> Architecture:
    """The architecture itself; ModelError where it is larger than any Gemma or does not add up."""
    for field in dataclasses.fields(architecture):
        value = getattr(architecture, field.name)
        largest = _LARGEST.get(field.name, _LARGEST_OTHER)
        if type(value) is int and not 0 < value <= largest:
            raise ModelError(
                f"{where}: {field.name} is {value}; expected at most {largest}; "
                "fetch the file again"
            )
        if type(value) is float and not 0 <= value < math.inf:
            raise ModelError(
                f"{where}: {field.name} is {value}; expected a finite number; fetch the file again"
            )
    for kv_heads in (architecture.num_kv_heads, architecture.global_kv_heads or 1):
        if architecture.num_heads % kv_heads:
            raise ModelError(
                f"{where}: {architecture.num_heads} heads do not share {kv_heads} key-value heads "
                "evenly; fetch the file again"
            )
    for head_size in (architecture.head_size, architecture.global_head_size or 2):
        if head_size % 2:
            raise ModelError(
                f"{where}: the head size is {head_size}; expected an even number; "
                "fetch the file again"
            )
    return architecture


def check_dense(values: Mapping[str, Any], *, where: str) -> None:
    """ModelError for a Gemma 4 with parts that our forward pass does not have.

    E2B and E4B have the first two, the 26B the third; KerasHub and transformers spell them alike.
    """
    for key, what in _NOT_DENSE.items():
        if values.get(key):
            raise ModelError(
                f"{where}: this Gemma 4 has {what} ({key} is {shown(values[key])}); expected a "
                "dense one without: take gemma4_31b, or a Gemma 3 of its size"
            )


def shown(value: Any) -> str:
    """A value of any size as an error shows it."""
    if isinstance(value, list | dict | tuple) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value) if not isinstance(value, str) else repr(value[:64])
    return text if len(text) <= 60 else f"{text[:57]}..."


def _found(values: Mapping[str, Any], key: str, default: Any, where: str) -> Any:
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise ModelError(f"{where}: {key} is missing; fetch the file again")
    return value
