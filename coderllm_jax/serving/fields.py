"""The fields of a JSON object, read one by one: types and ranges, and refusals that name the field.

    fields = Fields({"temperature": 3, "tmeperature": 1})
    fields.number("temperature", 1.0, low=0, high=2)    → Refusal: temperature is 3; expected 0 to 2
    fields.end()                                        → Refusal: 'tmeperature' is no field of ...

Refusals say of a value what kind it is, and of a number how large; never what a text says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coderllm_jax.serving.refusals import Refusal


class Fields:
    """An object's fields, taken one by one; null is as good as absent.

    prefix: what stands before a field's name in an error. Whatever raises, raises Refusal.
    """

    def __init__(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        self._left = {name: value for name, value in values.items() if value is not None}
        self._prefix = prefix
        self.is_given_at_all = bool(self._left)

    def is_given(self, name: str) -> bool:
        """Whether the field says anything."""
        return name in self._left

    def take(self, name: str) -> Any:
        """The field as it is; None where it says nothing."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.take(name)
        if value is None:
            raise missing(self._prefix + name)
        if not isinstance(value, str):
            raise wrong(self._prefix + name, value, "a string")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is not said."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(self._prefix + name, value, "true or false")
        return bool(value)

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A finite number in a range, or the default."""
        value = self.take(name)
        if value is None:
            return default
        if type(value) not in (int, float):
            raise wrong(self._prefix + name, value, "a number")
        if not low <= value <= high or not math.isfinite(value):
            raise out_of_range(self._prefix + name, _shown(value), f"{low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number in a range, or the default."""
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not int:
            raise wrong(self._prefix + name, value, "a whole number")
        if not low <= value <= high:
            raise out_of_range(self._prefix + name, _shown(value), f"{low} to {high}")
        return value

    def record(self, name: str) -> Fields:
        """An object's own fields."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise wrong(self._prefix + name, value, "an object")
        return Fields(value or {}, prefix=f"{self._prefix}{name}.")

    def end(self) -> None:
        """Refuses whatever was not taken."""
        for name in self._left:
            place = (self._prefix + name).encode(errors="replace").decode()
            shown = place if len(place) <= 64 else f"{place[:64]}…"
            raise Refusal(
                400,
                f"{shown!r} is no field of this request; leave it out, or look for a misspelling",
                "unknown_parameter",
                param=shown,
            )


def missing(place: str) -> Refusal:
    """A field that must be there is not."""
    return Refusal(400, f"{place} is missing; add it", "missing_required_parameter", param=place)


def wrong(place: str, value: Any, expected: str) -> Refusal:
    """A field has another type than it should."""
    return Refusal(
        400, f"{place} is {kind_of(value)}; expected {expected}", "invalid_type", param=place
    )


def out_of_range(place: str, found: str, expected: str) -> Refusal:
    """A field has the right type and cannot be used."""
    return Refusal(400, f"{place} is {found}; expected {expected}", "invalid_value", param=place)


def _shown(number: float) -> str:
    shown = str(number) if -1e15 < number < 1e15 else "very large"
    return shown if len(shown) <= 24 else "out of range"


def kind_of(value: Any) -> str:
    """What JSON calls it; never the value itself, which may be private."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "an object")


def check_text(text: str, place: str) -> str:
    """The text itself, if UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(
            400,
            f"{place} holds half of a surrogate pair; expected Unicode text",
            "invalid_value",
            param=place,
        ) from None
    return text
