"""A small package as source text, for the tests of everything that reads packages."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "toy/__init__.py": '''
        """Toy: small tools for tests of larger ones."""
        from toy._src.scaling import scale, Scaler as Scaler
        from toy._src.scaling import scale as rescale
        from toy import extras
        from toy._src import private_module
        import os
        double = extras.twice
    ''',
    "toy/_src/__init__.py": "",
    "toy/_src/private_module.py": '''
        def hidden():
            """Is never offered under any public name at all."""
    ''',
    "toy/_src/scaling.py": '''
        """Scaling."""
        import functools
        import math
        from typing import overload

        _UNSET = object()

        @overload
        def scale(value: int) -> int: ...

        def scale(value, factor=2.0, *, offset=_UNSET, **rest):
            r"""Multiplies a value by a factor and adds an offset to it.

            Longer explanation with :func:`toy.scale` and ``code``, see [1]_.

            Args:
              value: number to be scaled.
              factor (float): What the value is multiplied with. Defaults to 2.0.
              offset: Added after the multiplication. Can be negative.
              missing: Documented, but not a parameter.

            Returns:
              The scaled value as a number.

            Raises:
              ValueError: If the value is not finite.

            Examples:
              >>> import toy
              >>> toy.scale(3, factor=4)
              12
            """
            if not math.isfinite(value):
                raise ValueError(value)
            return value * factor

        class Scaler:
            """Scales many values with one factor that was given before."""

            def __init__(self, factor, name="scaler"):
                """Remembers.

                Args:
                  factor: The factor that all values are multiplied with.
                  name: Shown in error messages only.
                """

            def apply(self, values, /, start=0):
                """Scales each of the values from the start position on."""

            @property
            def factor(self):
                """The factor that values are multiplied with by this object."""

            @staticmethod
            def parse(text):
                """Reads a scaler from its textual form, such as x2."""

            def _private(self):
                """Is private to the class and never shown to anyone."""
    ''',
    "toy/extras.py": '''
        """Extras that few people need but some people like."""
        from toy._src.scaling import *

        __all__ = ["twice", "Point", "old"]

        def twice(x):
            """Doubles a number by adding it to itself once.

            >>> twice(4)
            8
            >>> twice("ab")
            'abab'
            """
            return x + x

        def unlisted(x):
            """Stays out because the list of names does not name it."""

        def old(x):
            """Deprecated: use twice for all of this instead."""

        import dataclasses

        @dataclasses.dataclass
        class Point:
            """A point in the plane with two coordinates and a label.

            Attributes:
              x: Horizontal coordinate, growing to the right.
              label: What is written beside the point in drawings.
            """
            x: float
            y: float = 0.0
            label: str = "none"
    ''',
    "toy/extras_test.py": "raise SystemExit('tests are not read')",
    "toy/explodes.py": '''
        raise RuntimeError("harvesting must not import anything")

        def survives():
            """Is found although its module cannot be imported by anyone."""
    ''',
}


def write_package(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Writes the files (default: all of FILES) below `folder`, and returns it."""
    import textwrap

    for name, text in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return folder
