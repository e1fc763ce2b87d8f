"""Importing a library without what it would bring along and we do not use.

`import scann` takes 8 s and 810 MB, because it also loads TensorFlow for an interface of its own
beside the one we call; without, 0.4 s and 35 MB. `import bm25s` runs a JAX function, which takes
hold of the accelerators of a process that may never use JAX.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Inside, those of these modules that are not loaded yet look as if they were not installed.

    For the import of a library that takes their absence for an answer. Another thread that imports
    one of them in the same moment fails with ImportError.
    """
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python spells "not there"
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
